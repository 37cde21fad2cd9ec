"""Pipelines on square canvases, as CLIP-VG and its family: letterbox, ground pairs, answers back into the images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.grounding import Box, ImageArray, LoadedScene, PipelineCard, PipelineContext, Prediction, Query
from bench.masks import box_of, encode
from pipelines.canvas import Canvas, Style, letterboxed, to_images
from pipelines.engine import Engine, Rows, prepared_images


class Fused(NamedTuple):
    """What a network computes of N pairs below its box head, for a head of another kind.

    `tokens` (N, 1 + L, d) are fused, [REG] first; `before` (N, L, d) are the text and image tokens that went in.
    `cells` (N, L) numbers the cell of the canvas that a token is of, row by row; it is negative for tokens that are of
    no cell. `ignored` (N, L) is True on padding, None where there is none; `boxes` (N, 4) are the network's own,
    cxcywh in 0..1 of the canvas.
    """

    tokens: Tensor
    before: Tensor
    cells: Tensor
    ignored: Tensor | None
    boxes: Tensor


@runtime_checkable
class FusesTokens(Protocol):
    """A pipeline on canvases that gives its tokens: the one hook that another head needs (docs/add-a-pipeline.md)."""

    side: int  # cells along each side of the canvas
    width: int  # d, of a token

    def fused(self, rows: Rows, padding: Tensor | None) -> Fused:
        """Compute the tokens of N joint sequences, given as PairEngine's `fuse` gets them; every token is computed."""
        ...


class CanvasPipeline(ABC):
    """Ground expressions with one network; a subclass opens it and says what it computes of pairs.

    `size` is the side of the canvas in pixels, `style` how an image is put on it.
    """

    card: PipelineCard
    engine: Engine
    size: int
    style: Style = "official"

    def __init__(self, context: PipelineContext, threads: int) -> None:
        """`threads` letterbox images where the harness did not."""
        self.clock = context.clock
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="letterbox")

    def scene_rows(
        self, batch: Sequence[LoadedScene], canvases: Sequence[Canvas], owned: Sequence[tuple[int, Query]]
    ) -> Tensor:
        """Ground the queries of scenes, each with its scene's index, as `rows` does."""
        return self.rows(canvases, [(index, query.text) for index, query in owned])

    @abstractmethod
    def rows(self, canvases: Sequence[Canvas], pairs: Sequence[tuple[int, str]]) -> Tensor:
        """Ground pairs of a canvas's index and a text -> (N, 4 + M): boxes cxcywh in 0..1 of the canvas, and the rest.

        On the device, which is not waited for.
        """

    def prediction(
        self, query: Query, box: Box, rest: NDArray[np.float32], canvas: Canvas, image: ImageArray
    ) -> Prediction:
        """Make the prediction of a box, xyxy pixels of the image; `rest` (M,) is what `rows` has beside it."""
        return Prediction(query.id, box, note=self.cut(query.text))

    @abstractmethod
    def cut(self, text: str) -> str:
        """Return a note when a text is too long and was cut, else nothing."""

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """List what empties the text cache."""
        return {"texts": self.engine.forget_texts}

    def prepare(self, image: ImageArray) -> Canvas:
        """Letterbox an image."""
        return letterboxed(image, self.size, self.style)

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Ground every query of every scene -> predictions in order."""
        return self.launch(batch)()

    @torch.inference_mode()
    def launch(self, batch: Sequence[LoadedScene]) -> Callable[[], list[Prediction]]:
        """Start a batch without waiting for the device -> the function that waits and returns its predictions."""
        owned = [(index, query) for index, scene in enumerate(batch) for query in scene.queries]
        if not owned:
            return list
        # 1. Canvases, in threads where nobody made them before.
        with self.clock.stage("letterbox"):
            canvases = prepared_images(batch, self.prepare, self.pool)
        # 2. Boxes on the canvas, and what stands beside them, on their way to the host.
        wait = self.engine.to_host(self.scene_rows(batch, canvases, owned))

        def predictions() -> list[Prediction]:
            # 3. Back into each image, xyxy pixels; here alone a GPU is waited for.
            rows = wait()
            corners = to_images(rows[:, :4].astype(np.float64), canvases, np.array([index for index, _ in owned]))
            boxes: list[Any] = [tuple(box) for box in corners.tolist()]
            return [
                self.prediction(query, box, row[4:], canvases[index], batch[index].image)
                for (index, query), box, row in zip(owned, boxes, rows, strict=True)
            ]

        return predictions

    def stacked(self, canvases: Sequence[Canvas]) -> tuple[Tensor, Tensor]:
        """Stack canvases on the device -> pixels (B, S, S, 3) uint8; left, top, right, bottom of each image (B, 4)."""
        edges = [np.array((canvas.left, canvas.top, canvas.right, canvas.bottom)) for canvas in canvases]
        return self.engine.stack([canvas.pixels for canvas in canvases]), self.engine.stack(edges)


def masked(query: Query, cells: NDArray[Any], canvas: Canvas, size: tuple[int, int], note: str) -> Prediction:
    """Make the prediction of a mask: where the cells (M, M) are above 0, in the image of `size` (height, width)."""
    # 1. To the canvas, the image's part of it, and to the image's own size.
    grid = torch.from_numpy(cells)[None, None]
    grid = F.interpolate(grid, size=(len(canvas.pixels),) * 2, mode="bilinear", align_corners=False)
    grid = grid[..., canvas.top : canvas.bottom, canvas.left : canvas.right]
    inside = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)[0, 0].numpy() > 0
    # 2. Its run-length encoding, and the box around it. An empty mask says that nothing is referred to.
    mask = encode(inside)
    box = box_of(mask)
    notes = [note, "the mask is empty" if box is None else ""]
    return Prediction(query.id, box, note="; ".join(filter(None, notes)), mask=mask)
