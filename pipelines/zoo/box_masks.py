"""Masks for any pipeline's boxes: SAM or SAM 2 through transformers, with the box as the prompt.

    bench run --pipeline yolo-clip --set masks=sam2

An image is encoded once, and all boxes of its expressions pass the small decoder together; expressions with one box
share a mask. Boxes and scores stay the pipeline's own, and a query without a box gets no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from transformers import AutoImageProcessor, AutoModelForMaskGeneration

from bench.boxes import clip_xyxy
from bench.errors import WeightsError
from bench.grounding import Box, ImageArray, LoadedScene, Mask, Pipeline, PipelineContext, Prediction
from bench.masks import encode
from bench.settings import Table, parse_table, takes
from pipelines import hub
from pipelines.zoo.images import for_processor

FAMILY = ("sam", "sam2", "sam2_video")  # a checkpoint of SAM 2 is of the last type
PASSED_ON = ("prepare", "caches", "failed_scenes")  # what a pipeline may offer beside `ground`


class BoxMaskOptions(Table):
    """[pipelines.*.masks] with `kind = "sam"`."""

    weights: str = Field("facebook/sam-vit-base", description="an id of the hub, or a local folder")
    boxes_at_once: int = Field(64, ge=1, description="prompts of one image in a pass of the decoder")


class Sam2Options(BoxMaskOptions):
    """[pipelines.*.masks] with `kind = "sam2"`."""

    weights: str = Field("facebook/sam2.1-hiera-tiny", description="an id of the hub, or a local folder")


class BoxMasks:
    """A pipeline whose predictions get the mask of their box."""

    def __init__(self, pipeline: Pipeline, kind: str, options: BoxMaskOptions, context: PipelineContext) -> None:
        """Open the model around a pipeline. Raises WeightsError, also for a model of another family."""
        what = f"masks {kind!r}"
        self.processor = hub.load_pretrained(AutoImageProcessor, options.weights, context, what)
        self.model = model = hub.load_model(AutoModelForMaskGeneration, options.weights, context, what)
        if model.config.model_type not in FAMILY:
            raise WeightsError(
                f"{what}: {options.weights} is a {model.config.model_type}; one of {', '.join(FAMILY)} takes boxes here"
            )
        self.options, self.context, self.clock = options, context, context.clock
        context.acceleration.apply(model, [model.vision_encoder])
        self._pipeline = pipeline
        for name in PASSED_ON:
            if hasattr(pipeline, name):
                setattr(self, name, getattr(pipeline, name))
        if launch := getattr(pipeline, "launch", None):
            self.launch = lambda batch: self._finishing(batch, launch(batch))
        card, own = pipeline.card, sum(p.numel() for p in model.parameters())
        self.card = replace(
            card,
            summary=f"{card.summary}; masks of the boxes by {kind}",
            weights={**card.weights, "masks": options.weights},
            sha256={**card.sha256, **hub.hashes(options.weights, context)},
            parameters=None if card.parameters is None else card.parameters + own,
        )

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Ground every query by the pipeline, and add the masks of its boxes."""
        return self._masked(batch, self._pipeline.ground(batch))

    def _finishing(
        self, batch: Sequence[LoadedScene], finish: Callable[[], list[Prediction]]
    ) -> Callable[[], list[Prediction]]:
        return lambda: self._masked(batch, finish())

    def _masked(self, batch: Sequence[LoadedScene], predictions: Sequence[Prediction]) -> list[Prediction]:
        rest = iter(predictions)
        out: list[Prediction] = []
        for scene in batch:
            own = [prediction for _, prediction in zip(scene.queries, rest, strict=False)]
            boxes = [_usable(p.box, scene.image) for p in own]
            with self.clock.stage("masks"):
                masks = self.segment(scene.image, list(dict.fromkeys(box for box in boxes if box is not None)))
            out += [replace(p, mask=masks.get(box) if box else None) for p, box in zip(own, boxes, strict=True)]
        return [*out, *rest]  # too many are somebody's fault, which the harness names

    @torch.inference_mode()
    def segment(self, image: ImageArray, boxes: Sequence[Box]) -> dict[Box, Mask]:
        """Segment xyxy boxes inside an image, RGB uint8 (H, W, 3) -> the mask of each."""
        if not boxes:
            return {}
        height, width = image.shape[:2]
        pil_image = for_processor(image)
        inputs = self.processor(images=pil_image, return_tensors="pt").to(self.context.device)
        # SAM keeps an image's shape and pads it, SAM 2 stretches it to a square.
        keeps = "reshaped_input_sizes" in inputs
        h, w = inputs["reshaped_input_sizes"][0].tolist() if keeps else inputs["pixel_values"].shape[-2:]
        scale = torch.tensor([w / pil_image.width, h / pil_image.height] * 2, dtype=torch.float64)
        prompts = (torch.tensor(boxes, dtype=torch.float64) * scale).float().to(self.context.device)
        sizes = [inputs["original_sizes"].cpu(), *([inputs["reshaped_input_sizes"].cpu()] if keeps else [])]
        masks: dict[Box, Mask] = {}
        with hub.autocast(self.context):
            features = self.model.get_image_embeddings(inputs["pixel_values"])
            for start in range(0, len(boxes), self.options.boxes_at_once):
                some = slice(start, start + self.options.boxes_at_once)
                out = self.model(image_embeddings=features, input_boxes=prompts[None, some], multimask_output=False)
                (inside,) = self.processor.post_process_masks(out.pred_masks.float().cpu(), *sizes)  # (B, 1, H, W)
                cut = np.asarray(inside[:, 0, :height, :width], np.bool_)
                masks |= zip(boxes[some], map(encode, cut), strict=True)
        return masks


def _usable(box: Box | None, image: ImageArray) -> Box | None:
    """Return a box clipped to its image; None where nothing is left of it."""
    if box is None or not np.isfinite(box).all():
        return None
    x1, y1, x2, y2 = np.asarray(clip_xyxy(box, image.shape[1], image.shape[0]), np.float64).tolist()
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


@takes(BoxMaskOptions)
def open_sam(pipeline: Pipeline, table: Mapping[str, Any], where: str, context: PipelineContext) -> BoxMasks:
    """Open SAM around a pipeline. Raises SettingsError, WeightsError."""
    return BoxMasks(pipeline, "sam", parse_table(BoxMaskOptions, table, where), context)


@takes(Sam2Options)
def open_sam2(pipeline: Pipeline, table: Mapping[str, Any], where: str, context: PipelineContext) -> BoxMasks:
    """Open SAM 2 around a pipeline. Raises SettingsError, WeightsError."""
    return BoxMasks(pipeline, "sam2", parse_table(Sam2Options, table, where), context)
