"""Proposers: the candidate boxes of an image, among which a ranker chooses.

`kind` in a `proposer` table names an entry point of the group `bench.proposers`. A further proposer is one file with
one function

    open_mine(table: Mapping[str, Any], where: str, context: PipelineContext) -> Proposer

and one entry point, mine = "my_package.mine:open_mine"; any two-stage pipeline then takes `proposer.kind=mine`.
`SceneProposer` makes a proposer of a function of one scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench import registry
from bench.boxes import box_area_xyxy, clip_xyxy, iou_pairwise
from bench.errors import SettingsError
from bench.grounding import Boxes, ImageArray, LoadedScene, PipelineContext, Prediction
from bench.settings import Table, parse_table, takes


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes (N, 4) xyxy pixels of the image, best first; scores (N,) in [0, 1]; the detector's class name of each.

    `masks` (N, H, W) are the same regions to the pixel, of proposers that have them; `note` is about this image's.
    """

    boxes: Boxes
    scores: NDArray[np.float64]
    labels: tuple[str, ...]
    masks: NDArray[np.bool_] | None = None
    note: str = ""

    def __len__(self) -> int:
        return len(self.boxes)


Options = TypeVar("Options", bound=Table)
CONSIDERED = 40  # times `top_k`: of thousands of boxes only the best are compared


class Proposer(Protocol):
    """Proposes boxes for many images in one call; those of one image do not depend on the others.

    `sha256` maps weights files to hashes, `accelerated` is what `Acceleration.apply` returned for its network, and
    `annotated` the mark of `Candidates.take`, where it proposes annotated boxes.
    """

    sha256: Mapping[str, str]
    parameters: int = 0
    accelerated: frozenset[str] = frozenset()
    annotated: str = ""

    def prepare(self, image: ImageArray) -> Any:
        """Make the detector's input of an image, in a decode thread; None where `propose` makes it.

        On a GPU a detector resizes there, all images of a size at once.
        """
        return None

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """Return one `Proposals` for each scene: a detector's by its image only, a file's by its id."""
        ...


@dataclass(frozen=True)
class SceneProposer(Proposer):
    """A proposer that is a function of one scene; `name` is how a card calls it."""

    name: str
    propose_one: Callable[[LoadedScene], Proposals]
    sha256: Mapping[str, str] = field(default_factory=dict)
    parameters: int = 0
    accelerated: frozenset[str] = frozenset()
    annotated: str = ""

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """Return one `Proposals` for each scene."""
        return [self.propose_one(scene) for scene in scenes]


class ProposerOptions(Table):
    """[pipelines.*.proposer]: the keys that all proposers with a detector share."""

    same_iou: float = Field(0.9, gt=0, le=1, description="above it two boxes are one")
    top_k: int = Field(20, ge=1, description="boxes of an image")
    whole_image: bool = Field(True, description="append the whole image as the last proposal")

    def tidied(self, proposals: Proposals, image: ImageArray) -> Proposals:
        """Apply `tidy` to the proposals of an image (H, W, 3)."""
        height, width = image.shape[:2]
        return tidy(proposals, (width, height), self.top_k, self.same_iou, self.whole_image)


def tidy(proposals: Proposals, size: tuple[int, int], top_k: int, same: float, whole_image: bool) -> Proposals:
    """Clip, filter and cut proposals to the best `top_k`, and append the whole image.

    Empty boxes, boxes that are not finite and near copies (IoU > `same`, whatever their class) are dropped. With the
    whole image, (width, height), a ranker always has something to choose.
    """
    width, height = size
    # 1. The best finite ones, clipped; a box of less than a pixel is empty.
    sound = np.flatnonzero(np.isfinite(proposals.scores) & np.isfinite(proposals.boxes).all(axis=1))
    order = sound[np.argsort(-proposals.scores[sound], kind="stable")][: CONSIDERED * top_k]
    boxes = clip_xyxy(proposals.boxes[order], np.full(len(order), width), np.full(len(order), height))
    real = box_area_xyxy(boxes) >= 1.0
    order, boxes = order[real], boxes[real]
    # 2. No copies, at most `top_k`.
    kept = _without_copies(boxes, same, top_k)
    order, boxes = order[kept], boxes[kept]
    scores, labels = proposals.scores[order], tuple(proposals.labels[i] for i in order)
    masks = None if proposals.masks is None else proposals.masks[order]
    if whole_image:
        if masks is not None:
            masks = np.concatenate([masks, np.ones((1, height, width), bool)])
        boxes = np.concatenate([boxes, [[0.0, 0.0, width, height]]])
        scores, labels = np.append(scores, 0.0), (*labels, "")
    return Proposals(boxes, scores, labels, masks)


def _without_copies(boxes: Boxes, same: float, count: int) -> NDArray[np.intp]:
    """Return the indices of the first `count` boxes that copy no better one that is kept (boxes come best first)."""
    kept = np.empty(0, np.intp)
    # Block by block: most boxes are never looked at, for `count` are soon kept.
    for start in range(0, len(boxes), block := 2 * count):
        new = np.arange(start, min(start + block, len(boxes)))
        new = new[~(iou_pairwise(boxes[new], boxes[kept]) > same).any(axis=1)]
        copies = np.triu(iou_pairwise(boxes[new], boxes[new]) > same, k=1)
        stays = np.ones(len(new), bool)
        # A loop over the few that have copies at all, not over all boxes.
        for i in np.flatnonzero(copies.any(axis=1)):
            if stays[i]:
                stays &= ~copies[i]
        kept = np.concatenate([kept, new[stays]])[:count]
        if len(kept) == count:
            break
    return kept


def opener(
    options: type[Options], proposer: Callable[[Options, PipelineContext], Proposer]
) -> Callable[[Mapping[str, Any], str, PipelineContext], Proposer]:
    """Make the entry point of a proposer: (its table, how messages name it, context) -> the proposer.

    The entry point raises SettingsError, and the proposer's own errors.
    """
    return takes(options)(lambda table, where, context: proposer(parse_table(options, table, where), context))


def open_proposer(table: Mapping[str, Any], where: str, context: PipelineContext) -> Proposer:
    """Open the proposer that a table declares; `where` names the table in messages.

    Raises SettingsError, UnknownName, WeightsError, MissingPackage.
    """
    rest = dict(table)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str):
        raise SettingsError(f"{where}: `kind` must name a proposer, one of {registry.names(registry.PROPOSERS)}")
    proposer: Proposer = registry.load(registry.PROPOSERS, kind)(rest, where, context)
    return proposer


def predictions(
    scene: LoadedScene,
    proposals: Proposals,
    best: Sequence[int] | NDArray[np.intp] | None,
    scores: Sequence[float] | NDArray[np.float64] | None = None,
    notes: Sequence[str] | None = None,
) -> list[Prediction]:
    """Make a prediction for each of a scene's Q queries.

    `best` (Q,) are indices of proposals, None for no box at all; `scores` (Q,); `notes` (Q,) follow the proposals' own.
    """
    answers = []
    for number, query in enumerate(scene.queries):
        box = None if best is None else tuple(proposals.boxes[best[number]].tolist())
        score = None if best is None or scores is None else float(scores[number])
        note = "; ".join(filter(None, (proposals.note, notes[number] if notes else "")))
        answers.append(Prediction(query.id, box, score, proposals.boxes, note))
    return answers
