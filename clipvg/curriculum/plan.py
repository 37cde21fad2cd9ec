"""The kinds of training of a curriculum, and what it will do and cost.

How many trials a search takes depends on their scores: a climb tries at least two neighbours, at most every threshold
of the grid. Time is estimated from finished trainings, in rows a second; before the first one it is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.errors import SettingsError, UsageError
from bench.hashing import find_file, sha256_file
from bench.runs.shards import from_environment
from bench.settings import flattened, merged
from bench.training.config import TrainConfig, batch_plan
from bench.training.task import ExternalTraining, TaskFactory, TrainingJob, TrainTask
from clipvg.curriculum.pools import Pool
from clipvg.curriculum.search import CurriculumOptions

Tasks = Callable[[TrainingJob], Mapping[str, TaskFactory]]
# A node keeps the best weights of a whole training, so these change it, although a training resumes with others.
CHANGES_BEST = {"validate_every", "early_stop"}


# One kind of training: its task, a template of which no step is taken, and its identity: what the weights depend on
# besides rows, seed and selection metric.
Recipe = tuple[TrainTask, Mapping[str, Any]]


def make_recipe(job: TrainingJob, tasks: Tasks, key: str = "", changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return the job's kind of training with `changes`, the table curriculum.`key`, laid over its own.

    Files that the config names count by their content. Raises UsageError, SettingsError and what a task raises.
    """
    table = merged(job.recipe, changes or {})
    # 1. The template stays on the CPU, and shares no cache: a cache keeps the encoder it was made with.
    template = replace(job, recipe=table, context=replace(job.context, device="cpu"), shared={})
    try:
        _, task = only_task(template, tasks)
    except SettingsError as error:
        raise SettingsError(f"curriculum.{key}: {error}" if key else str(error)) from None
    # 2. Everything in its config that moves the weights; file names become hashes of their content.
    config = task.config
    values = flattened(config.model_dump(mode="json", exclude={*config.FREE, "name"} - CHANGES_BEST))
    for name, value in values.items():
        if isinstance(value, str) and value and (path := find_file(value, job.context)):
            values[name] = sha256_file(path)
    plan = batch_plan(config, from_environment().size)
    identity = {"pipeline": job.context.name, "recipe": values, "rows in a step": plan.effective}
    return task, {**identity, "task": dict(task.identity), "seed": job.context.seed}


def only_task(job: TrainingJob, tasks: Tasks) -> tuple[str, TrainTask]:
    """Return the name and the task of a method's only part.

    Raises UsageError where it has several, or one that a curriculum cannot train or score.
    """
    parts, method = tasks(job), job.context.name
    if len(parts) != 1:
        raise UsageError(f"--curriculum trains methods of one part, and {method} has {len(parts)}: {', '.join(parts)}")
    ((part, factory),) = parts.items()
    task = factory()
    if isinstance(task, ExternalTraining):
        raise UsageError(f"--curriculum cannot use {task.trainer}'s own trainer, which trains {method}")
    if not isinstance(task, TrainTask):
        raise UsageError(f"--curriculum trains in one go, and {method} in stages: set stages=[] for one of them")
    if task.metric != "accuracy":
        raise UsageError(f"--curriculum selects by Acc@0.5, and {method} is scored by {task.metric}")
    return part, task


def make_plan(
    pools: Sequence[Pool], configs: Mapping[str, TrainConfig], options: CurriculumOptions
) -> list[dict[str, Any]]:
    """List each kind of node: `what`, at `least` and `most` how many, and the `rows` each processes, epochs counted.

    `pools` are in the order of the search, `configs` of "scorer", "trial" and "last". A trial is counted with the most
    rows it could have: those of its source and of all sources before it.
    """

    def add(what: str, least: int, most: int, rows: int, trains: bool = True) -> None:
        steps.append({"what": what, "least": least, "most": most, "rows": rows, "trains": trains})

    steps: list[dict[str, Any]] = []
    trainable = [len(pool.rows) - len(pool.held_out) for pool in pools]
    # 1. Scorers that are not given, and every row under every scorer.
    for pool, count in zip(pools, trainable, strict=True):
        if pool.name not in options.scorers:
            add(f"scorer of {pool.name}", 1, 1, rows_in_training(configs["scorer"], count))
    add("reliability of all rows", len(pools), len(pools), sum(len(pool.rows) for pool in pools), trains=False)
    # 2. Trials of a source: all scorers at the starting threshold, then a climb.
    down, up = options.start - options.low, options.high - options.start
    thresholds = 1 + sum(int(span / options.step + 1e-6) for span in (down, up))
    others = len(pools) - 1  # scorers beside the source's own
    for number, pool in enumerate(pools, 1):
        count = rows_in_training(configs["trial"], round(sum(trainable[:number]) * options.proxy_rows))
        add(f"trials of {pool.name}", 1 + others + min(2, thresholds - 1), thresholds + others, count)
    # 3. The last training, on all rows at most.
    add("last training", 1, 1, rows_in_training(configs["last"], sum(trainable)))
    return steps


def plan_lines(steps: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format a plan as text; `records` of finished nodes give the rates that time is estimated by."""
    # 1. A line a step.
    lines = [f"{'':<34} {'how many':>10} {'rows in each':>18}"]
    for step in steps:
        many = str(step["least"]) if step["least"] == step["most"] else f"{step['least']} to {step['most']}"
        lines.append(f"{step['what']:<34} {many:>10} {step['rows']:>18,}")
    # 2. All trainings together.
    trains = [step for step in steps if step["trains"]]
    least, most = (sum(step[end] for step in trains) for end in ("least", "most"))
    fewest, all_rows = (sum(step[end] * step["rows"] for step in trains) for end in ("least", "most"))
    lines.append(
        f"{least} to {most} trainings on {fewest:,} to {all_rows:,} rows in all, the same selection never twice; "
        f"{len(records)} nodes are done"
    )
    # 3. Time, finished nodes included.
    trained, scored = _rate(records, "train"), _rate(records, "score")
    if not (trained and scored):
        return [*lines, "time: unknown until the first training and the first scoring are done"]
    costs = [(step, step["rows"] / (trained if step["trains"] else scored) / 3600) for step in steps]
    low, high = (sum(step[end] * hours for step, hours in costs) for end in ("least", "most"))
    rates = f"{trained:,.0f} rows/s in training and {scored:,.0f} in scoring"
    return [*lines, f"time: {low:.1f} to {high:.1f} hours for all of it, at {rates}, as in the nodes that are done"]


def rows_in_training(config: TrainConfig, rows: int) -> int:
    """Return how many rows a training of that config processes, every epoch counted."""
    return config.steps * config.reference_batch if config.steps else config.epochs * rows


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
