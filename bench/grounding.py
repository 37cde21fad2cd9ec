"""The vocabulary everyone shares: scenes, expressions, predictions, and the contract between them.

A *scene* is one image with every expression about it; scenes travel, not expressions, so an image is decoded, detected
and encoded once. Outside a model every box is xyxy: left, top, right, bottom in float pixels of the original image,
with no "+1".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bench.acceleration import Acceleration
from bench.errors import DataError, UsageError

Box = tuple[float, float, float, float]
ImageArray = NDArray[np.uint8]  # RGB (H, W, 3)
Boxes = NDArray[np.float64]  # xyxy pixels (N, 4)
SawTestImages = Literal["yes", "no", "unknown"]
Supervision = Literal["none", "zero-shot", "pseudo", "mixed", "full", "unknown"]


class Caption(NamedTuple):
    """The sentence that a phrase was taken from: `text[start:end]` is the phrase."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Expression:
    """One referring expression with its annotated box: one sample of a split.

    `box` is xyxy pixels of the original image, never clipped; `also` are other boxes that count as right (any-box
    protocol of Flickr30k Entities). `kind` is the generator's or the data set's own class of the expression, `category`
    the referent's class name, `same_category` how many objects of that class the image holds, the referent included.
    `caption` is the sentence the text is a phrase of. `held_as` is the form in which a row of people's own data gave
    the box, which matters to who cuts it to integers; None where the data set settles it.
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

    @property
    def query(self) -> Query:
        """What a pipeline is shown of it."""
        return Query(self.id, self.text, self.caption)

    def touches(self, width: int, height: int) -> bool:
        """Whether any of the box lies in an image of that size."""
        x1, y1, x2, y2 = self.box
        return x2 > 0 and y2 > 0 and x1 < width and y1 < height


class SceneObject(NamedTuple):
    """One annotated object of an image, referred to or not: its class name, and its box, xyxy pixels.

    `description` has its attributes in words ("striped red star"); empty where there is none.
    """

    category: str
    box: Box
    description: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """One image and every expression about it. `width`/`height` are the annotated size (None where not annotated).

    `objects` are all objects of the image, where the data set annotates them; no pipeline is given them.
    """

    id: str
    file: str
    width: int | None
    height: int | None
    expressions: tuple[Expression, ...]
    objects: tuple[SceneObject, ...] = ()


def check_box_touches(scene: Scene, expression: Expression, width: int, height: int, where: str = "") -> None:
    """Raise DataError when an annotated box lies wholly outside its image of `width` x `height` pixels.

    No model can learn from it, and it is a sign of boxes in the wrong format. `where` names file and row; by default
    the message names image and expression. Label files are checked when they are loaded and decoded
    (bench/datasets/readers/labels.py); other scenes without annotated sizes are checked once the image is there.
    """
    if not expression.touches(width, height):
        x1, y1, x2, y2 = expression.box
        raise DataError(
            f"{where or f'{scene.file}, expression {expression.id}'}: the box {x1:g}, {y1:g}, {x2:g}, {y2:g} (left, "
            f"top, right, bottom) lies outside the image {scene.file} of {width} x {height} pixels; correct or drop "
            "the row"
        )


@dataclass(frozen=True, slots=True)
class Query:
    """The part of an expression that a pipeline sees: never the box. `caption` is None where the text stands alone."""

    id: str
    text: str
    caption: Caption | None = None


@dataclass(frozen=True, slots=True)
class LoadedScene:
    """What a pipeline is shown: the image, RGB uint8 (H, W, 3), and the queries about it."""

    id: str
    image: ImageArray
    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One prediction for one query.

    `box` is xyxy pixels of the original image, unclipped (the harness clips); None is a counted miss. `proposals` (N,
    4) are the boxes a two-stage pipeline chose from, the same array object for every query of a scene. `note` says what
    a reader should know about this one, for example that the tokenizer cut the text. `query_index` is the decoder query
    of a pipeline of the DETR family.
    """

    id: str
    box: Box | None
    score: float | None = None
    proposals: Boxes | None = None
    note: str = ""
    query_index: int | None = None


@dataclass(frozen=True, slots=True)
class PipelineCard:
    """What stands behind a row. `weights` maps a part's name to its file or hub id, `sha256` a file to its hash.

    `proposals` names annotated boxes that it chooses among ("gt"); empty where it finds its own. `accelerated` is what
    `Acceleration.apply` returned for its networks: "compile", "channels-last", "dtype".

    `supervision` is what annotation its weights learned grounding from, on the data set of the context:

        none        nothing was trained
        zero-shot   boxes, labels, captions: no expression of this data set
        pseudo      expressions and boxes that a machine made about the data set's images
        mixed       annotated expressions of several data sets, this one's among them
        full        annotated boxes or expressions of the data set's own train split
        unknown     not stated; never the better word

    Raises UsageError for another word.
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
        if self.supervision not in get_args(Supervision):
            words = ", ".join(get_args(Supervision))
            raise UsageError(f"card of {self.name!r}: supervision = {self.supervision!r}; expected one of {words}")


class StageClock(Protocol):
    """Adds up the seconds spent in each named stage; `with clock.stage("detect"): ...`."""

    def stage(self, name: str) -> AbstractContextManager[None]: ...


class Candidates(Protocol):
    """The annotated boxes of a split's images, for the protocol in which a pipeline chooses among them.

    Who takes them names them on its card (`proposals`): the run's signature says so, and no table mixes it with others.
    """

    def take(self) -> tuple[str, Callable[[str], Boxes]]:
        """ "gt" or "gt-referred", for the card; and scene id -> boxes (N, 4), xyxy pixels, in an order without meaning.

        Raises UsageError outside a split.
        """
        ...


@dataclass(frozen=True, slots=True)
class PipelineContext:
    """Everything a pipeline's factory is given.

    `options` is the pipeline's table of bench.toml with the data set's lines and the flags laid over it; `folder` is
    where relative paths in it start, `home` the cache (BENCH_HOME). `train_scenes` loads the train part of `dataset`
    (raises DataError where it is not at hand). `candidates` are for the proposer `ground-truth` alone. `device` is
    resolved ("cpu", "cuda:0"), `dtype` one of float32, bfloat16, float16. `acceleration` is applied to every network.
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
    clock: StageClock
    train_scenes: Callable[[], Sequence[Scene]]
    candidates: Candidates | None = None
    acceleration: Acceleration = field(default_factory=Acceleration)


@runtime_checkable
class Pipeline(Protocol):
    """A grounder: scenes in, one prediction per query out, whatever the batch size (to float noise)."""

    @property
    def card(self) -> PipelineCard: ...

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order."""
        ...


@runtime_checkable
class Caching(Protocol):
    """A pipeline that keeps something between calls beyond its weights; its speed is measured with and without."""

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """What is kept ("texts") -> what empties it, so that the next call is as if it were the first."""
        ...


PipelineFactory = Callable[[PipelineContext], Pipeline]  # the first thing that an entry point names


class ImageSource(Protocol):
    """Where the images of a split lie. `load` is called from several threads at once."""

    def load(self, scene: Scene) -> ImageArray:
        """The scene's image, RGB uint8 (H, W, 3). Raises ImageError when it cannot be read."""
        ...

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        """Files of `scenes` that are not there."""
        ...
