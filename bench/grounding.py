"""The shared vocabulary: scenes, expressions, predictions, and the contract between them.

A *scene* is one image with every expression about it; scenes travel, not expressions, so an image is decoded, detected
and encoded once. Outside a model every box is xyxy: left, top, right, bottom in float pixels of the original image,
with no "+1".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bench.acceleration import Acceleration
from bench.attention import AttentionMap, Stage
from bench.boxes import fitting
from bench.clock import Clock
from bench.errors import DataError, UsageError
from bench.printing import is_text

Box = tuple[float, float, float, float]
ImageArray = NDArray[np.uint8]  # RGB (H, W, 3)
Boxes = NDArray[np.float64]  # xyxy pixels (N, 4)
Mask = Mapping[str, Any]  # COCO's run-length encoding: {"size": [H, W], "counts": "..."}
SawTestImages = Literal["yes", "no", "unknown"]
Supervision = Literal["none", "zero-shot", "pseudo", "mixed", "full", "unknown"]


class Caption(NamedTuple):
    """The sentence of a phrase: `text[start:end]` is the phrase."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Expression:
    """One referring expression with its ground truth: one sample of a split.

    `box` is xyxy pixels of the original image, never clipped, NaN where nothing is referred to; `also` are further
    right boxes: a protocol over sets wants all, the others any. `targets` is all of them. `kind` is the generator's or
    the data set's own class of the expression, `category` the referent's class name, `same_category` how many objects
    of that class the image holds, the referent included. `caption` is the sentence the text is a phrase of. `held_as`
    is the form in which a row of people's own data gave the box, which decides how it is cut to integers; None where
    the data set settles it. `mask` is the ground truth's, where it is annotated, and not part of a fingerprint.
    """

    id: str
    text: str
    box: Box
    ref_id: str | None = None
    kind: str | None = None
    category: str | None = None
    same_category: int | None = None
    also: tuple[Box, ...] = ()
    caption: Caption | None = None
    held_as: Literal["xyxy", "xywh"] | None = field(default=None, compare=False)
    mask: Mask | None = field(default=None, hash=False, repr=False)

    @property
    def query(self) -> Query:
        """Return the part that a pipeline gets."""
        return Query(self.id, self.text, self.caption)

    @property
    def targets(self) -> tuple[Box, ...]:
        """Return the ground truth: no box, one or several."""
        return () if math.isnan(self.box[0]) else (self.box, *self.also)

    def outside(self, width: int, height: int) -> Box | None:
        """Return the first target no part of which lies in an image of that size."""
        return next((b for b in self.targets if b[2] <= 0 or b[3] <= 0 or b[0] >= width or b[1] >= height), None)


class SceneObject(NamedTuple):
    """One annotated object: class name, box (xyxy pixels), attributes in words ("striped red star")."""

    category: str
    box: Box
    description: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """One image and every expression about it; `width` and `height` are None where not annotated.

    `objects` are all annotated objects of the image; no pipeline gets them.
    """

    id: str
    file: str
    width: int | None
    height: int | None
    expressions: tuple[Expression, ...] = field(repr=False)
    objects: tuple[SceneObject, ...] = field(default=(), repr=False)


def check_box_touches(scene: Scene, expression: Expression, width: int, height: int, where: str = "") -> None:
    """Raise DataError when a box lies wholly outside its image: a sign of boxes in the wrong format.

    `where` names file and row in the message, by default image and expression.
    """
    if box := expression.outside(width, height):
        x1, y1, x2, y2 = box
        raise DataError(
            f"{where or f'{scene.file}, expression {expression.id}'}: the box {x1:g}, {y1:g}, {x2:g}, {y2:g} (left, "
            f"top, right, bottom) lies outside the image {scene.file} of {width} x {height} pixels; correct or drop "
            f"the row{fitting(box, expression.held_as, width, height)}"
        )


@dataclass(frozen=True, slots=True)
class Query:
    """The part of an expression that a pipeline gets, never the box; a text that stands alone has no caption."""

    id: str
    text: str
    caption: Caption | None = None


@dataclass(frozen=True, slots=True)
class LoadedScene:
    """One image, RGB uint8 (H, W, 3), with the queries about it: what a pipeline gets.

    `prepared` is what its `prepare` made of the image, or None. `placed` moves boxes (N, 4) of the stored image here.
    """

    id: str
    image: ImageArray
    queries: tuple[Query, ...]
    prepared: Any = field(default=None, repr=False, compare=False)
    placed: Callable[[Boxes], Boxes] = field(default=np.asarray, repr=False, compare=False)


