"""DETR proposals: any object-detection model of transformers, by id, by folder, or one of `bench train`.

DETR (Carion et al., ECCV 2020) and its successors predict a set of boxes, so there is no suppression; but RT-DETR,
D-FINE and Deformable DETR rank pairs of query and class, and a box can come under several classes: its best stays.
Images are resized as the model's own processor says, but never padded: those that come out the same size share a
forward pass, so an image's boxes do not depend on its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from pydantic import Field
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, RTDetrImageProcessor
from transformers.image_utils import SizeDict

from bench.errors import WeightsError
from bench.grounding import Boxes, ImageArray, LoadedScene, PipelineContext
from bench.hashing import sha256_file
from pipelines import hub, weights
from pipelines.engine import in_groups, to_device
from pipelines.folding import fold_norms
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, ProposerOptions, opener

FORMAT = "bench-detr"
# Architectures that define each norm right after the convolution that it follows, which folding goes by; tested.
FOLDED = {"detr", "conditional_detr", "rt_detr_v2", "d_fine"}
ASPECT = 30  # of one side to the other, beyond which an image is widened


def best_classes(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choose each query's best class of (B, Q, C + 1), the last being none -> scores, classes, queries (B, Q)."""
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    return scores, labels, torch.arange(logits.shape[1], device=logits.device).expand_as(labels)


def best_pairs(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the best Q pairs of a query and a class of (B, Q, C) -> scores, classes, queries (B, Q)."""
    scores, index = logits.sigmoid().flatten(1).topk(logits.shape[1])
    return scores, index % logits.shape[2], index // logits.shape[2]


# Processors that are followed step by step, for a batch at once; every other one is called.
SCORES = {"DetrImageProcessor": best_classes, "RTDetrImageProcessor": best_pairs}


class DetrOptions(ProposerOptions):
    """[pipelines.*.proposer]. The threshold is low: a ranker needs recall, not precision."""

    weights: str = Field("facebook/detr-resnet-50", description="an id of the hub, a folder, or a file of bench train")
    confidence: float = Field(0.1, ge=0, le=1)


class DetrProposer(Proposer):
    """Boxes of a detection transformer for many images at once."""

    def __init__(self, options: DetrOptions, context: PipelineContext) -> None:
        self.options = options
        self.device = torch.device(context.device)
        # Half precision on a GPU only, and never bfloat16: its eight bits put a box's edge up to a pixel aside.
        self.half = self.device.type == "cuda" and context.dtype != "float32"
        how = "name a file of `bench train`, a folder, or an id of the hub"
        published = not options.weights.endswith(".safetensors")
        path = weights.find_local(options.weights, context, how, published)
        if path is not None:
            self.model, self.processor = read_model(path)
            self.sha256 = {path.name: sha256_file(path)}
        else:
            self.processor = hub.load_pretrained(AutoImageProcessor, options.weights, context, "DETR proposals")
            self.model = hub.load_model(AutoModelForObjectDetection, options.weights, context, "DETR proposals")
            self.sha256 = hub.hashes(options.weights, context)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.names: Mapping[int, str] = self.model.config.id2label
        self.model.eval()
        if context.acceleration.fold and self.model.config.model_type in FOLDED:
            fold_norms(self.model)
        self.model = self.model.to(self.device)
        self.accelerated = context.acceleration.apply(self.model, dtype=self.half)

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """Return one `Proposals` for each scene's image, RGB uint8 (H, W, 3)."""
        images, prepared = [scene.image for scene in scenes], [scene.prepared for scene in scenes]
        if any(one is None for one in prepared):
            prepared = in_groups(images, lambda image: image.shape, self._pixels)
        return in_groups(list(zip(prepared, images, strict=True)), lambda image: image[0].shape, self._detect)

    def prepare(self, image: ImageArray) -> Tensor | None:
        """Resize and normalise an image -> (3, h, w); None on a GPU."""
        return self._pixels([image])[0] if self.device.type == "cpu" else None

    def _pixels(self, images: Sequence[ImageArray]) -> Sequence[Tensor]:
        """Resize images of one size, RGB uint8 (H, W, 3), on the device -> (3, h, w) each, the model's input."""
        tensor = to_device(torch.from_numpy(np.stack(images)), self.device).permute(0, 3, 1, 2).contiguous()
        # Processors that keep the aspect give very thin images no pixel; widened, their boxes are the same shares.
        height, width = images[0].shape[:2]
        times = max(height, width) // (ASPECT * min(height, width)) + 1
        tensor = tensor.repeat_interleave(times, dim=2 if height < width else 3) if times > 1 else tensor
        own = self.processor
        if type(own).__name__ not in SCORES:
            out = own(images=list(tensor), input_data_format="channels_first", do_pad=False, return_tensors="pt")
            return out["pixel_values"]  # type: ignore[no-any-return]
        # The processor's own steps for all at once: its call checks, copies and stacks image by image.
        if own.do_resize:
            size = own.size if isinstance(own.size, SizeDict) else SizeDict(**own.size)
            tensor = own.resize(tensor, size=size, resample=own.resample)
        normal = own.do_normalize, tuple(own.image_mean), tuple(own.image_std)  # which it keeps by their hash
        return own.rescale_and_normalize(tensor, own.do_rescale, own.rescale_factor, *normal)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _detect(self, images: Sequence[tuple[Tensor, ImageArray]]) -> list[Proposals]:
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            out = self.model(pixel_values=torch.stack([pixels for pixels, _ in images]))
        out.logits, out.pred_boxes = out.logits.float(), out.pred_boxes.float()
        tables = [table[table[:, 4] > self.options.confidence] for table in self._tables(out)]
        return [self._in_pixels(table, image) for table, (_, image) in zip(tables, images, strict=True)]

    def _tables(self, out: Any) -> Sequence[Boxes]:
        """Compute rows x1, y1, x2, y2 in shares of the sides, score, class of each image; one copy from the device."""
        scores_of = SCORES.get(type(self.processor).__name__)
        if scores_of is None:
            # Without target sizes the boxes come as shares of the sides, and are scaled in float64.
            answers = self.processor.post_process_object_detection(out, threshold=self.options.confidence)
            columns = [torch.cat([a["boxes"], a["scores"][:, None], a["labels"][:, None]], dim=1) for a in answers]
            return np.split(torch.cat(columns).double().cpu().numpy(), np.cumsum([len(c) for c in columns])[:-1])
        scores, labels, queries = scores_of(out.logits)  # (B, K) each
        boxes = out.pred_boxes.take_along_dim(queries[..., None], dim=1)
        corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)
        table = torch.cat([corners.double(), scores[..., None], labels[..., None]], dim=-1)
        return list(table.cpu().numpy())

    def _in_pixels(self, table: Boxes, image: ImageArray) -> Proposals:
        """Make proposals of rows (N, 6): x1, y1, x2, y2 in shares of the sides, score, class."""
        height, width = image.shape[:2]
        labels = tuple(self.names.get(int(c), "") for c in table[:, 5])
        return self.options.tidied(Proposals(table[:, :4] * [width, height, width, height], table[:, 4], labels), image)


