"""Backbones of DETR's family, without weights under official names: ResNet (torchvision), EfficientNet (timm), small.

Published backbones were trained with their batch norms frozen, so theirs are frozen here: fixed scale and shift, eps
1e-5. In timm's EfficientNets a norm and its activation are one module; freezing must keep the activation, and must not
keep timm's eps of 1e-3.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from bench.errors import UnknownName

# Blocks in each stage, and whether a block is a bottleneck of three convolutions.
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
# Channels and blocks of the last stage.
LAST = ((320, 1), (320, 2), (352, 2), (384, 2), (448, 2), (512, 3), (576, 3), (640, 4))
EFFICIENTNETS = {last: f"tf_efficientnet_b{number}" for number, last in enumerate(LAST)}
EPS = 1e-5
HEAD_WIDTH = 64  # of every published BERT and RoBERTa


class FrozenBatchNormAct2d(FrozenBatchNorm2d):  # type: ignore[misc]
    """A frozen norm followed by the activation that timm keeps inside the norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__(int(norm.num_features), eps=EPS)  # type: ignore[arg-type]
        self.drop: Any = norm.drop
        self.act: Any = norm.act

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(x)))
        return out


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(x + inner)


def small_body(widths: tuple[int, ...]) -> nn.Sequential:
    """Make a few residual blocks, for training from nothing: strides 2, 4, 8, ..., a block at each but the first."""
    stages = [down(3, widths[0])]
    for before, after in itertools.pairwise(widths):
        stages.append(nn.Sequential(down(before, after), ResidualBlock(after)))
    return nn.Sequential(OrderedDict(stages=nn.Sequential(*stages)))


def down(before: int, after: int) -> nn.Sequential:
    """Halve the image."""
    conv = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


class Backbone(nn.Module):
    """Compute features of the last stage: (B, 3, H, W) normalised image -> (B, channels, h, w)."""

    def __init__(self, name: str, widths: tuple[int, ...] = ()) -> None:
        """`widths` are the channels of the backbone "small". Raises UnknownName."""
        super().__init__()
        self.body, self.channels = _body(name, widths)
        self.stride = 2 ** len(widths) if widths else 32  # pixels of the image along each side of a cell

    def forward(self, pixels: Tensor) -> Tensor:
        out: Any = self.body(pixels)
        if isinstance(out, dict):  # torchvision's getter
            out = next(iter(out.values()))
        elif isinstance(out, list):  # timm's
            out = out[-1]
        features: Tensor = out
        return features


def _body(name: str, widths: tuple[int, ...]) -> tuple[nn.Module, int]:
    if name == "small":
        return small_body(widths), widths[-1]
    if name in RESNETS.values():
        net = getattr(torchvision.models, name)(weights=None, norm_layer=FrozenBatchNorm2d)
        return IntermediateLayerGetter(net, {"layer4": "0"}), net.fc.in_features
    if name not in timm.list_models("*efficientnet*"):
        raise UnknownName("backbone", name, ("small", *RESNETS.values(), *timm.list_models("tf_efficientnet_b?")))
    body: Any = timm.create_model(name, pretrained=False, features_only=True, out_indices=(4,))
    return freeze_norms(body), body.feature_info.channels()[-1]


def freeze_norms(module: nn.Module) -> nn.Module:
    """Replace every BatchNormAct2d of a timm model by a frozen one that keeps its activation."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNormAct2d(child))
        else:
            freeze_norms(child)
    return module


def count_modules(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count the numbers that follow `prefix` in the keys."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})


def text_encoder_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, int]:
    """Find the sizes of the BERT or RoBERTa whose keys begin with `prefix`, as its config has them. Raises KeyError."""
    words, width = state[f"{prefix}embeddings.word_embeddings.weight"].shape
    return {
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": count_modules(state, f"{prefix}encoder.layer."),
        "num_attention_heads": max(1, width // HEAD_WIDTH),  # it leaves no trace in the shapes
        "intermediate_size": len(state[f"{prefix}encoder.layer.0.intermediate.dense.weight"]),
        "max_position_embeddings": len(state[f"{prefix}embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(state[f"{prefix}embeddings.token_type_embeddings.weight"]),
    }


def backbone_of(state: Mapping[str, Tensor], body: str) -> tuple[str, tuple[int, ...]]:
    """Find a backbone's name and, of "small", its widths from the keys and shapes under `body`. Raises ValueError."""
    if f"{body}conv_stem.weight" in state:
        return _efficientnet(state, body), ()
    firsts = (f"{body}stages.0.0.weight", *(f"{body}stages.{i}.0.0.weight" for i in range(1, 8)))
    if widths := tuple(len(state[key]) for key in firsts if key in state):
        return "small", widths
    blocks = tuple(count_modules(state, f"{body}layer{stage}.") for stage in (1, 2, 3, 4))
    name = RESNETS.get((blocks, f"{body}layer1.0.conv3.weight" in state))
    if name is None:
        raise ValueError(f"no known backbone under {body}: a ResNet of {blocks} blocks is none")
    return name, ()


def _efficientnet(state: Mapping[str, Tensor], body: str) -> str:
    """Tell B0 to B7 apart by the channels and the blocks of the last stage."""
    projection = body.removesuffix("backbone.0.body.") + "input_proj.weight"
    last = (state[projection].shape[1], count_modules(state, f"{body}blocks.6."))
    if last not in EFFICIENTNETS:
        raise ValueError(
            f"no known backbone under {body}: no EfficientNet ends in {last[1]} blocks of {last[0]} channels"
        )
    return EFFICIENTNETS[last]
