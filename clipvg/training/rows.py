"""The rows of a training: one expression, its picture as the network will see it, its box on the canvas.

A row of an epoch is drawn with dice of its own, seeded by (seed, epoch, row): what it looks like depends on nothing
else, not on the process, the worker, nor on where the training was begun again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.errors import DataError, PictureError
from bench.grounding import Box, Expression, Picture, PictureSource, Scene, check_box_touches
from clipvg.training.order import Micro, Order, micros
from pipelines.augmentation import Augment, augmented
from pipelines.canvas import HELD_AS_XYWH, Canvas, Style, integer_box, letterboxed, together


@dataclass(frozen=True, slots=True)
class Row:
    """One row, drawn: the canvas, the target (4,) cxcywh in 0..1 of it, and the text."""

    canvas: Canvas
    target: NDArray[np.float64]
    text: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """The rows of one forward pass: pixels (B, S, S, 3) uint8, edges (B, 4), targets (B, 4), texts.

    `error` says what kept them from being drawn: an exception would lose its kind on its way out of a worker.
    """

    micro: Micro
    pixels: Tensor
    edges: Tensor
    targets: Tensor
    texts: tuple[str, ...]
    error: str = ""

    def pin_memory(self) -> Drawn:
        """The same in memory that a GPU copies from by itself; the loader calls it."""
        return replace(self, pixels=self.pixels.pin_memory(), targets=self.targets.pin_memory())


class Rows(Dataset[Any]):
    """Every expression of a split. `augment` None draws each row as in evaluation."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        pictures: PictureSource,
        size: int,
        style: Style,
        augment: Augment | None,
        dataset: str,
        seed: int,
    ) -> None:
        self.scenes, self.pictures = scenes, pictures
        self.size, self.style, self.augment = size, style, augment
        self.dataset, self.seed = dataset, seed
        self.places = [(s, e) for s, scene in enumerate(scenes) for e in range(len(scene.expressions))]
        if not self.places:
            raise DataError("no expression to train on")

    def __len__(self) -> int:
        return len(self.places)

    def expression(self, row: int) -> tuple[Scene, Expression]:
        """The annotation behind a row."""
        scene, number = self.places[row]
        return self.scenes[scene], self.scenes[scene].expressions[number]

    def load(self, scene: Scene) -> Picture:
        """The scene's picture. Raises PictureError, and DataError for a box that misses it."""
        picture = self.pictures.load(scene)
        height, width = picture.shape[:2]
        for expression in scene.expressions:
            check_box_touches(scene, expression, width, height)
        return picture

    def target(self, canvas: Canvas, expression: Expression) -> NDArray[np.float64]:
        """(4,) cxcywh in 0..1 of a canvas that shows the whole picture."""
        return canvas.to_canvas(self._held(expression))

    def draw(self, epoch: int, row: int) -> Row:
        """The row as that epoch shows it. Raises PictureError, DataError."""
        scene, expression = self.expression(row)
        picture = self.load(scene)
        if self.augment is None:
            canvas = letterboxed(picture, self.size, self.style)
            return Row(canvas, self.target(canvas, expression), expression.text)
        dice = np.random.default_rng([self.seed, epoch, row])
        box, text = self._held(expression), expression.text
        try:
            return Row(*augmented(picture, box, text, self.size, self.augment, self.style, dice))
        except DataError as error:
            raise DataError(f"{scene.file}, expression {expression.id}: {error}") from None

    def _held(self, expression: Expression) -> Box:
        if self.style == "clean":
            return expression.box
        form = expression.held_as or ("xywh" if self.dataset in HELD_AS_XYWH else "xyxy")
        return integer_box(expression.box, form)

    def __getitem__(self, micro: Micro) -> Drawn:
        """`read`, with an error as part of the answer."""
        try:
            return self.read(micro)
        except (PictureError, DataError) as error:
            nothing = torch.empty(0)
            return Drawn(micro, nothing, nothing, nothing, (), str(error))

    def read(self, micro: Micro) -> Drawn:
        """All rows of one forward pass. Raises PictureError, DataError."""
        rows = [self.draw(micro.epoch, row) for row in micro.rows]
        pixels, edges = together([row.canvas for row in rows])
        targets = torch.tensor(np.stack([row.target for row in rows]), dtype=torch.float32)
        return Drawn(micro, pixels, edges, targets, tuple(row.text for row in rows))


class _Ahead(torch.utils.data.Sampler[Micro]):
    """The forward passes that are left, in order."""

    def __init__(self, order: Order, first: int, last: int, batch: int, index: int, processes: int) -> None:
        self.what = (order, first, last, batch, index, processes)

    def __iter__(self) -> Iterator[Micro]:
        return micros(*self.what)


def drawn_ahead(
    rows: Rows, order: Order, steps: tuple[int, int], batch: int, share: tuple[int, int], workers: int, pinned: bool
) -> Iterator[Drawn]:
    """The rows of each forward pass of the steps `steps` (the second is not one), drawn ahead by `workers` processes.

    `share` is this process and how many there are. Raises DataError for a row that cannot be drawn.
    """
    loader: DataLoader[Any] = DataLoader(
        rows,
        batch_size=None,
        sampler=_Ahead(order, *steps, batch, *share),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pinned,
        worker_init_fn=_one_thread,
    )
    for found in loader:
        if found.error:
            raise DataError(found.error)
        yield found


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