open_detr = opener(DetrOptions, DetrProposer)


def read_model(path: Path) -> tuple[Any, Any]:
    """Read a model of `bench train` and its processor from a .safetensors. Raises WeightsError.

    Its metadata has the configuration, and the processor's or the side of the square that images are squashed to.
    """
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: expected a .safetensors of `bench train`; for other weights name their folder")
    state, metadata = weights.read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: not a detector of `bench train` (its metadata has no format {FORMAT!r})")
    model = build(metadata["config"])
    weights.load_strictly(model, state, str(path))
    if "processor" not in metadata:
        return model, square(metadata["image_size"])
    name = metadata["processor"].get("image_processor_type")
    kind = getattr(transformers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.BaseImageProcessor)):
        raise WeightsError(f"{path}: its metadata names {name!r}, which is no image processor of transformers")
    return model, kind.from_dict(metadata["processor"])


def write_model(path: Path, model: Any, processor: Any, metadata: Mapping[str, Any]) -> None:
    """Write a file that `read_model` opens: float16 weights, configuration and processor in the metadata."""
    own = {"format": FORMAT, "config": table_of(model), "processor": json.loads(processor.to_json_string())}
    weights.write_safetensors(path, model.state_dict(), own | dict(metadata))


def build(config: Mapping[str, Any]) -> Any:
    """Build the architecture of a configuration (`model_type` and its fields), with random weights."""
    return AutoModelForObjectDetection.from_config(AutoConfig.for_model(**config))


def table_of(model: Any) -> dict[str, Any]:
    """Return a model's configuration as `build` takes it; the backbone's weights come with the model's."""
    table: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return table | {"use_pretrained_backbone": False} if "use_pretrained_backbone" in table else table


def square(side: int) -> RTDetrImageProcessor:
    """Make a processor like RT-DETR's: squashed to a square, values in 0..1, not normalised."""
    return RTDetrImageProcessor(size={"height": side, "width": side})
