"""Two-stage grounding: a proposer finds boxes, CLIP says which of them the expression is about.

    scenes ─► Proposer ─► boxes ─► views ─► CLIP image ─┐
    expressions ───────────────────────────► CLIP text ─┴─► ranking ─► one box each

How regions are shown, how many CLIPs look at them and what is made of "left of" is the ranker's (clip/ranking.py).
A pipeline of this kind is an entry point that names `two_stage`, and a table of bench.toml that declares its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import Field

from bench.errors import SettingsError
from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.settings import Table, merged, parse_table, takes
from pipelines.card import CardOptions, make_parts_card
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.clip.ranking import Float, Ranker, RankerOptions
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, open_proposer

if TYPE_CHECKING:
    from bench.training.task import TaskFactory, TrainingJob


class TwoStageOptions(Table):
    """The whole table of a two-stage pipeline; `proposer` is the proposer's own business."""

    weights: str | None = Field(None, description="shorthand of the flag: FILE, or proposer=FILE,clip=FILE")
    proposer: dict[str, Any] = Field(default_factory=dict)
    clip: ClipOptions = ClipOptions()
    ensemble: tuple[ClipOptions, ...] = Field((), description="further CLIPs, whose logits are added")
    ranker: RankerOptions = RankerOptions()
    card: CardOptions = CardOptions()


class TwoStage:
    """A grounder made of a proposer and a ranker."""

    def __init__(self, proposer: Proposer, ranker: Ranker, options: TwoStageOptions, context: PipelineContext) -> None:
        self.proposer, self.ranker = proposer, ranker
        self.clock = context.clock
        names = " + ".join(encoder.options.model for encoder in ranker.encoders)
        parser = {"off": "", "rules": ", comparisons by rules", "spacy": ", comparisons by rules on spaCy's parse"}
        self.card = make_parts_card(
            context,
            options.card,
            f"{type(proposer).__name__} proposals ranked by {names}{parser[options.ranker.relations]}",
            "Subramanian et al., ReCLIP, ACL 2022 (region views); Radford et al., CLIP, ICML 2021",
            {"proposer": proposer},
            ranker.encoders,
            proposer.annotated,
        )

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """What the ranker keeps of texts."""
        return self.ranker.caches

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order; no box where nothing was proposed."""
        with self.clock.stage("detect"):
            proposals = self.proposer.propose(batch)
        answers = []
        for scene, found, chances in zip(batch, proposals, self.ranker.rank(batch, proposals), strict=True):
            for query, row in zip(scene.queries, chances, strict=True):
                best = int(row.argmax()) if len(found) else None
                box = None if best is None else tuple(found.boxes[best].tolist())
                score = None if best is None else float(row[best])
                note = "; ".join(filter(None, (found.note, self.ranker.note(query.text))))
                answers.append(Prediction(query.id, box, score, found.boxes, note))
        return answers

    def weighed(self, scene: LoadedScene) -> tuple[Proposals, Float]:
        """What the answers are chosen from: a scene's R proposals, and each query's probabilities over them (Q, R)."""
        (found,) = self.proposer.propose([scene])
        (chances,) = self.ranker.rank([scene], [found])
        return found, chances


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


@takes(TwoStageOptions)
def two_stage(context: PipelineContext) -> TwoStage:
    """yolo-clip, detr-clip, ssd-clip and every other pipeline that bench.toml declares as a proposer and a CLIP."""
    options = options_of(context)
    proposer = open_proposer(options.proposer, f"bench.toml [pipelines.{context.name}.proposer]", context)
    encoders = [ClipEncoder(clip, context) for clip in (options.clip, *options.ensemble)]
    return TwoStage(proposer, Ranker(options.ranker, encoders, context.clock), options, context)


DETECTORS = {  # kind of proposer -> its training
    "yolo": "pipelines.two_stage.proposers.yolo_training:YoloTraining",
    "ssd": "pipelines.two_stage.proposers.tasks:SsdTask",
    "detr": "pipelines.two_stage.proposers.tasks:DetrTask",
}


def tasks(job: TrainingJob) -> dict[str, TaskFactory]:
    """Return the trainings of a pipeline's detector, by the kind of its proposer, and of its CLIP.

    [train.NAME.PART] of bench.toml is a part's config. Raises SettingsError for a table of another part.
    """
    kind = job.context.options.get("proposer", {}).get("kind")
    parts = {"detector": DETECTORS[kind]} if kind in DETECTORS else {}
    parts["clip"] = "pipelines.two_stage.clip.task:ClipTask"
    if unknown := job.recipe.keys() - parts.keys():
        raise SettingsError(
            f"bench.toml [train.{job.context.name}]: unknown key {min(unknown)!r}; parts: {list(parts)}"
        )

    def factory(part: str) -> TaskFactory:
        module, _, name = parts[part].partition(":")
        return lambda: getattr(import_module(module), name)(replace(job, recipe=job.recipe.get(part, {})))

    return {part: factory(part) for part in parts}
