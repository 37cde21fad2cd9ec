"""Draw the rows of a training of the TransVG family: one expression, its image on the canvas, its box.

A row of an epoch is drawn with a generator of its own, seeded by (seed, epoch, row): how it looks depends on nothing
else, not on the process, the worker, nor on where the training was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import DataError
from bench.grounding import Box, Expression, ImageArray, Scene, check_box_touches
from bench.training.feature_cache import Features, ImageFeatureCache, TextFeatureCache
from bench.training.task import Batch, TrainingJob
from pipelines.augmentation import Augment, augmented, augmented_image
from pipelines.canvas import XYWH_LISTS, Canvas, Style, integer_box, letterboxed, stack_pixels

Row = tuple[Canvas, NDArray[np.float64], str]  # drawn: the canvas, the target (4,) cxcywh in 0..1 of it, and the text


@dataclass(frozen=True, slots=True)
class RowBatch(Batch):
    """Pixels (B, S, S, 3) uint8, edges of the image on the canvas (B, 4), targets (B, 4) cxcywh in 0..1, texts.

    Where rows share an image, `images` and `edges` have it once, and `owners` (B,) says whose is which. Without edges,
    `images` are the images' rows (B,) in a feature cache.
    """

    images: Tensor
    edges: Tensor | None
    targets: Tensor
    texts: tuple[str, ...]
    owners: Tensor | None = None


class Rows:
    """Every expression of a job's scenes. `augment` None draws each row as in evaluation."""

    def __init__(self, job: TrainingJob, size: int, style: Style, augment: Augment | None) -> None:
        self.scenes, self.images, self.seed = job.scenes, job.images, job.context.seed
        self.size, self.style, self.augment, self.dataset = size, style, augment, job.context.dataset
        self.places = [(s, e) for s, scene in enumerate(self.scenes) for e in range(len(scene.expressions))]
        if not self.places:
            raise DataError("no expression to train on")
        self.groups = np.array([scene for scene, _ in self.places])

    def __len__(self) -> int:
        return len(self.places)

    def expression(self, row: int) -> tuple[Scene, Expression]:
        """Return the annotation behind a row."""
        scene, number = self.places[row]
        return self.scenes[scene], self.scenes[scene].expressions[number]

    def name(self, index: int) -> str:
        """Return the expression's id."""
        return self.expression(index)[1].id

    def load(self, scene: Scene) -> ImageArray:
        """Return the scene's image. Raises ImageError, and DataError for a box that misses it."""
        image = self.images.load(scene)
        height, width = image.shape[:2]
        for expression in scene.expressions:
            check_box_touches(scene, expression, scene.width or width, scene.height or height)
        return image

    def target(self, canvas: Canvas, expression: Expression) -> NDArray[np.float64]:
        """Return (4,) cxcywh in 0..1 of a canvas that shows the whole image."""
        return canvas.to_canvas(self._box(expression))

    def sample(self, epoch: int, index: int) -> Row:
        """Return the row as that epoch shows it. Raises ImageError, DataError."""
        scene, expression = self.expression(index)
        image = self.load(scene)
        if self.augment is None:
            canvas = letterboxed(image, self.size, self.style)
            return canvas, self.target(canvas, expression), expression.text
        generator = np.random.default_rng([self.seed, epoch, index])
        box, text = self._box_in(image, scene, expression), expression.text
        try:
            return augmented(image, box, text, self.size, self.augment, self.style, generator)
        except DataError as error:
            raise DataError(f"{scene.file}, expression {expression.id}: {error}") from None

    def samples(self, epoch: int, indices: Sequence[int]) -> list[Row]:
        """Return rows as that epoch shows them, those of one image on one canvas. Raises ImageError, DataError."""
        drawn: dict[int, dict[int, Row]] = {}
        for scene in dict.fromkeys(self.places[index][0] for index in indices):
            drawn[scene] = dict(enumerate(self._of_image(epoch, scene)))
        return [drawn[scene][number] for scene, number in (self.places[index] for index in indices)]

    def _of_image(self, epoch: int, number: int) -> list[Row]:
        """Draw all rows of an image, whichever of them are needed: where a step cuts it, both halves look alike."""
        scene = self.scenes[number]
        image, texts = self.load(scene), [expression.text for expression in scene.expressions]
        if self.augment is None:
            canvas = letterboxed(image, self.size, self.style)
            targets = [self.target(canvas, expression) for expression in scene.expressions]
            return [(canvas, target, text) for target, text in zip(targets, texts, strict=True)]
        boxes = [self._box_in(image, scene, expression) for expression in scene.expressions]
        generator = np.random.default_rng([self.seed, epoch, number, len(self.places)])  # no row's own
        try:
            canvas, corners, texts = augmented_image(
                image, boxes, texts, self.size, self.augment, self.style, generator
            )
        except DataError as error:
            raise DataError(f"{scene.file}: {error}") from None
        return [(canvas, target, text) for target, text in zip(corners, texts, strict=True)]

    def _box_in(self, image: ImageArray, scene: Scene, expression: Expression) -> Box:
        """The box in pixels of the image as it was loaded, which an image cache may have reduced."""
        (height, width), box = image.shape[:2], self._box(expression)
        across, down = width / (scene.width or width), height / (scene.height or height)
        return (box[0] * across, box[1] * down, box[2] * across, box[3] * down)

    def _box(self, expression: Expression) -> Box:
        """The box as the style has it: `official` cuts it to integers in the form of its list."""
        if self.style == "clean":
            return expression.box
        form = expression.held_as or ("xywh" if self.dataset in XYWH_LISTS else "xyxy")
        return integer_box(expression.box, form)


