"""Baselines: the score that a grounder must beat.

Without language: the whole image, the centre box, the best fixed box of the train split (of all, or of each noun), the
largest proposal, a random proposal. Without pixels but for a detector's labels: the proposal whose class name stands in
the expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.boxes import box_area_xyxy
from bench.errors import DataError
from bench.evaluation.position_prior import FEWEST, noun
from bench.grounding import Box, LoadedScene, PipelineCard, PipelineContext, Prediction, Query
from bench.hashing import spelled_out
from bench.settings import Table, takes
from pipelines.card import CardOptions, make_parts_card, parse_options
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, open_proposer, predictions

WHOLE = (0, 0, 1, 1)
Choice = Callable[[LoadedScene, Query, Proposals], int]  # -> index of a proposal; there is at least one


class Baseline:
    """A grounder that is one function of a batch, and of its proposals where it has a proposer."""

    def __init__(
        self,
        card: PipelineCard,
        predict: Callable[[Sequence[LoadedScene], Sequence[Proposals]], list[Prediction]],
        proposer: Proposer | None = None,
        context: PipelineContext | None = None,
        caches: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        self.card, self._predict, self._proposer, self._context = card, predict, proposer, context
        self.caches = caches or {}

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict one box for every query of every scene, in order."""
        if self._proposer is None or self._context is None:
            return self._predict(batch, ())
        with self._context.clock.stage("detect"):
            proposals = self._proposer.propose(batch)
        return self._predict(batch, proposals)


class CentreOptions(Table):
    """[pipelines.centre-box]."""

    share: float = Field(0.5, gt=0, le=1, description="the box's share of each side")


class FixedOptions(Table):
    """[pipelines.fixed-box]."""

    train: str = Field("", description="the split it is chosen on, file:PATH.jsonl too; empty = the data set's train")
    per: Literal["split", "noun"] = Field("split", description="one box, or one for each noun of the expressions")
    grid: int = Field(24, ge=2, description="candidate edges along each side")
    sample: int = Field(4000, ge=1, description="train expressions a box is fitted to")


class ProposalOptions(Table):
    """[pipelines.largest-proposal], random-proposal and label-only."""

    weights: str | None = None
    proposer: dict[str, Any] = Field(default_factory=dict)
    card: CardOptions = CardOptions()


@takes(Table)
def whole_image(context: PipelineContext) -> Baseline:
    """Open whole-image: the image's own edges."""
    parse_options(Table, context)
    return _placed(context, "the whole image, whatever the expression", lambda query: WHOLE)


@takes(CentreOptions)
def centre_box(context: PipelineContext) -> Baseline:
    """Open centre-box: a box in the middle."""
    share = parse_options(CentreOptions, context).share
    low, high = 0.5 - share / 2, 0.5 + share / 2
    return _placed(context, f"a box in the middle, {share:.0%} of each side", lambda query: (low, low, high, high))


@takes(FixedOptions)
def fixed_box(context: PipelineContext) -> Baseline:
    """Open fixed-box: the box, in shares of the image's sides, with the best score on the train split.

    With `per = "noun"` an expression whose noun comes at least FEWEST times in the train split gets the best box of
    that noun: the accuracy of the position prior (bench/evaluation/position_prior.py).
    """
    options = parse_options(FixedOptions, context)
    scenes = context.train_scenes(options.train) if options.train else context.train_scenes()
    shares: dict[str, list[NDArray[np.float64]]] = {"": []}  # by noun; "" has all
    for scene in scenes:
        for e in scene.expressions if scene.width and scene.height else ():
            if not e.targets:
                continue
            box: NDArray[np.float64] = np.asarray(e.box) / np.array((scene.width, scene.height) * 2, np.float64)
            shares[""].append(box)
            if options.per == "noun":
                shares.setdefault(noun(e.text), []).append(box)
    if scenes and not shares[""]:
        raise DataError(
            f"{context.name}: none of the {len(scenes):,} train images has a size; add width and height to the rows of "
            "the file, or prepare the split from a source that has them"
        )
    best = {
        name: best_fixed_box(np.stack(boxes[: options.sample]), options.grid)
        for name, boxes in shares.items()
        if len(boxes) >= (FEWEST if name else 1)
    } or {"": (0.25, 0.25, 0.75, 0.75)}
    of_all = best[""]
    summary = "the best single box of the train split: " + ", ".join(f"{v:.2f}" for v in of_all)
    if options.per == "noun":
        summary = f"the best box of the train split for the expression's noun ({len(best) - 1:,} nouns)"
    baseline = _placed(context, summary, lambda query: best.get(noun(query.text), of_all) if len(best) > 1 else of_all)
    # The train split's own boxes chose it.
    baseline.card = replace(baseline.card, supervision="full" if shares[""] else "none")
    return baseline


