"""Diffusion of boxes as a pipeline: samples from noise, or around another pipeline's box; the medoid is the answer.

The score of a prediction is how far its samples agree, the mean IoU of the answer with all of them. A regression head
has no such number.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from bench.grounding import Box, ImageArray, LoadedScene, PipelineContext, Prediction, Query
from bench.hashing import sha256_file
from bench.settings import Table, parse_table, takes
from pipelines.canvas import Canvas
from pipelines.card import CardOptions, make_card
from pipelines.diffusion.checkpoint import Loaded, open_head
from pipelines.diffusion.network import Memory
from pipelines.diffusion.sampling import denoise, medoid, noise_of, noised
from pipelines.engine import Padding, PairEngine, Rows
from pipelines.on_canvas import CanvasPipeline
from pipelines.start import joined_caches, joined_card, on_canvas, open_start


class DiffusionOptions(Table):
    """[pipelines.diffusion]."""

    weights: str = Field("diffusion.safetensors", description="the head: a file, here or in BENCH_HOME/weights")
    network: dict[str, Any] = Field(
        default_factory=lambda: {"kind": "clipvg"},
        description="whose tokens: a pipeline's `kind`; other keys lie over its own table",
    )
    start: str | dict[str, Any] = Field(
        "noise", description="noise; or what is refined: the box of the network itself (network), or of a pipeline"
    )
    steps: int = Field(4, ge=1, le=1000, description="of DDIM; 1 to 8 are enough")
    samples: int = Field(64, ge=1, description="boxes that are denoised for an expression")
    truncate: float = Field(0.3, gt=0, le=1, description="where a box that is refined begins, of the way to noise")
    card: CardOptions = CardOptions()

    @field_validator("start")
    @classmethod
    def _start_is_known(cls, start: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(start, str) and start not in ("noise", "network"):
            raise ValueError("neither noise, network nor the name of a pipeline; `bench list pipelines` shows them")
        return start


class DiffusionPipeline(CanvasPipeline):
    """Ground expressions with a head over the tokens of another pipeline's network."""

    engine: PairEngine[Canvas]

    def __init__(self, options: DiffusionOptions, context: PipelineContext, loaded: Loaded | None = None) -> None:
        """`loaded` is a head in training, used as it is."""
        training = loaded is not None
        loaded = loaded or open_head(options.weights, options.network, context)
        # 1. The network below: its canvases, its chunks, its text cache.
        self.source, self.options, self.seed = loaded.source, options, context.seed
        self.clock, self.pool, self.engine = context.clock, self.source.pool, self.source.engine
        self.size, self.style = self.source.size, self.source.style
        self.head = loaded.head if training else loaded.head.to(context.device)
        # 2. Whose box is refined, where it is not the network's own.
        self.start: Any = None if isinstance(options.start, str) else open_start(options.start, context)
        how = "refined in" if options.start != "noise" else "from noise in"
        below, made = self.source.card, f"diffusion of {options.samples} boxes, {how} {options.steps} steps"
        self.card = make_card(
            context,
            options.card,
            summary=f"{made}, over the tokens of {loaded.kind}",
            paper="Chen et al., DiffusionDet, ICCV 2023 (method)",
            weights={"diffusion": options.weights, **{f"network {part}": name for part, name in below.weights.items()}},
            sha256=({} if training else {"diffusion": sha256_file(loaded.path)})
            | {f"network {part}": digest for part, digest in below.sha256.items()},
            parameters=sum(p.numel() for p in self.head.parameters()) + (below.parameters or 0),
            accelerated=below.accelerated,
        )
        if self.start is not None:
            self.card = joined_card(self.card, self.start.card)

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """List what empties the caches, those of the pipeline before among them."""
        return joined_caches(super().caches, self.start)

    def cut(self, text: str) -> str:
        """Return the note of the network below for a text that is too long."""
        note: str = self.source.cut(text)
        return note

    def prediction(
        self, query: Query, box: Box, rest: NDArray[np.float32], canvas: Canvas, image: ImageArray
    ) -> Prediction:
        """Make the prediction of a box, and how far the samples agree on it."""
        agreement = float(rest[0])
        return Prediction(query.id, box, agreement if math.isfinite(agreement) else None, note=self.cut(query.text))

    def rows(self, canvases: Sequence[Canvas], pairs: Sequence[tuple[int, str]], given: Tensor | None = None) -> Tensor:
        """Ground pairs -> (N, 5): boxes cxcywh in 0..1 of the canvas, and how far samples agree.

        `given` (N, 4) are the boxes to refine, likewise; NaN where there is none.
        """
        # The noise of each pair, drawn from its contents.
        images = [self.image_hash(canvas) for canvas in canvases]
        drawn = [noise_of(self.seed, images[index], text, self.options.samples) for index, text in pairs]
        noise = self.engine.to_device(torch.from_numpy(np.stack(drawn)))
        return self.engine.ground(canvases, pairs, self._fuse, (noise,) if given is None else (noise, given))

    @staticmethod
    def image_hash(canvas: Canvas) -> str:
        """Hash the pixels of an image on its canvas."""
        return hashlib.sha256(canvas.pixels.tobytes()).hexdigest()

    def scene_rows(
        self, batch: Sequence[LoadedScene], canvases: Sequence[Canvas], owned: Sequence[tuple[int, Query]]
    ) -> Tensor:
        """Ground the queries of scenes as `rows` does, from the other pipeline's boxes where one is refined."""
        pairs = [(index, query.text) for index, query in owned]
        if self.start is None:
            return self.rows(canvases, pairs)
        with self.clock.stage("refined boxes"):
            # What is prepared is this pipeline's; what moves boxes of the stored image stays.
            answers = self.start.ground([replace(scene, prepared=None) for scene in batch])
        boxes = on_canvas(answers, canvases, [index for index, _ in owned])
        return self.rows(canvases, pairs, self.engine.to_device(torch.from_numpy(boxes).float()))

    def _fuse(self, rows: Rows, padding: Padding, noise: Tensor, given: Tensor | None = None) -> Tensor:
        fused = self.source.fused(rows, padding)
        return self.sample(fused.boxes, self.head.memory(fused), noise, given)

    def sample(self, own: Tensor, memory: Memory, noise: Tensor, given: Tensor | None = None) -> Tensor:
        """Sample boxes of N pairs from noise (N, K, 4), or around the network's `own` or given ones (N, 4) -> (N, 5).

        As `rows` has them.
        """
        signal, begin, options = noise, 1.0, self.options
        if options.start != "noise":
            start = own.float() if given is None else torch.where(given.isnan(), own.float(), given)
            begin = options.truncate
            signal = noised(start[:, None], torch.full_like(noise[..., :1], begin), noise)

        def predict(boxes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
            every, logits = self.head.predict(memory, boxes, u)
            return every[-1], logits

        boxes, logits = denoise(predict, signal, begin, options.steps)
        box, agreement = medoid(boxes, logits.sigmoid())
        return torch.cat([box, agreement[:, None]], dim=1)


@takes(DiffusionOptions)
def diffusion(context: PipelineContext) -> DiffusionPipeline:
    """Open the diffusion of boxes. Raises SettingsError, WeightsError."""
    options = parse_table(DiffusionOptions, context.options, f"bench.toml [pipelines.{context.name}]")
    return DiffusionPipeline(options, context)
