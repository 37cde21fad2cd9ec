"""Training the detectors of two-stage pipelines: DETR by transformers' losses, SSD by torchvision's.

Both fine-tune: they go on from any weights that their proposer opens, by default from those that the pipeline uses.
"""

from __future__ import annotations

import inspect
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from bench.acceleration import Acceleration
from bench.errors import SettingsError
from bench.grounding import ImageArray
from bench.settings import parse_table
from bench.training.config import TrainConfig
from bench.training.optimiser import decay_split
from bench.training.task import ParameterGroup, TrainingJob, TrainTask
from pipelines import weights
from pipelines.two_stage.proposers import detr, ssd
from pipelines.two_stage.proposers.objects import (
    Objects,
    Sample,
    SceneSamples,
    class_names,
    collate,
    object_dataset,
    recall,
)
from pipelines.two_stage.proposers.proposals import open_proposer

log = logging.getLogger("bench.train")


class DetectorTraining(TrainConfig):
    """[train.NAME.detector]: the keys of all detectors, with DETR's name (Carion et al., ECCV 2020)."""

    name: str = Field("detr", pattern=r"^[\w.-]+$")
    start_from: str = Field("", description="weights that the proposer opens; empty = the pipeline's")
    scenes: int = Field(0, ge=0, description="images of the split to train on; 0 = all")
    batch: int = Field(16, ge=1, description="images in a step")
    adapt: Literal["accumulate", "scale", "off"] = "off"
    weight_decay: float = Field(1e-4, ge=0)
    schedule_by: Literal["epoch", "step"] = "step"
    clip_norm: float = Field(0.1, ge=0)
    backbone_share: float = Field(0.1, ge=0, le=1, description="of the learning rate, for the backbone; 0 = frozen")
    keep_images: bool = Field(False, description="in memory, resized: for splits that fit")


