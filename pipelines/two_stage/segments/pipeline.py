"""Segmentation and CLIP: regions that follow the image's own edges, a score map, and the best box on it.

    scenes ─► Segmenter ─► regions ─► views, or attention pooling ─► CLIP image ─┐
    expressions ───────────────────────────────────────────────────► CLIP text ─┴─► ranking ─► score map ─► box

No detector names what can be found, so anything can be. How regions are compared with an expression is the ranker's
business as in every two-stage pipeline (clip/ranking.py); here it does not choose one region: every region is painted
with what it got, and the box is where most of that lies.

    seg-clip       every region shown to CLIP as views                       (spec/pipelines.md 1.2, done right)
    clip-pooling   the whole image shown once, regions by masked attention  (Li et al. 2022)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from bench.errors import SettingsError
from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.settings import Table, merged, parse_table, takes
from pipelines.card import CardOptions, make_parts_card
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.clip.ranking import Ranker, RankerOptions
from pipelines.two_stage.proposers.proposals import Proposals
from pipelines.two_stage.segments.pooling import PoolingOptions, RegionPooling, pool_batch
from pipelines.two_stage.segments.score_map import MapOptions, best_on_maps, cells, maps_of
from pipelines.two_stage.segments.segmentation import Float, Segmentation
from pipelines.two_stage.segments.segmenters import SegmentOptions, open_segmenter

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

    def __init__(self, options: SegmentClipOptions, context: PipelineContext, summary: str, paper: str) -> None:
        self.context, self._clock, self._map = context, context.clock, options.map
        self.masked = "mask-blur" in options.ranker.views
        self.segmenter = open_segmenter(options.segments, f"bench.toml [pipelines.{context.name}.segments]", context)
        encoders = [ClipEncoder(clip, context) for clip in (options.clip, *options.ensemble)]
        self.ranker = Ranker(options.ranker, encoders, context.clock)
        models = " + ".join(encoder.options.model for encoder in encoders)
        self.card = make_parts_card(
            context,
            options.card,
            f"{options.segments.method} and {models}: {summary}",
            f"{paper}; Radford et al., CLIP, ICML 2021",
            {"segments": self.segmenter} if self.segmenter.sha256 else {},
            encoders,
            accelerated=self.accelerated(options),
        )

    def accelerated(self, options: Any) -> frozenset[str]:
        """Prepare what a subclass has besides; return the accelerations it took."""
        return frozenset()

    def score(self, batch: Sequence[LoadedScene], cuts: Sequence[Segmentation]) -> list[Float]:
        """Score the regions of each scene for its queries -> (Q, R) each."""
        return self.ranker.rank(batch, [_proposals(cut, self.masked) for cut in cuts])

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """What the ranker keeps of texts."""
        return self.ranker.caches

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order; the whole image where it has no regions."""
        with self._clock.stage("detect"):
            cuts = self.segmenter.segment(batch)
        chances = self.score(batch, cuts)
        with self._clock.stage("rank"):
            answers = []
            for scene, cut, likely in zip(batch, cuts, chances, strict=True):
                boxes, scores = best_on_maps(likely, cut, self._map)
                for query, box, score in zip(scene.queries, boxes.tolist(), scores.tolist(), strict=True):
                    answers.append(Prediction(query.id, tuple(box), score, note=self.ranker.note(query.text)))
        return answers

    def maps(self, scene: LoadedScene) -> Float:
        """What the answers are read off: a map (rows, columns) over the image for each query, 0 to 1, one array
        (Q, rows, columns); a flat 0 where the image has no regions or all of them score the same.
        """
        (cut,) = self.segmenter.segment([scene])
        if not len(cut):
            return np.zeros((len(scene.queries), *cells(cut.shape, self._map.grid)))
        (likely,) = self.score([scene], [cut])
        return maps_of(likely, cut, self._map)


class PooledScoreMap(ScoreMap):
    """A score map whose regions are encoded by masked attention over the whole image."""

    def accelerated(self, options: ClipPoolingOptions) -> frozenset[str]:
        """Open the poolings of all CLIPs; return the accelerations they took."""
        self.poolings = [RegionPooling(encoder, options.pooling) for encoder in self.ranker.encoders]
        apply = self.context.acceleration.apply
        return frozenset[str]().union(*(apply(pooling.visual, pooling.called) for pooling in self.poolings))

    def score(self, batch: Sequence[LoadedScene], cuts: Sequence[Segmentation]) -> list[Float]:
        """Score the regions of each scene for its queries -> (Q, R) each."""
        with self._clock.stage("image encode"):
            vectors = pool_batch(self.poolings, [scene.image for scene in batch], cuts)
        return self.ranker.chances(batch, [_proposals(cut, False) for cut in cuts], vectors)


@takes(SegmentClipOptions)
def seg_clip(context: PipelineContext) -> ScoreMap:
    """Open seg-clip: regions as views."""
    options = _options(SegmentClipOptions, context)
    return ScoreMap(options, context, "best box on a score map of regions", "Achanta et al., SLIC, TPAMI 2012")


@takes(ClipPoolingOptions)
def clip_pooling(context: PipelineContext) -> ScoreMap:
    """Open clip-pooling: regions by attention pooling. Raises SettingsError for options of views."""
    useless = VIEW_OPTIONS & dict(context.options.get("ranker", {})).keys()
    if useless:
        raise SettingsError(
            f"bench.toml [pipelines.{context.name}.ranker]: {', '.join(sorted(useless))}: CLIP is shown the whole "
            "image here, once, and no views of its regions; that is what seg-clip does"
        )
    return PooledScoreMap(
        _options(ClipPoolingOptions, context),
        context,
        "best box on a score map of attention-pooled regions",
        "Li et al., Adapting CLIP for Phrase Localization Without Further Training, 2022",
    )


def _options(model: type[Any], context: PipelineContext) -> Any:
    table = dict(context.options)
    weights = table.pop("weights", None)
    if weights:
        table = merged(table, {"clip": {"pretrained": weights.removeprefix("clip=")}})
    return parse_table(model, table, f"bench.toml [pipelines.{context.name}]")


def _proposals(cut: Segmentation, masked: bool) -> Proposals:
    """What a ranker is asked about: the regions, or the whole image where there are none."""
    width, height = cut.size
    if not len(cut):
        whole = np.array([[0.0, 0.0, width, height]])
        return Proposals(whole, np.ones(1), ("",), np.ones((1, height, width), bool) if masked else None)
    return Proposals(cut.boxes(), np.ones(len(cut)), ("",) * len(cut), cut.masks() if masked else None)
