"""SSD proposals: torchvision's single-shot detectors with their COCO weights, a local file, or one of `bench train`.

An SSD squashes every image to one square, so all images share a forward pass and none is padded. The decoding is
class-agnostic, unlike torchvision's own: a box counts once, with its best class, because a ranker does not use the
label. It is done for the whole batch at once; torchvision loops over images and classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import batched_nms, clip_boxes_to_image

from bench.errors import WeightsError
from bench.grounding import ImageArray, LoadedScene, PipelineContext
from bench.hashing import sha256_file
from bench.settings import Table, parse_table
from pipelines import weights
from pipelines.engine import to_device
from pipelines.folding import fold_norms
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, ProposerOptions, opener

FORMAT = "bench-ssd"
PUBLISHED = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")  # torchvision's; each has weights COCO_V1
Architecture = Mapping[str, Any]  # {"plan": of a small SSD} or {"torchvision": one of its names}
CANDIDATES = 400  # boxes of an image that go into the suppression, as in torchvision's ssd300_vgg16


class SsdOptions(ProposerOptions):
    """[pipelines.*.proposer]. The threshold is low: a ranker needs recall, not precision."""

    weights: str = Field("ssd300_vgg16", description="ssd300_vgg16, ssdlite320_mobilenet_v3_large, or a file")
    confidence: float = Field(0.05, ge=0, le=1)
    nms_iou: float = Field(0.55, gt=0, le=1, description="class-agnostic")


class SsdProposer(Proposer):
    """Boxes of an SSD for many images at once."""

    def __init__(self, options: SsdOptions, context: PipelineContext) -> None:
        self.options = options
        self.device = torch.device(context.device)
        self.dtype = getattr(torch, context.dtype)
        path = weights.find(options.weights, context, f"name a file, or one of torchvision's {list(PUBLISHED)}")
        name = f"{options.weights}/{path.name}" if options.weights in PUBLISHED else path.name
        self.sha256 = {name: sha256_file(path)}
        self.model, self.names, self.architecture = read_model(path)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.model.eval()
        if context.acceleration.fold:
            fold_norms(self.model)
        self.model = self.model.to(self.device)
        self.accelerated = context.acceleration.apply(self.model, [self.model.backbone, self.model.head])

    def prepare(self, image: ImageArray) -> Tensor | None:
        """Squash and normalise an image -> (3, S, S); None on a GPU."""
        return self._pixels(image) if self.device.type == "cpu" else None

    def _pixels(self, image: ImageArray) -> Tensor:
        pixels = to_device(torch.tensor(image), self.device).permute(2, 0, 1).float() / 255
        resized: Tensor = self.model.transform([pixels])[0].tensors[0]
        return resized

    @torch.inference_mode()
    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """Return one `Proposals` for each scene's image, RGB uint8 (H, W, 3)."""
        if not scenes:
            return []
        boxes, scores, labels, which = self._candidates(scenes)
        kept = batched_nms(boxes, scores, which, self.options.nms_iou)
        columns = torch.cat([boxes, scores[:, None], labels[:, None], which[:, None]], dim=1)
        table = columns[kept].double().cpu().numpy()  # one copy
        answers = []
        for number, scene in enumerate(scenes):
            mine, (height, width) = table[table[:, 6] == number], scene.image.shape[:2]
            labels_of = tuple(self.names[int(c)] for c in mine[:, 5])
            proposals = Proposals(mine[:, :4] * [width, height, width, height], mine[:, 4], labels_of)
            answers.append(self.options.tidied(proposals, scene.image))
        return answers

    def _candidates(self, scenes: Sequence[LoadedScene]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode the likely boxes of all images: xyxy in shares of the sides (N, 4), score, class, image (N,)."""
        # 1. One forward pass, images squashed to the square and normalised.
        pixels = torch.stack([self._pixels(s.image) if s.prepared is None else s.prepared for s in scenes])
        resized = ImageList(pixels, [tuple(pixels.shape[-2:])] * len(pixels))
        head, anchors = raw_outputs(self.model, resized, self.dtype)
        # 2. The best class of each default box, and the best CANDIDATES boxes of each image.
        scores, labels = head["cls_logits"].softmax(-1)[..., 1:].max(-1)  # (B, A), without the background
        scores = torch.where(scores >= self.options.confidence, scores, -1.0)  # NaN too
        scores, best = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)  # (B, K)
        which = torch.arange(len(scenes), device=self.device)[:, None].expand_as(best)
        sure = scores >= 0
        which, best = which[sure], best[sure]
        # 3. Only these are decoded.
        boxes = self.model.box_coder.decode_single(head["bbox_regression"][which, best], anchors[best])
        height, width = resized.tensors.shape[-2:]
        boxes = clip_boxes_to_image(boxes, (height, width)) / boxes.new_tensor([width, height, width, height])
        sound = boxes.isfinite().all(dim=1)  # the suppression would spread a NaN to the other images
        return boxes[sound], scores[sure][sound], labels[which, best][sound] + 1, which[sound]


open_ssd = opener(SsdOptions, SsdProposer)


def raw_outputs(model: SSD, images: ImageList, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """Run the network up to decoding; the convolutions in `dtype`.

    Returns float32 "bbox_regression" (B, A, 4) and "cls_logits" (B, A, 1 + classes), and the default boxes (A, 4), xyxy
    pixels of the resized image.
    """
    with torch.autocast(images.tensors.device.type, dtype, enabled=dtype != torch.float32):
        maps: list[Tensor] = list(model.backbone(images.tensors).values())
        head: dict[str, Tensor] = model.head(maps)
    # The generator makes boxes of its maps' precision, which would be whole pixels at 16 bits.
    anchors: Tensor = model.anchor_generator(images, [m.float() for m in maps])[0]
    return {name: out.float() for name, out in head.items()}, anchors


def read_model(path: Path) -> tuple[SSD, tuple[str, ...], Architecture]:
    """Read an SSD, its class names with the background first, and its architecture. Raises WeightsError.

    The file is our .safetensors, with all of it in the metadata, or a state dict of one of torchvision's
    architectures, recognised by its keys.
    """
    if path.suffix == ".safetensors":
        state, metadata = weights.read_safetensors(path)
        if metadata.get("format") != FORMAT:
            raise WeightsError(f"{path}: not a detector of `bench train` (its metadata has no format {FORMAT!r})")
        architecture = {key: value for key, value in metadata.items() if key in ("plan", "torchvision")}
        model = build(architecture, len(metadata["names"]), str(path))
        weights.load_strictly(model, state, str(path))
        return model, ("", *metadata["names"]), architecture
    state = weights.read_state_dict(path)
    with torch.device("meta"):  # no time is spent on random weights
        models = {name: get_model(name, weights=None, weights_backbone=None) for name in PUBLISHED}
    name = max(PUBLISHED, key=lambda n: len(models[n].state_dict().keys() & state.keys()))
    model = models[name].to_empty(device="cpu")
    weights.load_strictly(model, state, f"{path} (read as {name})")
    return model, tuple(get_model_weights(name)["COCO_V1"].meta["categories"]), {"torchvision": name}


def write_model(
    path: Path, model: SSD, architecture: Architecture, names: Sequence[str], metadata: Mapping[str, Any]
) -> None:
    """Write a file that `read_model` opens; `names` are without the background."""
    own = {"format": FORMAT, **architecture, "names": list(names)}
    weights.write_safetensors(path, model.state_dict(), own | dict(metadata))


def build(architecture: Architecture, classes: int, where: str) -> SSD:
    """Return the network with random weights; `classes` does not count the background. Raises WeightsError."""
    if "plan" in architecture:
        return small_ssd(parse_table(SsdPlan, architecture["plan"], f"{where}: plan"), classes)
    if architecture.get("torchvision") not in PUBLISHED:
        raise WeightsError(f"{where}: its metadata names no SSD; expected a plan, or one of torchvision's {PUBLISHED}")
    model: SSD = get_model(architecture["torchvision"], weights=None, weights_backbone=None, num_classes=classes + 1)
    return model


class SsdPlan(Table):
    """The plan of a small SSD, which is stored in the metadata of the weights."""

    image_size: int = Field(192, ge=64, multiple_of=64, description="images are squashed to this square")
    stem: int = Field(16, ge=8, description="channels at stride 2; twice as many at stride 4")
    channels: tuple[int, int, int, int] = Field((64, 96, 128, 128), description="at strides 8, 16, 32 and 64")
    pyramid: int = Field(64, ge=8, description="channels of every map the head gets")
    scales: tuple[float, ...] = Field(
        (0.10, 0.19, 0.33, 0.52, 0.80), min_length=5, max_length=5, description="sides of the default boxes"
    )
    aspect: float = Field(1.5, gt=1, description="default boxes are square, this wide, and this tall")


class Pyramid(nn.Module):
    """Compute maps of `plan.pyramid` channels at strides 8, 16, 32 and 64 of (B, 3, S, S), the finest first.

    Unlike Liu et al. (ECCV 2016), the coarser maps are added back into the finer ones (Lin et al., Feature Pyramid
    Networks, CVPR 2017): a network this shallow needs it to tell a part of a large object from a small object.
    """

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
    """Build the network with random weights; `classes` does not count the background, class 0 of its logits."""
    boxes = DefaultBoxGenerator([[plan.aspect]] * len(plan.channels), scales=list(plan.scales))
    size = (plan.image_size, plan.image_size)
    return SSD(Pyramid(plan), boxes, size, classes + 1, image_mean=[0.5] * 3, image_std=[0.25] * 3)


def _conv(before: int, after: int, stride: int = 1, active: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers, nn.SiLU()) if active else nn.Sequential(*layers)
