"""Baselines: what a score must beat to mean anything.

Language-blind: the whole image, the centre box, the best fixed box of the train split, the largest proposal, a random
proposal. Image-blind but for labels: the proposal whose class name stands in the expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
from pydantic import Field

from bench.boxes import box_area_xyxy
from bench.grounding import Box, LoadedScene, PipelineCard, PipelineContext, Prediction, Query
from bench.settings import Table, parse_table, takes
from pipelines.card import CardOptions, make_parts_card
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, open_proposer

Rule = Callable[[LoadedScene], Box]
Choice = Callable[[LoadedScene, Query, Proposals], int]  # -> index of a proposal; there is at least one


class Placed:
    """Answers every query of a scene with one box that only the image's size decides."""

    def __init__(self, card: PipelineCard, rule: Rule) -> None:
        self.card, self._rule = card, rule

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order."""
        return [Prediction(query.id, self._rule(scene)) for scene in batch for query in scene.queries]


class Chosen:
    """Answers with one of a proposer's boxes, chosen by a rule that never looks at the pixels."""

    def __init__(self, card: PipelineCard, proposer: Proposer, choice: Choice, context: PipelineContext) -> None:
        self.card, self._proposer, self._choice, self._clock = card, proposer, choice, context.clock

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order."""
        with self._clock.stage("detect"):
            proposals = self._proposer.propose(batch)
        with self._clock.stage("rank"):
            return [
                Prediction(query.id, self._answer(scene, query, found), None, found.boxes)
                for scene, found in zip(batch, proposals, strict=True)
                for query in scene.queries
            ]

    def _answer(self, scene: LoadedScene, query: Query, proposals: Proposals) -> Box:
        if not len(proposals):
            return _relative(scene, (0, 0, 1, 1))
        x1, y1, x2, y2 = proposals.boxes[self._choice(scene, query, proposals)].tolist()
        return (x1, y1, x2, y2)


class CentreOptions(Table):
    """[pipelines.centre-box]."""

    share: float = Field(0.5, gt=0, le=1, description="the box's share of each side")


class FixedOptions(Table):
    """[pipelines.fixed-box]."""

    grid: int = Field(24, ge=2, description="candidate edges along each side")
    sample: int = Field(4000, ge=1, description="train expressions the box is fitted to")


class ProposalOptions(Table):
    """[pipelines.largest-proposal], random-proposal and label-only."""

    weights: str | None = None
    proposer: dict[str, Any] = Field(default_factory=dict)
    card: CardOptions = CardOptions()


@takes(Table)
def whole_image(context: PipelineContext) -> Placed:
    """whole-image: the image's own edges."""
    parse_table(Table, context.options, f"bench.toml [pipelines.{context.name}]")
    return Placed(_card(context, "the whole image, whatever is asked"), lambda s: _relative(s, (0, 0, 1, 1)))


@takes(CentreOptions)
def centre_box(context: PipelineContext) -> Placed:
    """centre-box: a box in the middle."""
    share = parse_table(CentreOptions, context.options, f"bench.toml [pipelines.{context.name}]").share
    box = (0.5 - share / 2, 0.5 - share / 2, 0.5 + share / 2, 0.5 + share / 2)
    return Placed(_card(context, f"a box in the middle, {share:.0%} of each side"), lambda s: _relative(s, box))


@takes(FixedOptions)
def fixed_box(context: PipelineContext) -> Placed:
    """fixed-box: the box, in shares of the image's sides, that would score best on the train split."""
    options = parse_table(FixedOptions, context.options, f"bench.toml [pipelines.{context.name}]")
    shares = [
        np.asarray(e.box) / [scene.width, scene.height, scene.width, scene.height]
        for scene in context.train_scenes()
        if scene.width and scene.height
        for e in scene.expressions
    ][: options.sample]
    best = best_fixed_box(np.stack(shares), options.grid) if shares else (0.25, 0.25, 0.75, 0.75)
    card = _card(context, "the best single box of the train split: " + ", ".join(f"{v:.2f}" for v in best))
    learned = replace(card, supervision="full" if shares else "none")  # the train split's own boxes chose it
    return Placed(learned, lambda s: _relative(s, best))


