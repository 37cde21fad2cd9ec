"""Proposers: what finds the boxes of an image that a referring expression may be about.

`kind` in a `proposer` table names an entry point of the group `bench.proposers`. A further proposer is one file with
one function

    open_mine(table: Mapping[str, Any], where: str, context: PipelineContext) -> Proposer

and one entry point, mine = "my_package.mine:open_mine"; any two-stage pipeline then takes `proposer.kind=mine`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench import registry
from bench.boxes import box_area_xyxy, clip_xyxy, iou_pairwise
from bench.errors import SettingsError
from bench.grounding import Boxes, ImageArray, LoadedScene, PipelineContext
from bench.settings import Table, parse_table, takes


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes (N, 4) xyxy pixels of the image, best first; scores (N,) in [0, 1]; the detector's class name of each.

    `masks` (N, H, W) are the same regions to the pixel, of proposers that know them; `note` is what a reader should
    know about this image's.
    """

    boxes: Boxes
    scores: NDArray[np.float64]
    labels: tuple[str, ...]
    masks: NDArray[np.bool_] | None = None
    note: str = ""

    def __len__(self) -> int:
        return len(self.boxes)


Options = TypeVar("Options", bound=Table)
CONSIDERED = 40  # times `top_k`: a detector that says thousands of boxes is compared on its best ones only


class Proposer(Protocol):
    """Finds the boxes of many images in one call; what it finds in one image does not depend on the others.

    `sha256` maps weights files to hashes, `accelerated` is what `Acceleration.apply` returned for its network, and
    `annotated` the mark of `Candidates.take`, where it proposes annotated boxes.
    """

    sha256: Mapping[str, str]
    parameters: int = 0
    accelerated: frozenset[str] = frozenset()
    annotated: str = ""

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """One `Proposals` for each scene. A detector looks at its image only; a file is asked by its id."""
        ...


class ProposerOptions(Table):
    """[pipelines.*.proposer]: what all proposers with a detector share."""

    same_iou: float = Field(0.9, gt=0, le=1, description="above it two boxes are one")
    top_k: int = Field(20, ge=1, description="boxes of an image")
    whole_image: bool = Field(True, description="append the whole image as the last proposal")

    def tidied(self, found: Proposals, image: ImageArray) -> Proposals:
        """Apply `tidy` to what was found in an image (H, W, 3)."""
        height, width = image.shape[:2]
        return tidy(found, (width, height), self.top_k, self.same_iou, self.whole_image)


def tidy(proposals: Proposals, size: tuple[int, int], top_k: int, same: float, whole_image: bool) -> Proposals:
    """Clip to the image (width, height), drop what is empty or not finite and near copies (IoU > `same`, whatever
    their class), keep the best `top_k`, and append the whole image, so that a ranker always has something to choose.
    """
    width, height = size
    sound = np.flatnonzero(np.isfinite(proposals.scores) & np.isfinite(proposals.boxes).all(axis=1))
    order = sound[np.argsort(-proposals.scores[sound], kind="stable")][: CONSIDERED * top_k]
    boxes = clip_xyxy(proposals.boxes[order], np.full(len(order), width), np.full(len(order), height))
    real = box_area_xyxy(boxes) >= 1.0
    order, boxes = order[real], boxes[real]
    kept = _without_copies(boxes, same)[:top_k]
    order, boxes = order[kept], boxes[kept]
    scores, labels = proposals.scores[order], tuple(proposals.labels[i] for i in order)
    masks = None if proposals.masks is None else proposals.masks[order]
    if whole_image:
        if masks is not None:
            masks = np.concatenate([masks, np.ones((1, height, width), bool)])
        boxes = np.concatenate([boxes, [[0.0, 0.0, width, height]]])
        scores, labels = np.append(scores, 0.0), (*labels, "")
    return Proposals(boxes, scores, labels, masks)


def _without_copies(boxes: Boxes, same: float) -> NDArray[np.intp]:
    """Indices of the boxes that are no copy of a better one that is kept (boxes come best first)."""
    copies = np.triu(iou_pairwise(boxes, boxes) > same, k=1)
    kept = np.ones(len(boxes), bool)
    # A loop over the few that have copies at all, not over all boxes.
    for i in np.flatnonzero(copies.any(axis=1)):
        if kept[i]:
            kept &= ~copies[i]
    return np.flatnonzero(kept)


def opener(
    options: type[Options], proposer: Callable[[Options, PipelineContext], Proposer]
) -> Callable[[Mapping[str, Any], str, PipelineContext], Proposer]:
    """Make the entry point of a proposer: (its table, how messages name it, context) -> the proposer.

    What it makes raises SettingsError, and what the proposer raises.
    """
    return takes(options)(lambda table, where, context: proposer(parse_table(options, table, where), context))


def open_proposer(table: Mapping[str, Any], where: str, context: PipelineContext) -> Proposer:
    """Open the proposer a table declares; messages name the table `where`, "bench.toml [pipelines.X.proposer]".

    Raises SettingsError, UnknownName, WeightsError, MissingPackage.
    """
    rest = dict(table)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str):
        raise SettingsError(f"{where}: `kind` must name a proposer, one of {registry.names(registry.PROPOSERS)}")
    opened: Proposer = registry.load(registry.PROPOSERS, kind)(rest, where, context)
    return opened