class DetectorTask(TrainTask):
    """A detector in training.

    Its losses are normalised by the objects of the whole batch (matched queries, positive default boxes), and batch
    normalisation takes all of it too: scope "batch".
    """

    Config: ClassVar[type[DetectorTraining]] = DetectorTraining
    kind: ClassVar[str]  # of the proposer
    backbone: ClassVar[str]  # prefix of its parameters
    loss_scope = "batch"
    metric = "recall@0.5"
    config: DetectorTraining
    model: Any  # the proposer's

    def __init__(self, job: TrainingJob) -> None:
        where = f"bench.toml [train.{job.context.name}.detector]"
        config = parse_table(self.Config, dict(job.recipe), where)
        start = config.start_from or job.context.options.get("proposer", {}).get("weights")
        if not start:
            raise SettingsError(f"{where}: `start_from` must name the weights to go on from")
        self.config = config = config.model_copy(update={"start_from": start})
        super().__init__(replace(job, scenes=job.scenes[: config.scenes or None]))
        # 1. The weights as the proposer opens them, in float32 and without its accelerations.
        context = replace(job.context, dtype="float32", acceleration=Acceleration(fold=False))
        proposer: Any = open_proposer({"kind": self.kind, "weights": start}, where, context)
        self.sha256: Mapping[str, str] = proposer.sha256
        # 2. Their classes where they cover all of the split's; else a new classification head for the split's.
        needed, known = class_names(self.job.scenes), self._known(proposer)
        new_head = not set(needed) <= set(known)
        self.names = needed if new_head else known
        if new_head:
            log.warning("%s: a new classification head, %s does not know all %d classes", self.kind, start, len(needed))
        torch.manual_seed(job.context.seed)
        self.device = torch.device(job.context.device)
        self.model = self._network(proposer, new_head).to(self.device)

    @abstractmethod
    def _known(self, proposer: Any) -> list[str]:
        """Return the classes that a proposer knows, by index."""

    @abstractmethod
    def _network(self, proposer: Any, new_head: bool) -> Any:
        """Return the network to train; with `new_head` one whose classes are `names`."""

    @abstractmethod
    def resized(self, image: ImageArray) -> Tensor:
        """Resize RGB uint8 (H, W, 3) to the network's input, (3, h, w) uint8."""

    def dataset(self, augment: bool = True) -> SceneSamples[Sample]:
        """Return one sample an image."""
        return object_dataset(self.job, self.names, self.resized, augment, self.config.keep_images)

    def collate(self, samples: Sequence[Sample]) -> Objects:
        """Join images into a batch."""
        return collate(samples)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return what the network itself does not freeze, the backbone at its share of the learning rate."""
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        inside = {name: p for name, p in named.items() if name.startswith(self.backbone)}
        groups = decay_split({name: p for name, p in named.items() if name not in inside})
        return groups + (decay_split(inside, self.config.backbone_share) if self.config.backbone_share else [])

    def evaluate(self, path: Path | None = None, **share: Any) -> dict[str, float]:
        """Return `recall` of the weights in training, as their file will hold them, or of the file `path`."""
        with TemporaryDirectory() as folder:
            if path is None:
                self.save(path := Path(folder) / "weights.safetensors")
            table = {"kind": self.kind, "weights": str(path.resolve()), "whole_image": False}
            return recall(open_proposer(table, "validation", self.job.context), self.job)

    @property
    def identity(self) -> Mapping[str, str]:
        return {"started from": ", ".join(digest[:12] for digest in self.sha256.values())}

    def _recipe(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")


class DetrTask(DetectorTask):
    """Any detection transformer of transformers, by its own matching and losses."""

    kind, backbone = "detr", "model.backbone"

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        self.loss_weights = {"detection": 1.0}

    def _known(self, proposer: Any) -> list[str]:
        return [proposer.names[index] for index in sorted(proposer.names)]

    def _network(self, proposer: Any, new_head: bool) -> Any:
        self.processor, model = proposer.processor, proposer.model
        self.pads = "pixel_mask" in inspect.signature(model.forward).parameters
        if not new_head:
            return model
        labels = {"id2label": dict(enumerate(self.names)), "label2id": {n: i for i, n in enumerate(self.names)}}
        return weights.load_matching(detr.build(detr.table_of(model) | labels), model.state_dict())

    def resized(self, image: ImageArray) -> Tensor:
        """Return the tensor resized by the model's own processor."""
        tensor = torch.tensor(image).permute(2, 0, 1)
        plain = {"do_rescale": False, "do_normalize": False, "do_pad": False, "return_tensors": "pt"}
        pixels: Tensor = self.processor(images=tensor, input_data_format="channels_first", **plain)["pixel_values"][0]
        return pixels

    def losses(self, batch: Objects, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the weighted sum of transformers' losses, and for the log those of the last decoder layer."""
        targets = [
            {"boxes": box_convert(boxes, "xyxy", "cxcywh").to(self.device), "class_labels": labels.to(self.device)}
            for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
        ]
        mask = {} if batch.mask is None or not self.pads else {"pixel_mask": batch.mask}
        out = self.model(pixel_values=self._normalised(batch.pixels), labels=targets, **mask)
        last = {k: v for k, v in out.loss_dict.items() if k.startswith("loss_") and not k[-1].isdigit()}
        return {"detection": out.loss.float(), **last}

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Rescale and normalise pixels, as the processor does after resizing."""
        pixels = pixels.float() * self.processor.rescale_factor if self.processor.do_rescale else pixels.float()
        if not self.processor.do_normalize:
            return pixels
        mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (self.processor.image_mean, self.processor.image_std))
        return (pixels - mean) / std

    def save(self, path: Path) -> None:
        """Write the weights in float16, with configuration and processor in the metadata."""
        detr.write_model(path, self.model, self.processor, {"recipe": self._recipe()})


class SsdTraining(DetectorTraining):
    """[train.ssd-clip.detector]."""

    name: str = Field("ssd", pattern=r"^[\w.-]+$")
    box_weight: float = Field(1.0, gt=0, description="of the box loss against the class loss")


class SsdTask(DetectorTask):
    """torchvision's SSD, by its own loss (Liu et al., ECCV 2016, section 2.2): smooth L1, and cross-entropy with three
    hard negatives for each positive."""

    Config = SsdTraining
    kind, backbone = "ssd", "backbone"
    config: SsdTraining

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        self.loss_weights = {"box": self.config.box_weight, "class": 1.0}
        self.dtype = getattr(torch, self.config.precision(self.device.type))

    def _known(self, proposer: Any) -> list[str]:
        return list(proposer.names[1:])

    def _network(self, proposer: Any, new_head: bool) -> Any:
        self.architecture, model = proposer.architecture, proposer.model
        if new_head:
            model = weights.load_matching(ssd.build(self.architecture, len(self.names), "start"), model.state_dict())
        (self.side, _) = model.transform.fixed_size
        return model.to(memory_format=torch.channels_last)

    def resized(self, image: ImageArray) -> Tensor:
        """Return the tensor squashed as torchvision's SSD does: bilinear, no antialias."""
        tensor = torch.tensor(image).permute(2, 0, 1)[None].float()
        squashed = F.interpolate(tensor, (self.side, self.side), mode="bilinear", align_corners=False)[0]
        return squashed.round().to(torch.uint8)

    def losses(self, batch: Objects, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the box and the class loss, scalars."""
        targets = [
            {"boxes": boxes.to(self.device) * self.side, "labels": labels.to(self.device) + 1}  # 0 is the background
            for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
        ]
        images, _ = self.model.transform(list(batch.pixels.float() / 255))
        head, anchors = ssd.raw_outputs(self.model, images, self.dtype)
        matched = [self.model.proposal_matcher(box_iou(target["boxes"], anchors)) for target in targets]
        terms = self.model.compute_loss(targets, head, [anchors] * len(targets), matched)
        return {"box": terms["bbox_regression"], "class": terms["classification"]}

    def save(self, path: Path) -> None:
        """Write the weights in float16, with architecture and class names in the metadata."""
        ssd.write_model(path, self.model, self.architecture, self.names, {"recipe": self._recipe()})
