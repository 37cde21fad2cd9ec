"""Name -> object, through entry points: ours and everybody's pipelines and data sets come in by the same door.

A package adds a pipeline with

    [project.entry-points."bench.pipelines"]
    my-grounder = "my_package.grounder:build"

where `build(context: PipelineContext) -> Pipeline`, or the name of a `Method` that brings a training and an exporter as
well. Nothing is imported until a name is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import BenchError, MissingPackage, UnknownName
from bench.old_names import PIPELINES as PIPELINE_NAMES

if TYPE_CHECKING:
    from bench.datasets.split import Dataset
    from bench.grounding import PipelineFactory
    from bench.labelling import LabelSource

PIPELINES, PROPOSERS, DATASETS = "bench.pipelines", "bench.proposers", "bench.datasets"
LABEL_SOURCES, CURRICULA = "bench.label_sources", "bench.curricula"


@dataclass(frozen=True, slots=True)
class Method:
    """What a package brings under one name, each as "module:attribute" and imported when it is asked for.

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


def origin(kind: str, name: str) -> str:
    """Name the distribution and object behind a name: "grounding-bench pipelines.two_stage.pipeline:two_stage"."""
    entry = _entry(f"bench.{kind}s", name, kind)
    return f"{entry.dist.name if entry.dist else '?'} {entry.value}"


def _entry(group: str, name: str, kind: str) -> EntryPoint:
    known, name = _entries(group), PIPELINE_NAMES.get(name, name)
    if name not in known:
        raise UnknownName(kind, name, known, hint="`bench list pipelines` shows them" if group == PIPELINES else "")
    return known[name]


def _load(entry: EntryPoint, kind: str) -> Any:
    """Import what an entry point names. Raises MissingPackage, BenchError."""
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"{kind} {entry.name!r} ({entry.value}) needs the package {error.name!r}, which is not installed: "
            f"pip install {error.name}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise BenchError(f"{kind} {entry.name!r} cannot be loaded from {entry.value}: {error}") from error


def pipeline_factory(name: str) -> PipelineFactory:
    """Return the factory registered under `name`. Raises UnknownName with the nearest names, MissingPackage."""
    value = _load(_entry(PIPELINES, name, "pipeline"), "pipeline")
    factory: PipelineFactory = _attribute(name, value.pipeline) if isinstance(value, Method) else value
    return factory


def _attribute(name: str, path: str) -> Any:
    """Import the object at "module:attribute" that a method declares."""
    return _load(EntryPoint(name, path, PIPELINES), "pipeline")


def has(name: str, what: Literal["tasks", "export"]) -> bool:
    """Tell whether the method called `name` brings that; only its declaration is imported. Raises UnknownName."""
    entry = _entry(PIPELINES, name, "pipeline")
    if not entry.attr.isupper():  # a Method is a constant; a factory is not imported to find out
        return False
    try:
        return bool(getattr(_load(entry, "pipeline"), what, ""))
    except BenchError:  # another package that cannot be imported
        return False


def tasks(name: str) -> Any:
    """Return what gives the parts of a method their training tasks. Raises UnknownName where it cannot be trained."""
    return _brought(name, "tasks", "trainable pipeline")


def exporter(name: str) -> Any:
    """Return what writes a pipeline's weights in their official format: (context, path) -> path. Raises UnknownName."""
    return _brought(name, "export", "pipeline with an official format")


def _brought(name: str, what: Literal["tasks", "export"], kind: str) -> Any:
    value = _load(_entry(PIPELINES, name, "pipeline"), "pipeline")
    if not (isinstance(value, Method) and getattr(value, what)):
        raise UnknownName(kind, name, [other for other in names(PIPELINES) if has(other, what)])
    return _attribute(name, getattr(value, what))


def proposer_factory(kind: str) -> Any:
    """Return what opens proposers of a kind (pipelines/two_stage/proposers/). Raises UnknownName, MissingPackage."""
    return _load(_entry(PROPOSERS, kind, "proposer"), "proposer")


def label_source(name: str) -> LabelSource:
    """Return what makes pseudo-labels of that kind. Raises UnknownName with the nearest names, MissingPackage."""
    source: LabelSource = _load(_entry(LABEL_SOURCES, name, "label source"), "label source")
    return source


def curriculum(name: str) -> Any:
    """Return the curriculum of that name: (job, sources, tasks, options, dry_run) -> weights. Raises UnknownName."""
    return _load(_entry(CURRICULA, name, "curriculum"), "curriculum")


def dataset(name: str) -> Dataset:
    """Return the data set registered under `name`. Raises UnknownName with the nearest names."""
    dataset: Dataset = _load(_entry(DATASETS, name, "dataset"), "dataset")
    return dataset
