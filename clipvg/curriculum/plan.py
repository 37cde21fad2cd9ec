"""[train.NAME.curriculum], its kinds of training, and what a curriculum with these options does and costs.

How many trials a search takes depends on their scores: a climb tries at least two neighbours, at most every threshold
of the grid. Time is estimated from finished trainings, in rows a second; before the first one it is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import Field, model_validator

from bench.errors import SettingsError, UsageError
from bench.hashing import find_file, sha256_file
from bench.runs.shards import from_environment
from bench.settings import flattened, merged
from bench.training.config import TrainConfig, batch_plan
from bench.training.task import TaskFactory, TrainingJob, TrainTask
from clipvg.curriculum.pools import Pool
from clipvg.curriculum.search import Grid

Tasks = Callable[[TrainingJob], Mapping[str, TaskFactory]]
# A node holds the best weights of a whole training, so these change it, although a training resumes with others.
CHANGES_BEST = {"validate_every", "early_stop"}


class CurriculumOptions(Grid):
    """The paper's search by default: labelled val decides, and inner trainings are as long as the last one."""

    criterion: Literal["labelled", "held-out", "agreement"] = Field(
        "labelled",
        description="the score of a trial: Acc@0.5 on labelled val, as in the paper; or, without any label, on "
        "pseudo-labels of images held out of every training: on their boxes (held-out), or on the boxes that the "
        "scorers predict for their phrases (agreement)",
    )
    held_out: float = Field(0.05, gt=0, lt=1, description="share of the images held out, where no label decides")
    proxy: dict[str, Any] = Field(default_factory=dict, description="laid over the config of trials: { epochs = 10 }")
    proxy_rows: float = Field(1.0, gt=0, le=1, description="share of a selection's rows that a trial trains on")
    scorer: dict[str, Any] = Field(default_factory=dict, description="laid over the config of scorers")
    scorers: dict[str, str] = Field(default_factory=dict, description="source -> weights of a finished scorer")

    @model_validator(mode="after")
    def _start_within(self) -> CurriculumOptions:
        if not self.low <= self.start <= self.high:
            raise ValueError(f"start = {self.start:g} should lie between low = {self.low:g} and high = {self.high:g}")
        return self


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of node: how many there are, and how many rows each processes, epochs counted."""

    what: str
    least: int
    most: int
    rows: int
    trains: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """Every kind of node; `trained` and `scored` are rows a second, 0 where unknown; `done` counts nodes."""

    steps: tuple[Step, ...]
    trained: float
    scored: float
    done: int

    @property
    def seconds(self) -> tuple[float, float] | None:
        """The least and the most, finished nodes included; None while a rate is unknown."""
        if not (self.trained and self.scored):
            return None
        costs = [step.rows / (self.trained if step.trains else self.scored) for step in self.steps]
        least = sum(step.least * cost for step, cost in zip(self.steps, costs, strict=True))
        return least, sum(step.most * cost for step, cost in zip(self.steps, costs, strict=True))

    def table(self) -> list[dict[str, Any]]:
        """Return the steps as plain JSON."""
        return [asdict(step) for step in self.steps]

    def lines(self) -> list[str]:
        """Return the plan as text, a line a step."""
        lines = [f"{'':<34} {'how many':>10} {'rows seen by each':>18}"]
        for step in self.steps:
            many = str(step.least) if step.least == step.most else f"{step.least} to {step.most}"
            lines.append(f"{step.what:<34} {many:>10} {step.rows:>18,}")
        trains = [step for step in self.steps if step.trains]
        least, most = (sum(getattr(step, end) for step in trains) for end in ("least", "most"))
        fewest, all_rows = (sum(getattr(step, end) * step.rows for step in trains) for end in ("least", "most"))
        lines.append(
            f"{least} to {most} trainings that see {fewest:,} to {all_rows:,} rows in all, the same "
            f"selection never twice; {self.done} nodes are done"
        )
        if self.seconds is None:
            return [*lines, "time: unknown until the first training and the first scoring are done"]
        low, high = (seconds / 3600 for seconds in self.seconds)
        rates = f"{self.trained:,.0f} rows/s in training and {self.scored:,.0f} in scoring"
        return [*lines, f"time: {low:.1f} to {high:.1f} hours for all of it, at {rates}, as in the nodes that are done"]


def make_plan(
    pools: Sequence[Pool],
    configs: Mapping[str, TrainConfig],
    options: CurriculumOptions,
    records: Sequence[Mapping[str, Any]],
) -> Plan:
    """Return the plan of a curriculum over `pools` in their order. `configs` are of "scorer", "trial" and "last".

    A trial is counted with the most rows it could have: those of its source and of all sources before it.
    """
    thresholds = 1 + _between(options.low, options.start, options) + _between(options.start, options.high, options)
    rows = [len(pool.rows) - len(pool.held_out) for pool in pools]
    steps = [
        Step(f"scorer of {pool.name}", 1, 1, rows_in_training(configs["scorer"], count))
        for pool, count in zip(pools, rows, strict=True)
        if pool.name not in options.scorers
    ]
    every = sum(len(pool.rows) for pool in pools)
    steps.append(Step("reliability of all rows", len(pools), len(pools), every, trains=False))
    others = len(pools) - 1  # scorers beside the source's own
    for number, pool in enumerate(pools, 1):
        count = rows_in_training(configs["trial"], round(sum(rows[:number]) * options.proxy_rows))
        least = 1 + others + min(2, thresholds - 1)
        steps.append(Step(f"trials of {pool.name}", least, thresholds + others, count))
    steps.append(Step("last training", 1, 1, rows_in_training(configs["last"], sum(rows))))
    return Plan(tuple(steps), _rate(records, "train"), _rate(records, "score"), len(records))


def rows_in_training(config: TrainConfig, rows: int) -> int:
    """Return how many rows a training of that config processes, every epoch counted."""
    return config.steps * config.reference_batch if config.steps else config.epochs * rows


def _between(low: float, high: float, grid: Grid) -> int:
    """Whole steps from one threshold to the other."""
    return int((high - low) / grid.step + 1e-6)


def _rate(records: Sequence[Mapping[str, Any]], kind: str) -> float:
    """Rows a second over the finished nodes of a kind; 0 where there are none."""
    mine = [record for record in records if record.get("kind") == kind]
    seconds = sum(record.get("seconds", 0.0) for record in mine)
    return sum(_rows(record["result"]) for record in mine) / seconds if seconds else 0.0


def _rows(result: Mapping[str, Any]) -> float:
    notes = result.get("notes", {})
    if "steps" in notes:
        return float(notes["steps"] * notes["effective_batch"])
    return float(len(result["rows"])) if isinstance(result.get("rows"), Mapping) else 0.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """One kind of training: its table, its task as a template of which no step is taken, and its identity: what the
    weights depend on besides rows, seed and selection metric."""

    table: Mapping[str, Any]
    task: TrainTask
    identity: Mapping[str, Any]


def make_recipe(job: TrainingJob, tasks: Tasks, key: str = "", changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return the job's kind of training with `changes`, the table curriculum.`key`, laid over its own.

    Files that the config names count by their content. Raises UsageError, SettingsError and what a task raises.
    """
    table = merged(job.recipe, changes or {})
    # The template stays on the CPU, and shares no cache: a cache keeps the encoder it was made with.
    template = replace(job, recipe=table, context=replace(job.context, device="cpu"), shared={})
    try:
        _, task = only_task(template, tasks)
    except SettingsError as error:
        raise SettingsError(f"curriculum.{key}: {error}" if key else str(error)) from None
    config = task.config
    values = flattened(config.model_dump(mode="json", exclude={*config.FREE, "name"} - CHANGES_BEST))
    for name, value in values.items():
        if isinstance(value, str) and value and (path := find_file(value, job.context)):
            values[name] = sha256_file(path)
    plan = batch_plan(config, from_environment().size)
    identity = {"pipeline": job.context.name, "recipe": values, "rows in a step": plan.effective}
    return Recipe(table, task, {**identity, "task": dict(task.identity), "seed": job.context.seed})


def only_task(job: TrainingJob, tasks: Tasks) -> tuple[str, TrainTask]:
    """Return the name and the task of a method's only part.

    Raises UsageError where it has several, or one that a curriculum cannot train or score.
    """
    parts, method = tasks(job), job.context.name
    if len(parts) != 1:
        raise UsageError(f"--curriculum trains methods of one part, and {method} has {len(parts)}: {', '.join(parts)}")
    ((part, factory),) = parts.items()
    task = factory()
    if not isinstance(task, TrainTask):
        raise UsageError(f"--curriculum cannot use {task.trainer}'s own trainer, which trains {method}")
    if task.metric != "accuracy":
        raise UsageError(f"--curriculum selects by Acc@0.5, and {method} is scored by {task.metric}")
    return part, task
