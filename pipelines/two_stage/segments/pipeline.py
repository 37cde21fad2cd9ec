"""Segmentation and CLIP: regions that follow the image's own edges, a score map, and the best box on it.

    scenes ─► Segmenter ─► regions ─► views, or attention pooling ─► CLIP image ─┐
    expressions ───────────────────────────────────────────────────► CLIP text ─┴─► ranking ─► score map ─► box

No detector limits the classes. The ranker compares regions with an expression as in every two-stage pipeline
(clip/ranking.py), but it does not choose one: every region is painted with its score, and the box covers the peak.

    seg-clip       every region encoded by CLIP as views
    clip-pooling   the whole image encoded once, regions by masked attention  (Li et al. 2022)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bench.errors import SettingsError
from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.hashing import spelled_out
from bench.settings import Table, takes
from pipelines.card import CardOptions, Options, make_parts_card, parse_options
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.clip.pooling import PoolingOptions, RegionPooling
from pipelines.two_stage.clip.ranking import Ranker, RankerOptions
from pipelines.two_stage.proposers.proposals import Proposals
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
    """A grounder that answers with the best box on a map of the regions' scores."""

    def __init__(self, options: SegmentClipOptions, context: PipelineContext, summary: str, paper: str) -> None:
        self._clock, self._map = context.clock, options.map
        self.masked = "mask-blur" in options.ranker.views
        where = f"bench.toml [pipelines.{context.name}.segments]"
        self.segment, model = open_segmenter(options.segments, where, context)
        encoders = [ClipEncoder(clip, context) for clip in (options.clip, *options.ensemble)]
        self.ranker = Ranker(options.ranker, encoders, context.clock)
        self.caches = self.ranker.caches
        # With a pooling, regions are masks of the attention over the whole image; else each is a few views.
        pooling = options.pooling if isinstance(options, ClipPoolingOptions) else None
        self.poolings = [RegionPooling(one.model, one.options.model, pooling) for one in encoders] if pooling else []
        accelerated = [one.accelerate(context) for one in (*self.poolings, *self.ranker.poolings)]
        models = " + ".join(encoder.options.model for encoder in encoders)
        self.card = make_parts_card(
            context,
            options.card,
            f"{options.segments.method} and {models}: {summary}",
            f"{paper}; Radford et al., CLIP, ICML 2021",
            {"segments": model} if model else {},
            encoders,
            accelerated=frozenset[str]().union(*accelerated),
        )

    def score(self, batch: Sequence[LoadedScene], cuts: Sequence[Segmentation]) -> list[Float]:
        """Score the regions of each scene for its queries -> (Q, R) each."""
        proposals = [_proposals(cut, self.masked and not self.poolings) for cut in cuts]
        if not self.poolings:
            return self.ranker.rank(batch, proposals)
        with self._clock.stage("image encode"):
            vectors = [_pooled(pooling, batch, cuts) for pooling in self.poolings]
        return self.ranker.probabilities(batch, proposals, vectors)

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict one box for every query, in order; the whole image where a scene has no regions."""
        with self._clock.stage("detect"):
            cuts = self.segment(batch)
        probabilities = self.score(batch, cuts)
        with self._clock.stage("rank"):
            answers = []
            for scene, cut, rows in zip(batch, cuts, probabilities, strict=True):
                boxes, scores = best_on_maps(rows, cut, self._map)
                for query, box, score in zip(scene.queries, boxes.tolist(), scores.tolist(), strict=True):
                    answers.append(Prediction(query.id, tuple(box), score, note=self.ranker.note(query.text)))
        return answers

    def maps(self, scene: LoadedScene) -> Float:
        """Compute the map behind each query's answer, 0 to 1 -> (Q, rows, columns) over the image.

        It is a flat 0 where the image has no regions or all of them score the same.
        """
        (cut,) = self.segment([scene])
        if not len(cut):
            return np.zeros((len(scene.queries), *cells(cut.shape, self._map.grid)))
        (probabilities,) = self.score([scene], [cut])
        return maps_of(probabilities, cut, self._map)


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
            f"bench.toml [pipelines.{context.name}.ranker]: {', '.join(sorted(useless))}: CLIP encodes the whole "
            "image here, once, and no views of its regions; that is what seg-clip does"
        )
    return ScoreMap(
        _options(ClipPoolingOptions, context),
        context,
        "best box on a score map of attention-pooled regions",
        "Li et al., Adapting CLIP for Phrase Localization Without Further Training, 2022",
    )


def _options(model: type[Options], context: PipelineContext) -> Options:
    return parse_options(model, context, spelled_out(context.options, "clip"))


@torch.inference_mode()
def _pooled(pooling: RegionPooling, batch: Sequence[LoadedScene], cuts: Sequence[Segmentation]) -> Tensor:
    """Encode the regions of scenes -> (sum of R, D), one image at a time: there may be a thousand regions."""
    pairs = zip(batch, cuts, strict=True)
    return torch.cat([pooling.encode([scene.image], [covered(cut, pooling.side)]) for scene, cut in pairs])


def covered(cut: Segmentation, side: int) -> Tensor:
    """Compute the share of each cell that each region covers -> (R, side * side); all of it where there are none."""
    shares = torch.from_numpy(cut.coverage(side, side)).flatten(1)
    return shares if len(cut) else torch.ones(1, side * side)


def _proposals(cut: Segmentation, masked: bool) -> Proposals:
    """Make proposals of the regions, or of the whole image where there are none."""
    width, height = cut.size
    if not len(cut):
        whole = np.array([[0.0, 0.0, width, height]])
        return Proposals(whole, np.ones(1), ("",), np.ones((1, height, width), bool) if masked else None)
    return Proposals(cut.boxes(), np.ones(len(cut)), ("",) * len(cut), cut.masks() if masked else None)
