"""Name -> object, through entry points: ours and everybody's pipelines and data sets come in by the same door.

A package adds a pipeline with

    [project.entry-points."bench.pipelines"]
    my-grounder = "my_package.grounder:build"

where `build(context: PipelineContext) -> Pipeline`, or the name of a `Method` that brings a training and an exporter as
well. Nothing is imported before `load`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import BenchError, MissingPackage, UnknownName, first_line
from bench.imports import paused_collector
from bench.old_names import PIPELINES as PIPELINE_NAMES

if TYPE_CHECKING:
    from bench.grounding import PipelineFactory

PIPELINES, PROPOSERS, DATASETS = "bench.pipelines", "bench.proposers", "bench.datasets"
LABEL_SOURCES, CURRICULA, MASKS = "bench.label_sources", "bench.curricula", "bench.masks"
KINDS = {  # group -> what messages call its members
    PIPELINES: "pipeline",
    PROPOSERS: "proposer",
    DATASETS: "dataset",
    LABEL_SOURCES: "label source",
    CURRICULA: "curriculum",
    MASKS: "mask maker",
}
PARTS = {"pipeline": "pipeline", "tasks": "trainable pipeline", "export": "pipeline with an official format"}
Part = Literal["pipeline", "tasks", "export"]


@dataclass(frozen=True, slots=True)
class Method:
    """What a package brings under one name, each as "module:attribute", imported by `load`.

    `pipeline` is the factory of its grounder; `tasks`, a function of a TrainingJob, gives each part that can be trained
    a TaskFactory (bench/training/task.py); `export` writes the weights in their official format.
    """

    pipeline: str
    tasks: str = ""
    export: str = ""


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda e: e.name)}


def names(group: str) -> list[str]:
    """List every registered name of a group, sorted; nothing is imported."""
    return list(_entries(group))


def origin(group: str, name: str) -> str:
    """Name the distribution and object behind a name: "grounding-bench pipelines.two_stage.pipeline:two_stage"."""
    entry = _entry(group, name)
    return f"{entry.dist.name if entry.dist else '?'} {entry.value}"


def is_ours(group: str, name: str) -> bool:
    """Tell whether a name comes with this package; False too for one that is not registered."""
    entry = _entries(group).get(PIPELINE_NAMES.get(name, name))
    dist = entry.dist if entry else None
    return dist is not None and dist.name == "grounding-bench"


def load(group: str, name: str, part: Part = "pipeline") -> Any:
    """Import the object registered under `name`; of a pipeline one `part` of its method.

    pipeline: (context) -> Pipeline; its tasks: (job) -> part -> TaskFactory; its export: (context, path) -> path.
    proposer: (table, where, context) -> Proposer. data set: Dataset. label source: LabelSource.
    curriculum: (job, sources, tasks, options, dry_run) -> weights. mask maker: (pipeline, table, where, context) ->
    Pipeline, which adds masks to the pipeline's boxes.

    Raises UnknownName with the nearest names, MissingPackage, BenchError.
    """
    entry = _entry(group, name)
    if group != PIPELINES:
        return _import(entry, group)
    # A Method is a constant; a plain factory is not imported to learn that it has no other part.
    value = _import(entry, group) if part == "pipeline" or entry.attr.isupper() else None
    path = getattr(value, part) if isinstance(value, Method) else ""
    if path:
        return _import(EntryPoint(name, path, group), group)
    if part == "pipeline":
        return value
    raise UnknownName(PARTS[part], name, [other for other in names(PIPELINES) if has(other, part)])


def pipeline_factory(name: str) -> PipelineFactory:
    """Load the factory of a pipeline; raises as `load` does."""
    factory: PipelineFactory = load(PIPELINES, name)
    return factory


def has(name: str, part: Part) -> bool:
    """Tell whether the method called `name` brings a part; only its declaration is imported. Raises UnknownName."""
    entry = _entry(PIPELINES, name)
    if not entry.attr.isupper():  # a Method is a constant; a factory is not imported to find out
        return False
    try:
        return bool(getattr(_import(entry, PIPELINES), part, ""))
    except BenchError:  # another package that cannot be imported
        return False


def _entry(group: str, name: str) -> EntryPoint:
    known, name = _entries(group), PIPELINE_NAMES.get(name, name)
    if name not in known:
        hint = "`bench list pipelines` shows them" if group == PIPELINES else ""
        raise UnknownName(KINDS[group], name, known, hint=hint)
    return known[name]


def _import(entry: EntryPoint, group: str) -> Any:
    """Import what an entry point names. Raises MissingPackage, BenchError."""
    what = f"{KINDS[group]} {entry.name!r}"
    owner = entry.dist.name if entry.dist else "its package"
    with guarded(f"{what} cannot be loaded from {entry.value}", f"{what} ({entry.value})", owner), paused_collector():
        return entry.load()


@contextmanager
def guarded(what: str, needing: str = "", owner: str = "its package") -> Iterator[None]:
    """Raise BenchError with `what` before it for whatever other people's code raises, SystemExit too.

    Errors of ours and KeyboardInterrupt pass. A module that is missing is MissingPackage: `needing` needs it, and
    `owner` is the package that should bring it.
    """
    try:
        yield
    except (BenchError, KeyboardInterrupt):
        raise
    except ModuleNotFoundError as error:
        from bench.install import bring_module

        raise MissingPackage(
            f"{needing or what} needs the module {error.name!r}, which is not installed: "
            f"{bring_module(str(error.name), owner)}"
        ) from error
    except BaseException as error:
        raise BenchError(f"{what}: {first_line(error)}") from error
