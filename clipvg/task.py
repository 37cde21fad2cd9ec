"""Training CLIP-VG: L1 and GIoU on the box of [REG], over a frozen CLIP (paper section III-C)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import SettingsError
from bench.settings import parse_table, takes
from bench.training.task import GrounderTask, ParameterGroup, TaskFactory, TrainingJob
from clipvg.checkpoint import ClipSource, save_own
from clipvg.network import POSITIONS, ClipVG, Packing, multi_level_features, pack, text_features
from clipvg.pipeline import ClipVGOptions, ClipVGPipeline
from clipvg.recipe import ClipVGTraining, add_deconfounder, start
from pipelines import layers
from pipelines.augmentation import Augment
from pipelines.canvas import Canvas, covered, kept_patches, letterboxed, masked_patches, normalised, stacked
from pipelines.rows import CachedFeatures, RowBatch, Rows, collate, feature_caches, without_pixels
from pipelines.two_stage.clip.encoder import PAD, cut_note, open_clip, token_ids

log = logging.getLogger("bench.train")


@dataclass(frozen=True, slots=True)
class ClipVGBatch(RowBatch):
    """Rows, and on the host the patches (U, P) that are kept of each image, and each row's image (B,)."""

    patches: NDArray[np.bool_] = field(kw_only=True)
    places: NDArray[np.int64] = field(kw_only=True)