def best_fixed_box(boxes: np.ndarray[Any, Any], grid: int) -> Box:
    """(N, 4) boxes in shares of the sides -> the grid box that hits most of them at IoU 0.5 (most IoU among equals)."""
    edges = np.linspace(0, 1, grid + 1)
    low, high = (axis.ravel() for axis in np.meshgrid(edges, edges, indexing="ij"))
    spans = np.stack([low, high], axis=1)[low < high]  # (S, 2)
    # What each span shares with each box along each axis, (S, N): an overlap is a product of two of them.
    across, down = (np.minimum(spans[:, 1:], boxes[:, i + 2]) - np.maximum(spans[:, :1], boxes[:, i]) for i in (0, 1))
    across, down = across.clip(0), down.clip(0)
    areas, sides = box_area_xyxy(boxes), spans[:, 1] - spans[:, 0]
    best, found = (-1, -1.0), spans[0]
    for column, (x1, x2) in enumerate(spans):  # a few hundred columns of candidates, each against all boxes at once
        shared = across[column] * down  # (S, N)
        iou = shared / (sides[column] * sides[:, None] + areas - shared)
        hits, total = (iou >= 0.5).sum(1), iou.sum(1)
        top = int(np.lexsort((total, hits))[-1])
        if (int(hits[top]), float(total[top])) > best:
            best, found = (int(hits[top]), float(total[top])), np.array([x1, spans[top, 0], x2, spans[top, 1]])
    left, upper, right, lower = (float(v) for v in found)
    return (left, upper, right, lower)


@takes(ProposalOptions)
def largest_proposal(context: PipelineContext) -> Chosen:
    """largest-proposal: the biggest box the detector found."""
    return _chosen(context, "the largest proposal", lambda s, q, p: int(np.argmax(box_area_xyxy(p.boxes))))


@takes(ProposalOptions)
def random_proposal(context: PipelineContext) -> Chosen:
    """random-proposal: any box the detector found, by the seed and the expression's id alone."""

    def choose(scene: LoadedScene, query: Query, proposals: Proposals) -> int:
        digest = sha256(f"{context.seed}/{scene.id}/{query.id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % len(proposals)

    return _chosen(context, "a proposal at random", choose)


@takes(ProposalOptions)
def label_only(context: PipelineContext) -> Chosen:
    """label-only: the most confident proposal whose class name stands in the expression, else the most confident."""

    def choose(scene: LoadedScene, query: Query, proposals: Proposals) -> int:
        words = " " + " ".join(re.findall(r"\w+", query.text.lower())) + " "
        named = [bool(label) and re.search(rf" {re.escape(label)}(s|es)? ", words) for label in proposals.labels]
        return next((i for i, hit in enumerate(named) if hit), 0)

    return _chosen(context, "the proposal whose class is named in the expression", choose)


def _chosen(context: PipelineContext, summary: str, choice: Choice) -> Chosen:
    where = f"bench.toml [pipelines.{context.name}]"
    options = parse_table(ProposalOptions, context.options, where)
    table = options.proposer | ({"weights": options.weights} if options.weights else {})
    table = {"whole_image": False} | table  # a candidate of rankers; the largest proposal would always be it
    proposer = open_proposer(table, f"{where}.proposer", context)
    card = make_parts_card(context, options.card, summary, "", {"proposer": proposer}, proposals=proposer.annotated)
    return Chosen(card, proposer, choice, context)


def _relative(scene: LoadedScene, shares: Sequence[float]) -> Box:
    height, width = scene.image.shape[:2]
    x1, y1, x2, y2 = shares
    return (x1 * width, y1 * height, x2 * width, y2 * height)


def _card(context: PipelineContext, summary: str) -> PipelineCard:
    """The card of a pipeline without weights."""
    return PipelineCard(
        context.name, summary, trained_on="nothing", saw_test_images="no", parameters=0, supervision="none"
    )
