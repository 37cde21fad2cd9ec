"""Masks from a segmentation model of transformers, of either of two families:

    promptable   SAM, SAM 2, SAM 2.1, SAM-HQ: every mask that a grid of points yields, without names
                 (the library's own "mask-generation")
    universal    Mask2Former, MaskFormer, EoMT, DETR's panoptic models: things and stuff with COCO's names, panoptic

Images go through one at a time: these models keep a GPU busy without a batch, and no image is padded to another's size.
As a proposer (`kind = "masks"`) the masks and their boxes are proposals that are exact to the pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from bench.settings import Table, parse_table, takes
from pipelines import hub
from pipelines.two_stage.proposers.proposals import Proposals, ProposerOptions, SceneProposer
from pipelines.two_stage.segments.segmentation import boxes_of_masks

NEEDS_A_TEXT = frozenset({"oneformer", "videomt"})  # as well as an image, or a video


class MaskOptions(Table):
    """[pipelines.*.segments.masks], and the part of [pipelines.*.proposer] with kind = "masks" that says which."""

    weights: str = Field("facebook/sam2.1-hiera-tiny", description="an id of the hub, or a local folder")
    threshold: float = Field(0.5, ge=0, le=1, description="universal models: lowest score of a segment")
    overlap: float = Field(
        0.8, ge=0, le=1, description="universal models: share of its mask that a segment must not lose to better ones"
    )
    points: int = Field(32, ge=1, description="promptable models: points along each side of the grid")
    predicted_iou: float = Field(0.88, ge=0, le=1, description="promptable models: lowest quality, as they predict it")
    stability: float = Field(0.95, ge=0, le=1, description="promptable models: lowest IoU of a mask cut high and low")
    points_at_once: int = Field(64, ge=1, description="promptable models: prompts in one forward pass of the decoder")


class MaskModel:
    """Masks of an image, largest score first."""

    def __init__(self, options: MaskOptions, context: PipelineContext) -> None:
        """Open a model. Raises WeightsError: missing, not complete, or no model that makes masks."""
        self.options, self.device = options, torch.device(context.device)
        self._context = context
        config = hub.load_pretrained(AutoConfig, options.weights, context, "masks")
        known = sorted((PROMPTABLE.keys() | UNIVERSAL.keys()) - NEEDS_A_TEXT)
        if config.model_type not in known:
            raise WeightsError(
                f"masks: {options.weights} is a {config.model_type!r}, which makes no masks of an image alone; "
                f"one of {', '.join(known)} is needed"
            )
        self.promptable = config.model_type in PROMPTABLE
        auto = AutoModelForMaskGeneration if self.promptable else AutoModelForUniversalSegmentation
        self.model = hub.load_model(auto, options.weights, context, "masks")
        self.processor = hub.load_pretrained(AutoImageProcessor, options.weights, context, "masks")
        self.sha256: Mapping[str, str] = hub.hashes(options.weights, context)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        # A promptable model runs its encoder once, and its small decoder for many points.
        modules = [self.model.vision_encoder] if self.promptable else None
        self.accelerated = context.acceleration.apply(self.model, modules)
        if not self.promptable:
            self._cut = self.processor.post_process_panoptic_segmentation
        else:
            self._generate = MaskGeneration(
                model=self.model, image_processor=self.processor, device=self.device, framework="pt"
            )

    @torch.inference_mode()
    def find(self, image: ImageArray) -> Proposals:
        """Segment RGB uint8 (H, W, 3) -> masks (N, H, W), boxes, scores and class names ("" where there are none)."""
        with hub.autocast(self._context):
            masks, scores, labels = (self._everything if self.promptable else self._panoptic)(image)
        visible = np.flatnonzero(masks.any(axis=(1, 2)))
        order = visible[np.argsort(-scores[visible], kind="stable")]
        masks, scores, labels = masks[order], scores[order], [labels[i] for i in order]
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
        masks = [np.asarray(torch.as_tensor(mask).cpu(), bool) for mask in out["masks"]]
        stacked = np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), bool)
        return stacked, out["scores"].double().cpu().numpy(), [""] * len(masks)

    def _panoptic(self, image: ImageArray) -> tuple[Any, Any, list[str]]:
        inputs = self.processor(images=[image], return_tensors="pt").to(self.device)
        out = self.model(**inputs)
        size = image.shape[:2]
        # Most can fuse segments of one name, where the name is stuff; here every segment stays what it is.
        can_fuse = "label_ids_to_fuse" in signature(self._cut).parameters
        fuse: dict[str, Any] = {"label_ids_to_fuse": set()} if can_fuse else {}
        (result,) = self._cut(
            out,
            threshold=self.options.threshold,
            overlap_mask_area_threshold=self.options.overlap,
            target_sizes=[size],
            **fuse,
        )
        segments = result["segments_info"]
        numbers = np.array([segment["id"] for segment in segments], np.int64)
        masks = result["segmentation"].cpu().numpy().reshape(size)[None] == numbers[:, None, None]
        names = self.model.config.id2label
        labels = [str(names.get(segment["label_id"], "")) for segment in segments]
        return masks, np.array([segment["score"] for segment in segments], np.float64), labels


class MaskProposerOptions(MaskOptions, ProposerOptions):
    """[pipelines.*.proposer] with kind = "masks"."""


@takes(MaskProposerOptions)
def open_masks(table: Mapping[str, Any], where: str, context: PipelineContext) -> SceneProposer:
    """Open SAM, Mask2Former, EoMT and their like as a proposer of boxes with masks."""
    options = parse_table(MaskProposerOptions, table, where)
    model = MaskModel(options, context)

    def propose(scene: LoadedScene) -> Proposals:
        return options.tidied(model.find(scene.image), scene.image)

    return SceneProposer("MaskProposer", propose, model.sha256, model.parameters, model.accelerated)
