"""Masks from a segmentation model of transformers, of either of two families:

    promptable   SAM, SAM 2, SAM 2.1, SAM-HQ: everything that a grid of points brings up, without names
                 (the library's own "mask-generation")
    universal    Mask2Former, MaskFormer, EoMT, DETR's panoptic models: things and stuff with names, panoptic

Images go through one at a time: these models are far beyond the size where a batch is what makes a GPU busy, and no
image is padded to the size of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from transformers import AutoConfig, AutoImageProcessor, AutoModelForMaskGeneration, AutoModelForUniversalSegmentation
from transformers import MaskGenerationPipeline as MaskGeneration
from transformers.models.auto.modeling_auto import MODEL_FOR_MASK_GENERATION_MAPPING_NAMES as PROMPTABLE
from transformers.models.auto.modeling_auto import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES as UNIVERSAL

from bench.errors import WeightsError
from bench.grounding import ImageArray, LoadedScene, PipelineContext
from bench.settings import Table
from pipelines import hub
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, ProposerOptions, opener
from pipelines.two_stage.segments.segmentation import boxes_of_masks

NEEDS_A_TEXT = frozenset({"oneformer", "videomt"})  # a task prompt, or a video: not what is asked here


class MaskOptions(Table):
    """[pipelines.*.segments.masks], and the part of [pipelines.*.proposer] with kind = "masks" that says which."""

    weights: str = Field("facebook/sam2.1-hiera-tiny", description="an id of the hub, or a local folder")
    threshold: float = Field(0.5, ge=0, le=1, description="universal models: lowest score of a segment")
    overlap: float = Field(
        0.8, ge=0, le=1, description="universal models: share of its mask that a segment must not lose to better ones"
    )
    points: int = Field(32, ge=1, description="promptable models: points along each side of the grid")
    predicted_iou: float = Field(0.88, ge=0, le=1, description="promptable models: lowest quality by their own word")
    stability: float = Field(0.95, ge=0, le=1, description="promptable models: lowest IoU of a mask cut high and low")
    points_at_once: int = Field(64, ge=1, description="promptable models: prompts in one forward pass of the decoder")


class MaskModel:
    """Masks of an image, largest score first."""

    def __init__(self, options: MaskOptions, context: PipelineContext) -> None:
        """Raises WeightsError: not there, not complete, or no model that makes masks."""
        self.options, self.device = options, torch.device(context.device)
        self._context = context
        what = "masks"
        config = hub.load_pretrained(AutoConfig, options.weights, context, what)
        known = sorted((PROMPTABLE.keys() | UNIVERSAL.keys()) - NEEDS_A_TEXT)
        if config.model_type not in known:
            raise WeightsError(
                f"{what}: {options.weights} is a {config.model_type!r}, which makes no masks of an image alone; "
                f"one of {', '.join(known)} is needed"
            )
        self.promptable = config.model_type in PROMPTABLE
        auto = AutoModelForMaskGeneration if self.promptable else AutoModelForUniversalSegmentation
        self.model = hub.load_model(auto, options.weights, context, what)
        self.processor = hub.load_pretrained(AutoImageProcessor, options.weights, context, what)
        self.sha256: Mapping[str, str] = hub.hashes(options.weights, context)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        # A promptable model is asked about many points once its encoder has looked.
        looks = [self.model.vision_encoder] if self.promptable else None
        self.accelerated = context.acceleration.apply(self.model, looks)
        if not self.promptable:
            self._cut = self.processor.post_process_panoptic_segmentation
        else:
            self._generate = MaskGeneration(
                model=self.model, image_processor=self.processor, device=self.device, framework="pt"
            )

    @torch.inference_mode()
    def find(self, image: ImageArray) -> Proposals:
        """RGB uint8 (H, W, 3) -> masks (N, H, W) with their boxes, scores and class names ("" where there are none)."""
        with hub.autocast(self._context):
            masks, scores, labels = (self._everything if self.promptable else self._panoptic)(image)
        seen = masks.any(axis=(1, 2))
        order = np.argsort(-scores[seen], kind="stable")
        masks, scores, labels = masks[seen][order], scores[seen][order], np.array(labels, object)[seen][order]
        return Proposals(boxes_of_masks(masks), scores, tuple(labels), masks)

    def _everything(self, image: ImageArray) -> tuple[Any, Any, list[str]]:
        options = self.options
        out = self._generate(
            Image.fromarray(image),
            points_per_batch=options.points_at_once,
            points_per_crop=options.points,
            pred_iou_thresh=options.predicted_iou,
            stability_score_thresh=options.stability,
        )
        found = [np.asarray(torch.as_tensor(mask).cpu(), bool) for mask in out["masks"]]
        masks = np.stack(found) if found else np.zeros((0, *image.shape[:2]), bool)
        return masks, out["scores"].double().cpu().numpy(), [""] * len(found)

    def _panoptic(self, image: ImageArray) -> tuple[Any, Any, list[str]]:
        inputs = self.processor(images=[image], return_tensors="pt").to(self.device)
        out = self.model(**inputs)
        size = image.shape[:2]
        # Most fuse what has one name when told which names are stuff; here every segment stays what it is.
        told = "label_ids_to_fuse" in signature(self._cut).parameters
        fuse: dict[str, Any] = {"label_ids_to_fuse": set()} if told else {}
        (found,) = self._cut(
            out,
            threshold=self.options.threshold,
            overlap_mask_area_threshold=self.options.overlap,
            target_sizes=[size],
            **fuse,
        )
        segments = found["segments_info"]
        numbers = np.array([segment["id"] for segment in segments], np.int64)
        masks = found["segmentation"].cpu().numpy().reshape(size)[None] == numbers[:, None, None]
        names = self.model.config.id2label
        labels = [str(names.get(segment["label_id"], "")) for segment in segments]
        return masks, np.array([segment["score"] for segment in segments], np.float64), labels


class MaskProposerOptions(MaskOptions, ProposerOptions):
    """[pipelines.*.proposer] with kind = "masks"."""


class MaskProposer(Proposer):
    """Boxes and masks of SAM, Mask2Former, EoMT and their like."""

    def __init__(self, options: MaskProposerOptions, context: PipelineContext) -> None:
        self.options = options
        self.model = MaskModel(options, context)
        self.sha256, self.parameters = self.model.sha256, self.model.parameters
        self.accelerated = self.model.accelerated

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """One `Proposals`, with masks (N, H, W), for each scene's image."""
        return [self.options.tidied(self.model.find(scene.image), scene.image) for scene in scenes]


open_masks = opener(MaskProposerOptions, MaskProposer)