def best_fixed_box(boxes: np.ndarray[Any, Any], grid: int) -> Box:
    """Search the grid box with most hits at IoU 0.5, of equals with most IoU; boxes (N, 4) in shares of the sides."""
    # 1. The overlap of each span of the grid with each box along each axis, (S, N): an overlap is a product of two.
    edges = np.linspace(0, 1, grid + 1)
    low, high = (axis.ravel() for axis in np.meshgrid(edges, edges, indexing="ij"))
    spans = np.stack([low, high], axis=1)[low < high]  # (S, 2)
    across, down = (np.minimum(spans[:, 1:], boxes[:, i + 2]) - np.maximum(spans[:, :1], boxes[:, i]) for i in (0, 1))
    across, down = across.clip(0), down.clip(0)
    areas, sides = box_area_xyxy(boxes), spans[:, 1] - spans[:, 0]
    # 2. A few hundred columns of candidates, each against all boxes at once.
    best, best_box = (-1, -1.0), spans[0]
    for column, (x1, x2) in enumerate(spans):
        shared = across[column] * down  # (S, N)
        iou = shared / (sides[column] * sides[:, None] + areas - shared)
        hits, total = (iou >= 0.5).sum(1), iou.sum(1)
        top = int(np.lexsort((total, hits))[-1])
        if (int(hits[top]), float(total[top])) > best:
            best, best_box = (int(hits[top]), float(total[top])), np.array([x1, spans[top, 0], x2, spans[top, 1]])
    left, upper, right, lower = (float(v) for v in best_box)
    return (left, upper, right, lower)


@takes(ProposalOptions)
def largest_proposal(context: PipelineContext) -> Baseline:
    """Open largest-proposal: the detector's largest box."""
    return _chosen(context, "the largest proposal", lambda s, q, p: int(np.argmax(box_area_xyxy(p.boxes))))


@takes(ProposalOptions)
def random_proposal(context: PipelineContext) -> Baseline:
    """Open random-proposal: any box of the detector, by the seed and the expression's id alone."""

    def choose(scene: LoadedScene, query: Query, proposals: Proposals) -> int:
        digest = sha256(f"{context.seed}/{scene.id}/{query.id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % len(proposals)

    return _chosen(context, "a proposal at random", choose)


@takes(ProposalOptions)
def label_only(context: PipelineContext) -> Baseline:
    """Open label-only: the most confident proposal whose class is in the expression, else the most confident."""

    def choose(scene: LoadedScene, query: Query, proposals: Proposals) -> int:
        words = " " + " ".join(re.findall(r"\w+", query.text.lower())) + " "
        named = [bool(label) and re.search(rf" {re.escape(label)}(s|es)? ", words) for label in proposals.labels]
        return next((i for i, hit in enumerate(named) if hit), 0)

    return _chosen(context, "the proposal whose class is named in the expression", choose)


def _chosen(context: PipelineContext, summary: str, choose: Choice) -> Baseline:
    options = parse_options(ProposalOptions, context, spelled_out(context.options, "proposer"))
    proposer = open_named(options.proposer, context)
    card = make_parts_card(context, options.card, summary, "", {"proposer": proposer}, proposals=proposer.annotated)

    def predict(batch: Sequence[LoadedScene], proposals: Sequence[Proposals]) -> list[Prediction]:
        answers = []
        with context.clock.stage("rank"):
            for scene, mine in zip(batch, proposals, strict=True):
                if len(mine):
                    best = [choose(scene, query, mine) for query in scene.queries]
                    answers += predictions(scene, replace(mine, note=""), best)
                else:
                    whole = _relative(scene, WHOLE)
                    answers += [Prediction(query.id, whole, None, mine.boxes) for query in scene.queries]
        return answers

    return Baseline(card, predict, proposer, context)


def open_named(table: Mapping[str, Any], context: PipelineContext) -> Proposer:
    """Open a proposer without the whole image, which has no name and would always be the largest proposal."""
    return open_proposer({"whole_image": False, **table}, f"bench.toml [pipelines.{context.name}.proposer]", context)


def _placed(context: PipelineContext, summary: str, shares: Callable[[Query], Box]) -> Baseline:
    """Make a baseline, without weights, that answers a query with a box in shares of the image's sides."""
    card = PipelineCard(
        context.name, summary, trained_on="nothing", saw_test_images="no", parameters=0, supervision="none"
    )

    def predict(batch: Sequence[LoadedScene], _: Sequence[Proposals]) -> list[Prediction]:
        return [Prediction(query.id, _relative(scene, shares(query))) for scene in batch for query in scene.queries]

    return Baseline(card, predict)


def _relative(scene: LoadedScene, shares: Box) -> Box:
    height, width = scene.image.shape[:2]
    x1, y1, x2, y2 = shares
    return (x1 * width, y1 * height, x2 * width, y2 * height)
