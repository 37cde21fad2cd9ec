"""Training HiVG in stages: box, contrastive, region-text and mask losses over low-rank adapters (recipe.py).

Numbers are those of the official code (Xiao et al., ACM MM 2024, sections 3.3 and 3.4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import SettingsError
from bench.settings import parse_table, takes
from bench.training.stages import StagedTraining
from bench.training.task import GrounderTask, ParameterGroup, TaskFactory, TrainingJob
from pipelines import layers
from pipelines.canvas import covered, normalised
from pipelines.hivg import checkpoint, pipeline
from pipelines.hivg.network import PAD, HiVG
from pipelines.hivg.recipe import HiVGTraining, start
from pipelines.mask_rows import MaskBatch, MaskRows, collate_masked, dice, focal, refuse_flips, refuse_without_masks
from pipelines.two_stage.clip.encoder import cut_note

HEADS = {"region": "visu_token_", "mask": "seg_conv"}  # of no use without their losses
TOWER = re.compile(r"clip\.(text|vision)_model\.encoder\.layers\.(\d+)\.self_attn\..*lora_")


class HiVGTask(GrounderTask):
    """A HiVG in one stage of its training.

    A text is contrasted with the images of its forward pass, as on each GPU of the official code, so the losses of a
    pass are those of its rows: means of several passes add up, and `batch` is a part of the recipe.
    """

    Config: ClassVar[type[HiVGTraining]] = HiVGTraining
    config: HiVGTraining
    model: HiVG

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        self.config = config = parse_table(self.Config, dict(job.recipe), f"bench.toml [train.{job.context.name}]")
        shares = {"region": config.region, "mask": config.mask}
        maps = {
            f"{k}_{n}": s * w for k, s in shares.items() for n, w in (("focal", config.focal), ("dice", config.dice))
        }
        every = {"l1": config.l1, "giou": config.giou, "contrast": config.contrast, **maps}
        self.loss_weights = {name: weight for name, weight in every.items() if weight}
        refuse_flips(config.augment, job)
        if config.masks == "segmentation":
            refuse_without_masks(job, ("train",), "masks=segmentation")
        self.model = start(config, job).requires_grad_(True).to(job.context.device)
        if config.mask and not self.model.config.mask_head:
            raise SettingsError(
                f"bench.toml [train.{job.context.name}]: mask: the network has no mask head; set mask=0"
            )
        self.tokenizer = pipeline.open_tokenizer(self.model.config.context)
        tokens = self.model.config.context
        self.cut = self.count_cut(lambda text: cut_note(self.tokenizer, text, tokens), tokens)

    def dataset(self, augment: bool = True) -> MaskRows:
        """Return one sample an expression."""
        size, moves = self.model.config.image_size, self.config.augment if augment else None
        if moves is not None:
            moves.long_sides(size)  # refused here, not by a worker
        return MaskRows(self.job, size, "official", moves, self.config.masks)

    def collate(self, samples: Sequence[Any]) -> MaskBatch:
        """Join rows into a batch."""
        return collate_masked(samples)

    def losses(self, batch: MaskBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the terms of each row, (B,); and the boxes, cxcywh in 0..1 of the canvas."""
        network, weights, c = self.model, self.loss_weights, self.model.config
        assert batch.masks is not None
        # 1. Both towers, the V-L transformer, the box of [REG].
        ids, masked, text, image, classes = self.encoded(batch)
        fused = network.fuse(image, masked, text.tokens, ids == PAD)
        boxes = network.box(fused[:, 0])
        iou, _ = layers.giou(boxes, batch.targets)
        terms = {"l1": layers.l1(boxes, batch.targets), "giou": 1 - iou}
        ends = ids.argmax(dim=1)
        # 2. Each text against the images of the pass, and each image against the texts.
        if "contrast" in weights:
            logits = network.compare(classes, text.features[torch.arange(len(ids)), ends]).float()
            own = torch.arange(len(ids), device=ids.device)
            both = [F.cross_entropy(x, own, reduction="none") for x in (logits, logits.T)]
            terms["contrast"] = torch.stack(both).mean(dim=0)
        # 3. Patches against the object at their first pixels, the mask head against the whole object.
        maps = {"region": network.similarity, "mask": network.mask}
        for name in [name for name in maps if f"{name}_focal" in weights or f"{name}_dice" in weights]:
            logits, truth = maps[name](fused, ends).float(), batch.masks
            if name == "region":
                truth = truth[:, :: c.patch, :: c.patch].flatten(1)
            else:
                logits = F.interpolate(logits[:, None], size=truth.shape[1:], mode="bilinear")[:, 0]
            terms |= {f"{name}_focal": focal(logits, truth), f"{name}_dice": dice(logits, truth)}
        return terms | {"boxes": boxes, "targets": batch.targets}

    def encoded(self, batch: MaskBatch) -> tuple[Tensor, Tensor, Any, Tensor, Tensor]:
        """Encode a batch -> ids (B, L), masked patches (B, P), texts, images (B, 1 + P, d), class tokens (B, W)."""
        network, device = self.model, batch.images.device
        assert batch.edges is not None
        # 1. Inputs in float32. Each image goes alone as far as no text takes part.
        with torch.autocast(device.type, enabled=False):
            inside = covered(batch.edges, network.config.image_size)
            pixels = normalised(batch.images, inside, "official")
            masked = pipeline.masked_patches(~inside, network.side)
            ids = pipeline.padded_ids(self.tokenizer, batch.texts).to(device)
        begun = network.clip.vision_model.begin(pixels)
        if batch.owners is not None:
            begun, masked = tuple(part[batch.owners] for part in begun), masked[batch.owners]
        # 2. Texts; the official bridge takes position r // B of the text of row r % B.
        text = network.encode_text(ids)
        memories = text.memories.transpose(0, 1)  # (bridges, B, L, W)
        if self.config.bridge == "official":
            memories = memories.transpose(1, 2).reshape(memories.shape)
        image, classes = network.encode_views(begun, memories.transpose(0, 1))
        return ids, masked, text, image, classes

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return one group: all but CLIP, the bridges, and the adapters of the stage."""
        return [ParameterGroup({n: p for n, p in self.model.named_parameters() if self._is_trained(n)})]

    def _is_trained(self, name: str) -> bool:
        if not name.startswith("clip.") or ".cross_" in name:
            unused = [part for part, head in HEADS.items() if not getattr(self.config, part) and name.startswith(head)]
            return not unused
        adapter = TOWER.match(name)
        if adapter is None:
            return False
        return self.config.text_adapters if adapter[1] == "text" else int(adapter[2]) < self.config.image_adapters

    def pipeline(self) -> pipeline.HiVGPipeline:
        """Return the pipeline of the network in training."""
        options = pipeline.HiVGOptions(bridge="correct")
        return pipeline.HiVGPipeline(options, self.job.context, self.model.eval())

    def save(self, path: Path) -> None:
        """Write the network in float16, its adapters beside their matrices."""
        checkpoint.save(path, self.model, self.config.model_dump(mode="json"))

    @property
    def notes(self) -> Mapping[str, Any]:
        return {"texts_cut": self.cut}


def training(job: TrainingJob) -> HiVGTask | StagedTraining:
    """Make the training of a job: in stages, or of one stage. Raises SettingsError."""
    config = parse_table(HiVGTraining, dict(job.recipe), f"bench.toml [train.{job.context.name}]")
    stages = [{"stages": (), **stage.model_dump(mode="json")} for stage in config.stages]
    files = [name for name in (config.start_from, config.clip.pretrained, config.adapters) if name]
    return StagedTraining(job, config, stages, files, HiVGTask) if stages else HiVGTask(job)


@takes(HiVGTraining)
def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return hivg's one part."""
    return {"network": partial(training, job)}
