"""Two-stage grounding: a proposer proposes boxes, and CLIP ranks them for each expression.

    scenes ─► Proposer ─► boxes ─► views ─► CLIP image ─┐
    expressions ───────────────────────────► CLIP text ─┴─► ranking ─► one box each

The ranker (clip/ranking.py) owns the views of regions, the number of CLIPs, and the rules for "left of".
A pipeline of this kind is an entry point that names `two_stage`, and a table of bench.toml that declares its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import Field

from bench.errors import SettingsError
from bench.grounding import ImageArray, LoadedScene, PipelineContext, Prediction
from bench.hashing import find_file, spelled_out
from bench.settings import Table, parse_table, shipped_options, takes
from pipelines.card import CardOptions, make_parts_card, parse_options
from pipelines.sets import scored_set
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.clip.ranking import Float, Ranker, RankerOptions
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, open_proposer, predictions
from pipelines.weights import read_metadata

if TYPE_CHECKING:
    from bench.training.task import TaskFactory, TrainingJob


class TwoStageOptions(Table):
    """The whole table of a two-stage pipeline; `proposer` is parsed by the proposer itself."""

    weights: str | None = Field(None, description="shorthand of the flag: FILE, or proposer=FILE,clip=FILE")
    proposer: dict[str, Any] = Field(default_factory=dict)
    clip: ClipOptions = ClipOptions()
    ensemble: tuple[ClipOptions, ...] = Field((), description="further CLIPs, whose logits are added")
    ranker: RankerOptions = RankerOptions()
    card: CardOptions = CardOptions()


class TwoStage:
    """A grounder made of a proposer and a ranker."""

    def __init__(self, proposer: Proposer, ranker: Ranker, options: TwoStageOptions, context: PipelineContext) -> None:
        self.proposer, self.ranker, self.caches = proposer, ranker, ranker.caches
        self.clock, self.several = context.clock, context.several
        names = " + ".join(encoder.options.model for encoder in ranker.encoders)
        kind = getattr(proposer, "name", type(proposer).__name__)
        parser = {"off": "", "rules": ", comparisons by rules", "spacy": ", comparisons by rules on spaCy's parse"}
        self.card = make_parts_card(
            context,
            options.card,
            f"{kind} proposals ranked by {names}{parser[options.ranker.relations]}",
            "Subramanian et al., ReCLIP, ACL 2022 (region views); Radford et al., CLIP, ICML 2021",
            {"proposer": proposer},
            ranker.encoders,
            proposer.annotated,
            frozenset[str]().union(*(pooling.accelerate(context) for pooling in ranker.poolings)),
        )

    def prepare(self, image: ImageArray) -> Any:
        """Make the proposer's input of an image, in a decode thread; None where it is made in the batch."""
        prepare = getattr(self.proposer, "prepare", None)  # a proposer of another package may have none
        return None if prepare is None else prepare(image)

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict the best box of every query of every scene, in order; none where nothing was proposed.

        Where several are wanted, all proposals with their probabilities.
        """
        with self.clock.stage("detect"):
            proposals = self.proposer.propose(batch)
        answers = []
        for scene, mine, rows in zip(batch, proposals, self.ranker.rank(batch, proposals), strict=True):
            notes = [self.ranker.note(query.text) for query in scene.queries]
            if self.several:
                for query, own, note in zip(scene.queries, rows, notes, strict=True):
                    remark = "; ".join(filter(None, (mine.note, note)))
                    answers.append(scored_set(query.id, mine.boxes, own, remark, mine.boxes))
                continue
            best = rows.argmax(axis=1) if len(mine) else None
            scores = None if best is None else rows.max(axis=1)
            answers += predictions(scene, mine, best, scores, notes)
        return answers

    def weighed(self, scene: LoadedScene) -> tuple[Proposals, Float]:
        """Return a scene's R proposals, and each query's probabilities over them (Q, R)."""
        (proposals,) = self.proposer.propose([scene])
        (probabilities,) = self.ranker.rank([scene], [proposals])
        return proposals, probabilities


def options_of(context: PipelineContext) -> TwoStageOptions:
    """Parse the pipeline's table, with the `weights` shorthand written out. Raises SettingsError."""
    options = parse_options(TwoStageOptions, context, spelled_out(context.options, "proposer"))
    if options.weights:
        raise SettingsError(f"--weights {options.weights!r}: expected FILE, or proposer=FILE,clip=FILE")
    return options


