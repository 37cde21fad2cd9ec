"""Rows of a training of the head: what the frozen network below makes of them, computed once where it can be.

Where nothing augments, each image and each text is encoded once, and on demand the fused tokens of each row are kept.
They are computed in runs that are settled in advance, so that no bit depends on where a training was resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.training.feature_cache import ImageFeatureCache, TextFeatureCache
from bench.training.task import Batch, TrainingJob
from pipelines.augmentation import Augment
from pipelines.canvas import Canvas, letterboxed
from pipelines.engine import Rows as Encoded
from pipelines.engine import joined, sequences
from pipelines.on_canvas import Fused
from pipelines.rows import CachedFeatures, Rows, without_pixels

log = logging.getLogger("bench.train")


@dataclass(frozen=True, slots=True)
class DiffusionBatch(Batch):
    """Rows, targets (B, 4) cxcywh in 0..1, texts, the different images, and which of them is each row's.

    An image is its number in the feature cache, or its canvas; a row is its number there, too.
    """

    rows: tuple[int, ...]
    targets: Tensor
    texts: tuple[str, ...]
    images: tuple[Any, ...]
    owners: tuple[int, ...]


class FrozenRows:
    """Every expression of a job's scenes, with the tokens of the network below."""

    def __init__(self, job: TrainingJob, source: Any, moves: Augment | None, keeps_tokens: bool) -> None:
        """`moves` augment, which needs images encoded in every step; None keeps what is encoded."""
        self.job, self.source, self.moves, self.keeps_tokens = job, source, moves, keeps_tokens
        self.device = torch.device(job.context.device)
        self.texts = TextFeatureCache((e.text for s in job.scenes for e in s.expressions), self._encode_texts)
        self.images: ImageFeatureCache[Canvas] = ImageFeatureCache()
        self.encoded: list[Encoded] = []  # of each image in the cache

    def dataset(self, augment: bool = True) -> Rows | CachedFeatures:
        """Return one sample an expression."""
        size, style, moves = self.source.size, self.source.style, self.moves if augment else None
        if moves is not None:
            moves.long_sides(size)  # refused here, not by a worker
        rows = Rows(self.job, size, style, moves)
        if self.moves is not None:
            return rows
        scenes = {scene.file: scene for scene in rows.scenes}
        log.info("%s: encoding %s images once", self.job.context.name, f"{len(scenes):,}")
        self.images.fill(
            list(scenes), lambda file: letterboxed(rows.load(scenes[file]), size, style), self._keep_encoded,
            without_pixels,
        )  # fmt: skip
        self.cached = CachedFeatures(rows, self.images)
        self.tokens = TextFeatureCache(map(str, range(len(rows))), self._fuse_rows)
        return self.cached

    def collate(self, samples: Sequence[Any]) -> DiffusionBatch:
        """Join rows into a batch."""
        if self.moves is None:
            batch = self.cached.collate(samples)
            targets, texts = batch.targets, batch.texts
            keys = images = batch.images.tolist()
        else:
            canvases, drawn, texts = zip(*samples, strict=True)
            targets, images = torch.tensor(np.stack(drawn), dtype=torch.float32), list(canvases)
            keys = [id(canvas) for canvas in images]
        different = dict(zip(keys, images, strict=True))
        place = {key: at for at, key in enumerate(different)}
        rows = tuple(samples) if self.moves is None else ()
        return DiffusionBatch(rows, targets, texts, tuple(different.values()), tuple(place[key] for key in keys))

    def fused(self, batch: DiffusionBatch) -> Fused:
        """Fuse the tokens of each row, or take them from the cache."""
        rows, padding = self.joint(batch)
        if not self.keeps_tokens:
            out: Fused = self.source.fused(rows, padding)
            return out
        tokens, cells, boxes = zip(*self.tokens([str(row) for row in batch.rows]), strict=True)
        return Fused(
            pad_sequence([each.float() for each in tokens], batch_first=True),
            rows[0],
            pad_sequence(list(cells), batch_first=True, padding_value=-1),
            padding,
            torch.stack(boxes),
        )

    def _fuse_rows(self, names: list[str]) -> list[Encoded]:
        """Fuse a settled run of rows -> the tokens of each in float16 (1 + L, d), their cells (L,), its box (4,)."""
        batch = self.collate([int(name) for name in names])
        fused = self.source.fused(*self.joint(batch))
        tokens, cells = fused.tokens.half(), fused.cells
        lengths = [cells.shape[1]] * len(names)
        if fused.ignored is not None:
            lengths = (~fused.ignored).sum(dim=1).tolist()
        return [(tokens[at, : 1 + n].clone(), cells[at, :n].clone(), fused.boxes[at]) for at, n in enumerate(lengths)]

    def joint(self, batch: DiffusionBatch) -> tuple[Encoded, Tensor | None]:
        """Lay out the text and image tokens of each row in one sequence, and its padding."""
        texts = self.texts(batch.texts)
        if self.moves is None:
            images = [_floats(self.encoded[number], torch.float32) for number in batch.images]
        else:
            images = self.source.engine.encode_images(batch.images)
        both = np.stack([np.arange(len(texts)), len(texts) + np.array(batch.owners)], axis=1)
        return sequences(*joined([*texts, *images]), both, self.device)

    def _encode_texts(self, texts: list[str]) -> list[Encoded]:
        """Encode a settled run of texts; what validation left in the engine's cache was in other runs."""
        self.source.engine.forget_texts()
        return list(self.source.engine.encode_texts(texts).values())

    def _keep_encoded(self, canvases: Sequence[Canvas]) -> tuple[Tensor]:
        """Encode images and keep their tokens, in float16, which differ in number; return how many each has."""
        rows = self.source.engine.encode_images(canvases)
        self.encoded += [_floats(row, torch.float16) for row in rows]
        return (torch.tensor([len(row[0]) for row in rows]),)


def _floats(rows: Encoded, dtype: torch.dtype) -> Encoded:
    """Return an image's rows with their floats in another type."""
    return tuple(part.to(dtype) if part.is_floating_point() else part for part in rows)