class ClipVGTask(GrounderTask):
    """A CLIP-VG in training. The text tower is frozen, so each text is encoded once."""

    Config: type[ClipVGTraining] = ClipVGTraining
    config: ClipVGTraining
    model: ClipVG
    clip: ClipSource
    cannot_group = "cache_features encodes each image once as it is"

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        where = f"bench.toml [train.{job.context.name}]"
        # 1. The config, and the network it starts from.
        self.config = config = parse_table(self.Config, dict(job.recipe), where)
        if config.cache_features and config.train_positions:
            raise SettingsError("cache_features keeps CLIP's features, which train_positions changes: switch one off")
        if config.cache_features and config.cache_images != "off":
            raise SettingsError(
                "cache_features loads each image once, so cache_images keeps it for nobody: leave one out"
            )
        self.loss_weights = {"l1": config.l1, "giou": config.giou}
        self.device = torch.device(job.context.device)
        network, self.clip, self.style = start(config, job)
        self.model = network.to(self.device)
        self.model.recompute = config.recompute
        # 2. What is frozen: CLIP's number type, and its features of texts and images.
        self.patch = self.model.config.image_size // self.model.side
        if config.precision(self.device.type) == "bfloat16" and self.device.type == "cuda":
            clip_to_bfloat16(self.model)
        self._caches()
        add_deconfounder(self.model, self.texts, config, job)

    def _caches(self) -> None:
        """The features of frozen towers, common to all trainings of a process on the same CLIP, canvas and style."""
        texts = {e.text for scene in self.job.scenes for e in scene.expressions}
        network, shared = self.model.config, self.job.shared
        key = ("clipvg", self.clip[1], network.image_size, network.taps, self.style)
        if key not in shared:
            announced = shared.get("texts", texts)
            shared[key] = feature_caches(announced, self._encode_texts)
        self.texts, self.images = shared[key]
        self.tokenizer = open_clip.get_tokenizer(network.clip)
        tokens = self.model.context
        self.cut = self.count_cut(lambda text: cut_note(self.tokenizer, text, tokens), tokens)

    def dataset(self, augment: bool = True) -> Rows | CachedFeatures:
        """Return one sample an expression."""
        config, size = self.config, self.model.config.image_size
        moves = self.augmentation if augment and not config.cache_features else None
        if moves is not None:
            moves.long_sides(size)  # refused here, not by a worker
        rows = Rows(self.job, size, self.style, moves)
        if not config.cache_features:
            return rows
        scenes = {scene.file: scene for scene in rows.scenes}
        log.info("clipvg: encoding %s images once", f"{len(scenes):,}")
        self.images.fill(
            list(scenes), lambda file: letterboxed(rows.load(scenes[file]), size, self.style), self._encode_images,
            without_pixels,
        )  # fmt: skip
        self.cached = CachedFeatures(rows, self.images)
        self.patches = kept_patches(self.images.loaded, self.patch, self.style)
        return self.cached

    @property
    def augmentation(self) -> Augment:
        """`augment`; where it leaves the crop open, clean preprocessing takes those that keep the referent."""
        augment = self.config.augment
        if self.style == "clean" and "crop" not in augment.model_fields_set:
            return augment.model_copy(update={"crop": "safe"})
        return augment

    @property
    def shorter_side(self) -> int:  # type: ignore[override]
        """What the augmentation makes of an image before it cuts a window, or the canvas where it cuts none."""
        augment = self.augmentation
        return max(augment.short_sides) if augment.crop != "off" else self.model.config.image_size

    def collate(self, samples: Sequence[Any]) -> ClipVGBatch:
        """Join rows into a batch, with what the host needs to lay out their tokens."""
        if self.config.cache_features:
            batch = self.cached.collate(samples)
            patches = self.patches[batch.images.numpy()]
        else:
            batch = collate(samples)
            assert batch.edges is not None
            padding = ~covered(batch.edges, batch.images.shape[1])
            patches = ~masked_patches(padding, self.patch, self.style).numpy()
        places = np.arange(len(samples)) if batch.owners is None else batch.owners.numpy()
        return ClipVGBatch(batch.images, batch.edges, batch.targets, batch.texts, patches=patches, places=places)

    def losses(self, batch: ClipVGBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return L1 and 1 - GIoU of each row, (B,); and the boxes, cxcywh in 0..1 of the canvas."""
        # 1. Boxes of [REG], predicted.
        register, _ = self.fused(batch, only_first=True)
        boxes = self.model.box(register)
        # 2. Both terms, a row each.
        giou, _ = layers.giou(boxes, batch.targets)
        return {"l1": layers.l1(boxes, batch.targets), "giou": 1 - giou, "boxes": boxes, "targets": batch.targets}

    def fused(self, batch: ClipVGBatch, only_first: bool) -> tuple[Tensor, Packing]:
        """Return the V-L transformer's tokens (T, d), or [REG] alone (B, d), and where they lie; none is padding."""
        network = self.model
        # 1. Inputs, and the features of frozen towers: in float32, whatever the step computes in.
        words, slots = zip(*self.texts(batch.texts), strict=True)
        packing = pack([each.numpy() for each in slots], batch.patches, batch.places, network.context).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            if batch.edges is None:
                features = self.images.tables[0][batch.images].float()
            else:
                pixels = normalised(batch.images, covered(batch.edges, batch.images.shape[1]), self.style)
        # 2. Both into the V-L transformer's space, each image once, padding left out; and fused.
        if batch.edges is not None:
            features = multi_level_features(network.clip.visual, pixels, network.config.taps, network.recompute)
        image = network.project(features.flatten(0, 1).index_select(0, packing.image))
        text = network.project_text(torch.cat(words))
        return network.fuse_packed(torch.cat([text, image.to(text.dtype)]), packing, only_first), packing

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return everything but CLIP, and of CLIP the visual position embedding."""
        trained = {
            name: p
            for name, p in self.model.named_parameters()
            if not name.startswith("clip.") or (name == POSITIONS and self.config.train_positions)
        }
        return [ParameterGroup(trained)]

    def pipeline(self) -> ClipVGPipeline:
        """Return the pipeline of the network in training."""
        return ClipVGPipeline(ClipVGOptions(), self.job.context, (self.model.eval(), self.style, self.clip))

    def options(self, path: Path) -> dict[str, Any]:
        """Return the options that open the weights, with the CLIP they were trained on."""
        return super().options(path) | {"clip": self.clip[0].model_dump()}

    def save(self, path: Path) -> None:
        """Write the trained part in float16, with the name and hash of its CLIP."""
        save_own(path, self.model, self.clip, self.style, self.config.model_dump(mode="json"))

    @property
    def identity(self) -> Mapping[str, str]:
        return {"CLIP": self.clip[1][:12]}

    @property
    def notes(self) -> Mapping[str, Any]:
        return {"texts_cut": self.cut}

    def _encode_texts(self, texts: list[str]) -> list[tuple[Tensor, Tensor]]:
        """The tokens (L, E) of each text without padding, and their slots (L,) on the host."""
        ids = token_ids(self.tokenizer, texts)
        features = text_features(self.model.clip, ids.to(self.device, non_blocking=True))
        counts, places = (ids != PAD).sum(dim=1).tolist(), (ids != PAD).flatten().nonzero().flatten()
        index = places.to(self.device, non_blocking=True)
        tokens, slots = features.flatten(0, 1).index_select(0, index), 1 + places % ids.shape[1]
        return list(zip(tokens.split(counts), slots.split(counts), strict=True))

    def _encode_images(self, canvases: Sequence[Canvas]) -> tuple[Tensor]:
        """The features of the tapped blocks in float16 (N, 1 + P, W * taps)."""
        pixels, _ = stacked(canvases, self.patch, self.style, self.device)
        return (multi_level_features(self.model.clip.visual, pixels, self.model.config.taps).half(),)


def clip_to_bfloat16(network: ClipVG) -> None:
    """Cast CLIP to bfloat16, but for the position embedding that is trained."""
    positions = network.clip.visual.positional_embedding
    before = positions.data.clone()
    network.clip.to(torch.bfloat16)
    positions.data = before


@takes(ClipVGTraining)
def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return clipvg's one part."""
    return {"network": lambda: ClipVGTask(job)}