def as_trained(options: TwoStageOptions, context: PipelineContext) -> TwoStageOptions:
    """Take the model and the ranker's options of the CLIP's file, unless the user's options say otherwise.

    What the project's own bench.toml says belongs to the weights that it names. Raises SettingsError for a file that
    says what no ranker takes, WeightsError for a broken one.
    """
    path = find_file(options.clip.pretrained, context)
    metadata = read_metadata(path) if path else {}
    trained, recipe = metadata.get("ranker"), metadata.get("recipe")
    if not isinstance(trained, dict) or not isinstance(recipe, dict):
        return options
    shipped = shipped_options(context.name, context.dataset)
    usual = RankerOptions(**shipped.get("ranker", {})).model_dump()
    given = options.ranker.model_dump(exclude_unset=True)
    follows = {key: trained[key] for key in TRAINED_RANKER if key in trained}
    own = {key: value for key, value in given.items() if key not in follows or value != usual[key]}
    ranker = parse_table(RankerOptions, {**follows, **own}, f"{path}: ranker")
    clip = options.clip
    if clip.model == ClipOptions(**shipped.get("clip", {})).model:
        clip = parse_table(
            ClipOptions, {**clip.model_dump(), "model": recipe.get("model", clip.model)}, f"{path}: recipe"
        )
    return options.model_copy(update={"ranker": ranker, "clip": clip})


@takes(TwoStageOptions)
def two_stage(context: PipelineContext) -> TwoStage:
    """Open yolo-clip, detr-clip, ssd-clip and every other pipeline declared as a proposer and a CLIP."""
    options = as_trained(options_of(context), context)
    proposer = open_proposer(options.proposer, f"bench.toml [pipelines.{context.name}.proposer]", context)
    encoders = [ClipEncoder(clip, context) for clip in (options.clip, *options.ensemble)]
    return TwoStage(proposer, Ranker(options.ranker, encoders, context.clock), options, context)


# What of a ranker belongs to the weights of the CLIP that was trained with it.
TRAINED_RANKER = ("views", "margin", "resize", "prompt", "tint_colour", "tint_alpha", "tint_line")

DETECTORS = {  # kind of proposer -> its training
    "yolo": "pipelines.two_stage.proposers.yolo_training:YoloTraining",
    "ssd": "pipelines.two_stage.proposers.tasks:SsdTask",
    "detr": "pipelines.two_stage.proposers.tasks:DetrTask",
}


def task_paths(options: Any) -> dict[str, str]:
    """Name the task of each part, "module:class", by the kind of the pipeline's proposer."""
    kind = options.get("proposer", {}).get("kind")
    detector = {"detector": DETECTORS[kind]} if kind in DETECTORS else {}
    return {**detector, "clip": "pipelines.two_stage.tuning.task:ClipTask"}


def _task(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


@takes(lambda options: {part: _task(path).Config for part, path in task_paths(options).items()})
def tasks(job: TrainingJob) -> dict[str, TaskFactory]:
    """Return the trainings of a pipeline's detector, by the kind of its proposer, and of its CLIP.

    [train.NAME.PART] of bench.toml is a part's config. Raises SettingsError for a table of another part.
    """
    paths = task_paths(job.context.options)
    if unknown := job.recipe.keys() - paths.keys():
        raise SettingsError(
            f"bench.toml [train.{job.context.name}]: unknown key {min(unknown)!r}; parts: {list(paths)}"
        )

    def factory(part: str) -> TaskFactory:
        return lambda: _task(paths[part])(replace(job, recipe=job.recipe.get(part, {})))

    return {part: factory(part) for part in paths}
