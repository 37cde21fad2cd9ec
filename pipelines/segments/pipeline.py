"""Segmentation and CLIP: regions that follow the picture's own edges, a score map, and the best box on it.

    scenes ─► Segmenter ─► regions ─► views, or attention pooling ─► CLIP image ─┐
    expressions ───────────────────────────────────────────────────► CLIP text ─┴─► ranking ─► score map ─► box

No detector names what can be found, so anything can be. How regions are compared with an expression is the ranker's
business as in every two-stage pipeline (pipelines/clip/ranking.py); here it does not choose one region: every region is
painted with what it got, and the box is where most of that lies.

    seg-clip       every region shown to CLIP as views                       (spec/pipelines.md 1.2, done right)
    clip-pooling   the whole picture shown once, regions by masked attention  (Li et al. 2022)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from bench.errors import SettingsError
from bench.grounding import LoadedScene, PipelineCard, PipelineContext, Prediction, StageClock
from bench.settings import Table, merged, parse_table
from pipelines.card import CardOptions, card_in_force
from pipelines.clip.encoder import ClipEncoder, ClipOptions
from pipelines.clip.ranking import Ranker, RankerOptions
from pipelines.proposers.proposals import Proposals
from pipelines.segments.pooling import PoolingOptions, RegionPooling, pool_batch
from pipelines.segments.score_map import MapOptions, best_on_maps, cells, maps_of
from pipelines.segments.segmentation import Float, Segmentation
from pipelines.segments.segmenters import Segmenter, SegmentOptions, open_segmenter

Scorer = Callable[[Sequence[LoadedScene], Sequence[Segmentation]], list[Float]]  # -> (Q, R) of each scene
VIEW_OPTIONS = frozenset({"views", "margin", "resize"})


class SegmentClipOptions(Table):
    """The whole table of seg-clip."""

    weights: str | None = Field(None, description="shorthand of the flag: the CLIP's FILE or tag")
    segments: SegmentOptions = SegmentOptions()
    clip: ClipOptions = ClipOptions()
    ensemble: tuple[ClipOptions, ...] = Field((), description="further CLIPs, whose logits are added")
    ranker: RankerOptions = RankerOptions()
    map: MapOptions = MapOptions()
    card: CardOptions = CardOptions()


class ClipPoolingOptions(SegmentClipOptions):
    """The whole table of clip-pooling."""

    pooling: PoolingOptions = PoolingOptions()


class ScoreMap:
    """A grounder that answers with the best box on a map of what the regions score."""

    def __init__(
        self,
        segmenter: Segmenter,
        score: Scorer,
        ranker: Ranker,
        options: SegmentClipOptions,
        card: PipelineCard,
        clock: StageClock,
    ) -> None:
        self.segmenter, self.ranker, self.card = segmenter, ranker, card
        self._score, self._map, self._clock = score, options.map, clock

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """What the ranker keeps of texts."""
        return self.ranker.caches

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order; the whole picture where it has no regions."""
        with self._clock.stage("detect"):
            cuts = self.segmenter.segment(batch)
        chances = self._score(batch, cuts)
        with self._clock.stage("rank"):
            answers = []
            for scene, cut, likely in zip(batch, cuts, chances, strict=True):
                boxes, scores = best_on_maps(likely, cut, self._map)
                for query, box, score in zip(scene.queries, boxes.tolist(), scores.tolist(), strict=True):
                    answers.append(Prediction(query.id, tuple(box), score, note=self.ranker.note(query.text)))
        return answers

    def maps(self, scene: LoadedScene) -> Float:
        """What the answers are read off: a map (rows, columns) over the picture for each query, 0 to 1, one array
        (Q, rows, columns); a flat 0 where the picture has no regions or all of them score the same.
        """
        (cut,) = self.segmenter.segment([scene])
        if not len(cut):
            return np.zeros((len(scene.queries), *cells(cut.shape, self._map.grid)))
        (likely,) = self._score([scene], [cut])
        return maps_of(likely, cut, self._map)