class ScoredBox(NamedTuple):
    """One predicted box with its score and its mask, where there are any."""

    box: Box
    score: float | None = None
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One prediction for one query: its best box, and perhaps further ones.

    `box` is xyxy pixels of the original image, unclipped (the harness clips); None is a counted miss. `proposals` (N,
    4) are what a two-stage pipeline chose from, one array a scene; `query_index` is a DETR's. `mask` belongs to `box`;
    `others` are further boxes, best first; `none` scores that nothing is referred to, 1 where an answer says so;
    `attention` and `stages` are drawn. A chat model's `answer` is its text, `usage` tokens in, tokens out and cost.
    """

    id: str
    box: Box | None
    score: float | None = None
    proposals: Boxes | None = None
    note: str = ""
    query_index: int | None = None
    mask: Mask | None = None
    others: tuple[ScoredBox, ...] = ()
    none: float | None = None
    attention: AttentionMap | None = None
    stages: tuple[Stage, ...] = field(default=(), repr=False, compare=False)
    answer: str = field(default="", repr=False)
    usage: tuple[int, int, float] | None = None

    @property
    def boxes(self) -> tuple[ScoredBox, ...]:
        """Return every predicted box, the best first."""
        return self.others if self.box is None else (ScoredBox(self.box, self.score, self.mask), *self.others)


@dataclass(frozen=True, slots=True)
class PipelineCard:
    """The facts about a pipeline: weights, source, supervision.

    `weights` maps a part's name to its file or hub id (`prompt`: to a chat model's preset, "qwen3@1,first"), `sha256`
    the part or its file to the hash. `proposals` names annotated boxes to choose among ("gt"), `accelerated` what
    `Acceleration.apply` returned, `supervision` the annotation its weights were trained on, for the data set:

        none        nothing was trained
        zero-shot   boxes, labels, captions: no expression of this data set
        pseudo      expressions and boxes that a machine made about the data set's images
        mixed       annotated expressions of several data sets, this one's among them
        full        annotated boxes or expressions of the data set's own train split
        unknown     not stated; never the better word; UsageError for any other word or type
    """

    name: str
    summary: str
    paper: str = ""
    weights: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    trained_on: str = ""
    licence: str = ""
    saw_test_images: SawTestImages = "unknown"
    parameters: int | None = None
    proposals: str = ""
    accelerated: frozenset[str] = frozenset()
    supervision: Supervision = field(kw_only=True)

    def __post_init__(self) -> None:
        for key in ("name", "summary", "paper", "trained_on", "licence", "saw_test_images", "proposals"):
            if not is_text(getattr(self, key)):
                raise UsageError(f"card of {self.name!r}: {key} = {getattr(self, key)!r:.60}; expected a text")
        for key, named in (("weights", self.weights), ("sha256", self.sha256)):
            if not isinstance(named, Mapping) or not all(is_text(text) for item in named.items() for text in item):
                raise UsageError(f"card of {self.name!r}: {key} = {named!r:.60}; expected texts by the names of parts")
        if self.supervision not in get_args(Supervision):
            words = ", ".join(get_args(Supervision))
            raise UsageError(f"card of {self.name!r}: supervision = {self.supervision!r}; expected one of {words}")


class Candidates:
    """The annotated boxes of a split's images, None outside one, for pipelines that choose among them.

    Such a pipeline names them on its card (`proposals`): the run's signature has it, and no table mixes it with others.
    """

    def __init__(self, scenes: Sequence[Scene] | None) -> None:
        self._scenes, self.taken = scenes, False

    def take(self) -> tuple[str, Callable[[str], Boxes]]:
        """Return "gt" or "gt-referred" for the card, and a function: scene id -> boxes (N, 4), xyxy pixels.

        Each box comes once, sorted by its numbers. Raises UsageError outside a split.
        """
        if self._scenes is None:
            raise UsageError("annotated boxes as proposals need a split whose annotations are known: use `bench run`")
        scenes, self.taken = {scene.id: scene for scene in self._scenes}, True
        known = all(scene.objects for scene in scenes.values())

        def boxes_of(scene_id: str) -> Boxes:
            scene = scenes[scene_id]
            referred = [box for expression in scene.expressions for box in expression.targets]
            boxes = [each.box for each in scene.objects] if known else referred
            # Sorted, for the order of the annotations would tell which box the first expression means.
            return np.unique(np.array(boxes, np.float64).reshape(-1, 4), axis=0)

        return "gt" if known else "gt-referred", boxes_of


@dataclass(frozen=True, slots=True)
class PipelineContext:
    """Everything that a pipeline's factory gets.

    `options` is the pipeline's table of bench.toml with the data set's lines and the flags laid over it; `folder` is
    where relative paths in it start, `home` the cache (BENCH_HOME). `train_scenes()` loads the train part of `dataset`,
    `train_scenes(SPLIT)` another split (DataError where it is not at hand). `candidates` are for the proposer
    `ground-truth` alone. `device` is resolved ("cpu", "cuda:0"), `dtype` one of float32, bfloat16, float16.
    `acceleration` is applied to every network. With `several` all scored boxes are wanted (`Prediction.others`).
    """

    name: str
    dataset: str
    options: Mapping[str, Any]
    folder: Path
    home: Path
    device: str
    dtype: str
    seed: int
    offline: bool
    clock: Clock
    train_scenes: Callable[..., Sequence[Scene]]
    candidates: Candidates | None = None
    acceleration: Acceleration = field(default_factory=Acceleration)
    several: bool = False


@runtime_checkable
class Pipeline(Protocol):
    """A grounder: scenes in, one prediction per query out, whatever the batch size (to float noise)."""

    @property
    def card(self) -> PipelineCard: ...

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Return one prediction for every query of every scene, in order."""
        ...


PipelineFactory = Callable[[PipelineContext], Pipeline]  # the first thing that an entry point names


class ImageSource(Protocol):
    """The images of a split. `load` is called from several threads at once."""

    def load(self, scene: Scene) -> ImageArray:
        """Decode the scene's image, RGB uint8 (H, W, 3). Raises ImageError when it cannot be read."""
        ...

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        """List the files of `scenes` that are missing."""
        ...