def collate(rows: Sequence[Row]) -> RowBatch:
    """Join drawn rows into a batch."""
    canvases, targets, texts = zip(*rows, strict=True)
    # Rows of one image that were drawn together have one canvas.
    different = {id(canvas): canvas for canvas in canvases}
    pixels, edges = stack_pixels(list(different.values()))
    place = {key: number for number, key in enumerate(different)}
    owners = torch.tensor([place[id(canvas)] for canvas in canvases]) if len(different) < len(rows) else None
    return RowBatch(pixels, edges, torch.tensor(np.stack(targets), dtype=torch.float32), texts, owners)


class CachedFeatures:
    """The same rows where the features of every image are in a cache: a sample is its number."""

    in_memory = True

    def __init__(self, rows: Rows, cache: ImageFeatureCache[Canvas]) -> None:
        self.rows, self.name = rows, rows.name
        places = [cache.row[scene.file] for scene in rows.scenes]
        targets = [
            rows.target(cache.loaded[place], expression)
            for scene, place in zip(rows.scenes, places, strict=True)
            for expression in scene.expressions
        ]
        self.targets = torch.tensor(np.stack(targets), dtype=torch.float32)
        self.images = torch.tensor([places[scene] for scene, _ in rows.places])

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, epoch: int, index: int) -> int:
        """Return the number itself: nothing changes from epoch to epoch."""
        return index

    def collate(self, rows: Sequence[int]) -> RowBatch:
        """Join rows into a batch."""
        texts = tuple(self.rows.expression(row)[1].text for row in rows)
        return RowBatch(self.images[list(rows)], None, self.targets[list(rows)], texts)


def feature_caches(
    texts: Iterable[str], encode: Callable[[list[str]], Sequence[Features]]
) -> tuple[TextFeatureCache, ImageFeatureCache[Canvas]]:
    """Make empty caches for features of frozen towers: of texts by string, of images by file."""
    return TextFeatureCache(texts, encode), ImageFeatureCache()


def without_pixels(canvas: Canvas) -> Canvas:
    """Return the geometry of a canvas: what a feature cache keeps of it."""
    return replace(canvas, pixels=np.empty((len(canvas.pixels), 0, 3), np.uint8))
