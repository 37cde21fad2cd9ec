"""The kinds of training in a curriculum (measurers, trials, the last one), of any method with one part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.errors import SettingsError, UsageError
from bench.hashing import find_file, sha256_file
from bench.runs.shards import from_environment
from bench.settings import flattened, merged
from bench.training.config import batch_plan
from bench.training.task import TaskFactory, TrainingJob, TrainTask

Tasks = Callable[[TrainingJob], Mapping[str, TaskFactory]]
# A node holds the best weights of a whole training, so these change it, although a training resumes with others.
CHANGES_BEST = {"validate_every", "early_stop"}


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
