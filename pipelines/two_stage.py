"""Two-stage grounding: a proposer finds boxes, CLIP says which of them the expression is about.

    scenes ─► Proposer ─► boxes ─► views ─► CLIP image ─┐
    expressions ───────────────────────────► CLIP text ─┴─► ranking ─► one box each

Everything about a picture is done once for all its expressions, and the regions of a whole batch share forward passes.
A pipeline of this kind is an entry point that names `two_stage`, and a table of bench.toml that declares its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from bench.errors import SettingsError
from bench.grounding import LoadedScene, PipelineCard, PipelineContext, Prediction
from bench.settings import merged, parse_table
from pipelines.card import CardOptions, card_in_force
from pipelines.clip.encoder import ClipEncoder, ClipOptions
from pipelines.clip.ranking import BANK, rank
from pipelines.clip.views import View, make_views
from pipelines.proposers.opening import open_proposer
from pipelines.proposers.proposals import Proposals, Proposer

if TYPE_CHECKING:
    from torch import Tensor


class RankerOptions(BaseModel):
    """[pipelines.*.ranker]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: tuple[View, ...] = Field(("crop", "blur"), min_length=1)
    margin: float = Field(0.0, ge=0, description="widen each crop by this share of its sides")
    prompt: str = Field("a photo of {}", pattern=r"\{\}")
    subtract: float = Field(0.0, ge=0, description="weight of the score subtraction; 0 = off")


class TwoStageOptions(BaseModel):
    """The whole table of a two-stage pipeline; `proposer` is the proposer's own business."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str | None = Field(None, description="shorthand of the flag: FILE, or proposer=FILE,clip=FILE")
    proposer: dict[str, Any] = Field(default_factory=dict)
    clip: ClipOptions = ClipOptions()
    ranker: RankerOptions = RankerOptions()
    card: CardOptions = CardOptions()


class TwoStage:
    """A grounder made of a proposer and a CLIP."""

    def __init__(
        self, proposer: Proposer, encoder: ClipEncoder, options: TwoStageOptions, context: PipelineContext
    ) -> None:
        self.proposer, self.encoder, self.ranker = proposer, encoder, options.ranker
        self.clock = context.clock
        self.card = PipelineCard(
            name=context.name,
            summary=f"{type(proposer).__name__} proposals ranked by {options.clip.model}",
            paper="Subramanian et al., ReCLIP, ACL 2022 (region views); Radford et al., CLIP, ICML 2021",
            weights={"proposer": ", ".join(proposer.sha256), "clip": f"{options.clip.model} {options.clip.pretrained}"},
            sha256={"proposer": ", ".join(proposer.sha256.values()), "clip": ", ".join(encoder.sha256.values())},
            parameters=proposer.parameters + encoder.parameters,
            **card_in_force(options.card, {"proposer": proposer.sha256, "clip": [options.clip.pretrained]}, context),
        )

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order."""
        with self.clock.stage("detect"):
            proposals = self.proposer.propose(batch)
        with self.clock.stage("crop"):
            views = torch.cat([self._views(s, p) for s, p in zip(batch, proposals, strict=True)], dim=1)
        with self.clock.stage("image encode"):
            vectors = self.encoder.encode_images(views.flatten(0, 1)).unflatten(0, views.shape[:2])  # (V, R, D)
        with self.clock.stage("text encode"):
            texts = self._texts([query.text for scene in batch for query in scene.queries])
            bank = self._texts(BANK) if self.ranker.subtract else None
        with self.clock.stage("rank"):
            regions = vectors.split([len(p) for p in proposals], dim=1)
            asked = texts.split([len(scene.queries) for scene in batch])
            answers = []
            for scene, found, region, text in zip(batch, proposals, regions, asked, strict=True):
                chances = rank(region, text, self.encoder.scale, bank, self.ranker.subtract)
                answers += self._answers(scene, found, chances)
        return answers

    def _views(self, scene: LoadedScene, proposals: Proposals) -> Tensor:
        ranker = self.ranker
        size, device = self.encoder.image_size, self.encoder.device
        return make_views(scene.picture, proposals.boxes, ranker.views, size, ranker.margin, device)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self.encoder.encode_texts([self.ranker.prompt.replace("{}", text.lower()) for text in texts])

    def _answers(self, scene: LoadedScene, proposals: Proposals, chances: Tensor) -> list[Prediction]:
        """(Q, R) probabilities -> the likeliest region of each query."""
        scores, choices = chances.max(dim=-1)
        boxes = proposals.boxes[choices.cpu().numpy()]
        return [
            Prediction(query.id, tuple(box), score, proposals.boxes, self.encoder.cut(query.text))
            for query, box, score in zip(scene.queries, boxes.tolist(), scores.tolist(), strict=True)
        ]


def options_of(context: PipelineContext) -> TwoStageOptions:
    """The pipeline's table, the `weights` shorthand spelled out. Raises SettingsError."""
    table = dict(context.options)
    for part, name in _spelled_out(table.pop("weights", None)).items():
        table = merged(table, {part: {"pretrained" if part == "clip" else "weights": name}})
    return parse_table(TwoStageOptions, table, f"bench.toml [pipelines.{context.name}]")


def _spelled_out(weights: str | None) -> dict[str, str]:
    if not weights:
        return {}
    if "=" not in weights:
        return {"proposer": weights}
    parts = dict(item.partition("=")[::2] for item in weights.split(","))
    if parts.keys() - {"proposer", "clip"}:
        raise SettingsError(f"--weights {weights!r}: expected FILE, or proposer=FILE,clip=FILE")
    return parts


def two_stage(context: PipelineContext) -> TwoStage:
    """yolo-clip, detr-clip, ssd-clip and every other pipeline that bench.toml declares as a proposer and a CLIP."""
    options = options_of(context)
    proposer = open_proposer(options.proposer, f"bench.toml [pipelines.{context.name}.proposer]", context)
    return TwoStage(proposer, ClipEncoder(options.clip, context), options, context)