def seg_clip(context: PipelineContext) -> ScoreMap:
    """seg-clip: regions shown to CLIP as views."""
    options = _options(SegmentClipOptions, context)
    masked = "mask-blur" in options.ranker.views
    segmenter, ranker = _parts(options, context)

    def score(batch: Sequence[LoadedScene], cuts: Sequence[Segmentation]) -> list[Float]:
        return ranker.rank(batch, [_proposals(cut, masked) for cut in cuts])

    card = _card(
        context, options, segmenter, ranker, "best box on a score map of regions", "Achanta et al., SLIC, TPAMI 2012"
    )
    return ScoreMap(segmenter, score, ranker, options, card, context.clock)


def clip_pooling(context: PipelineContext) -> ScoreMap:
    """clip-pooling: regions by attention pooling."""
    said = VIEW_OPTIONS & dict(context.options.get("ranker", {})).keys()
    if said:
        raise SettingsError(
            f"bench.toml [pipelines.{context.name}.ranker]: {', '.join(sorted(said))}: CLIP is shown the whole picture "
            "here, once, and no views of its regions; that is what seg-clip does"
        )
    options = _options(ClipPoolingOptions, context)
    segmenter, ranker = _parts(options, context)
    poolings = [RegionPooling(encoder, options.pooling) for encoder in ranker.encoders]
    pooled = [context.acceleration.apply(pooling.visual, pooling.called) for pooling in poolings]

    def score(batch: Sequence[LoadedScene], cuts: Sequence[Segmentation]) -> list[Float]:
        with context.clock.stage("image encode"):
            vectors = pool_batch(poolings, [scene.picture for scene in batch], cuts)
        return ranker.chances(batch, [_proposals(cut, False) for cut in cuts], vectors)

    card = _card(
        context,
        options,
        segmenter,
        ranker,
        "best box on a score map of attention-pooled regions",
        "Li et al., Adapting CLIP for Phrase Localization Without Further Training, 2022",
        frozenset[str]().union(*pooled),
    )
    return ScoreMap(segmenter, score, ranker, options, card, context.clock)


def _options(model: type[Any], context: PipelineContext) -> Any:
    table = dict(context.options)
    weights = table.pop("weights", None)
    if weights:
        table = merged(table, {"clip": {"pretrained": weights.removeprefix("clip=")}})
    return parse_table(model, table, f"bench.toml [pipelines.{context.name}]")


def _parts(options: SegmentClipOptions, context: PipelineContext) -> tuple[Segmenter, Ranker]:
    segmenter = open_segmenter(options.segments, f"bench.toml [pipelines.{context.name}.segments]", context)
    encoders = [ClipEncoder(clip, context) for clip in (options.clip, *options.ensemble)]
    return segmenter, Ranker(options.ranker, encoders, context.clock)


def _proposals(cut: Segmentation, masked: bool) -> Proposals:
    """What a ranker is asked about: the regions, or the whole picture where there are none."""
    width, height = cut.size
    if not len(cut):
        whole = np.array([[0.0, 0.0, width, height]])
        return Proposals(whole, np.ones(1), ("",), np.ones((1, height, width), bool) if masked else None)
    return Proposals(cut.boxes(), np.ones(len(cut)), ("",) * len(cut), cut.masks() if masked else None)


def _card(
    context: PipelineContext,
    options: SegmentClipOptions,
    segmenter: Segmenter,
    ranker: Ranker,
    summary: str,
    paper: str,
    pooled: frozenset[str] = frozenset(),
) -> PipelineCard:
    clips = [encoder.options for encoder in ranker.encoders]
    method = options.segments.method
    weights = {"clip": ", ".join(f"{clip.model} {clip.pretrained}" for clip in clips)}
    sha256 = {"clip": ", ".join(digest for encoder in ranker.encoders for digest in encoder.sha256.values())}
    named = {"clip": [clip.pretrained for clip in clips]}
    if segmenter.sha256:
        weights["segments"], sha256["segments"] = ", ".join(segmenter.sha256), ", ".join(segmenter.sha256.values())
        named["segments"] = list(segmenter.sha256)
    return PipelineCard(
        name=context.name,
        summary=f"{method} and {' + '.join(clip.model for clip in clips)}: {summary}",
        paper=f"{paper}; Radford et al., CLIP, ICML 2021",
        weights=weights,
        sha256=sha256,
        parameters=segmenter.parameters + sum(encoder.parameters for encoder in ranker.encoders),
        accelerated=segmenter.accelerated.union(pooled, *(encoder.accelerated for encoder in ranker.encoders)),
        **card_in_force(options.card, named, context),
    )
