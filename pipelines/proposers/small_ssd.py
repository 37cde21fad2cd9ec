"""A small SSD: torchvision's own SSD on a convolutional network of 1.5 million parameters, made from a plan.

A strided backbone gives maps at strides 8, 16, 32 and 64; unlike Liu et al. (ECCV 2016), the coarser maps are added
back into the finer ones (Lin et al., Feature Pyramid Networks, CVPR 2017), which a network this shallow needs to tell
a part of a large thing from a small thing.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from bench.settings import Table


class SsdPlan(Table):
    """What a small SSD is built from; it travels in the metadata of the weights."""

    image_size: int = Field(192, ge=64, multiple_of=64, description="pictures are squashed to this square")
    stem: int = Field(16, ge=8, description="channels at stride 2; twice as many at stride 4")
    channels: tuple[int, int, int, int] = Field((64, 96, 128, 128), description="at strides 8, 16, 32 and 64")
    pyramid: int = Field(64, ge=8, description="channels of every map the head sees")
    scales: tuple[float, ...] = Field(
        (0.10, 0.19, 0.33, 0.52, 0.80), min_length=5, max_length=5, description="sides of the default boxes"
    )
    aspect: float = Field(1.5, gt=1, description="default boxes are square, this wide, and this tall")


class Pyramid(nn.Module):
    """(B, 3, S, S) -> maps of `plan.pyramid` channels at strides 8, 16, 32 and 64, the finest first."""

    def __init__(self, plan: SsdPlan) -> None:
        super().__init__()
        widths = (2 * plan.stem, *plan.channels)
        self.stem = nn.Sequential(_conv(3, plan.stem, 2), _conv(plan.stem, widths[0], 2), Residual(widths[0]))
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(before, after, 2), Residual(after)) for before, after in pairwise(widths)
        )
        self.across = nn.ModuleList(nn.Conv2d(width, plan.pyramid, 1) for width in plan.channels)
        self.smooth = nn.ModuleList(_conv(plan.pyramid, plan.pyramid) for _ in plan.channels)
        self.out_channels = [plan.pyramid] * len(plan.channels)

    def forward(self, pixels: Tensor) -> OrderedDict[str, Tensor]:
        maps, here = [], self.stem(pixels)
        for stage, across in zip(self.stages, self.across, strict=True):
            here = stage(here)
            maps.append(across(here))
        for finer in range(len(maps) - 2, -1, -1):
            maps[finer] = maps[finer] + F.interpolate(maps[finer + 1], size=maps[finer].shape[-2:])
        return OrderedDict((str(i), smooth(m)) for i, (smooth, m) in enumerate(zip(self.smooth, maps, strict=True)))


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels, active=False))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.body(x))


def small_ssd(plan: SsdPlan, classes: int) -> SSD:
    """The network with random weights; `classes` does not count the background, which is class 0 of its logits."""
    boxes = DefaultBoxGenerator([[plan.aspect]] * len(plan.channels), scales=list(plan.scales))
    size = (plan.image_size, plan.image_size)
    return SSD(Pyramid(plan), boxes, size, classes + 1, image_mean=[0.5] * 3, image_std=[0.25] * 3)


def _conv(before: int, after: int, stride: int = 1, active: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers, nn.SiLU()) if active else nn.Sequential(*layers)
