"""Name -> object, through entry points: ours and everybody's pipelines and data sets come in by the same door.

A package adds a pipeline with

    [project.entry-points."bench.pipelines"]
    my-grounder = "my_package.grounder:build"

where `build(context: PipelineContext) -> Pipeline`. Nothing is imported until a name is asked for.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, MissingPackage, UnknownName

if TYPE_CHECKING:
    from bench.datasets.split import Dataset
    from bench.grounding import PipelineFactory
    from bench.labelling import LabelSource
    from bench.trainable import Curriculum, Exporter, Trainable, TrainStep

PIPELINES, TRAINERS, DATASETS = "bench.pipelines", "bench.trainers", "bench.datasets"
PROPOSERS, EXPORTERS, TRAIN_STEPS = "bench.proposers", "bench.exporters", "bench.train_steps"
LABEL_SOURCES, CURRICULA = "bench.label_sources", "bench.curricula"


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda e: e.name)}


def names(group: str) -> list[str]:
    """Every registered name of a group, sorted; nothing is imported."""
    return list(_entries(group))


def origin(kind: str, name: str) -> str:
    """The distribution and object behind a name, for `bench list`: "grounding-bench pipelines.two_stage:two_stage"."""
    entry = _entry(f"bench.{kind}s", name, kind)
    return f"{entry.dist.name if entry.dist else '?'} {entry.value}"


def _entry(group: str, name: str, kind: str) -> EntryPoint:
    known = _entries(group)
    if name not in known:
        raise UnknownName(kind, name, known, hint="`bench list pipelines` shows them" if group == PIPELINES else "")
    return known[name]


def _load(group: str, name: str, kind: str) -> Any:
    entry = _entry(group, name, kind)
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"{kind} {name!r} ({entry.value}) needs the package {error.name!r}, which is not installed: "
            f"pip install {error.name}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise BenchError(f"{kind} {name!r} cannot be loaded from {entry.value}: {error}") from error


def pipeline_factory(name: str) -> PipelineFactory:
    """The factory registered under `name`. Raises UnknownName with the nearest names, MissingPackage."""
    factory: PipelineFactory = _load(PIPELINES, name, "pipeline")
    return factory


def trainer(name: str) -> Trainable:
    """The trainer registered under the pipeline's name. Raises UnknownName when that pipeline cannot be trained."""
    found: Trainable = _load(TRAINERS, name, "trainer")
    return found


def proposer_factory(kind: str) -> Any:
    """What opens proposers of a kind (see pipelines/proposers/opening.py). Raises UnknownName, MissingPackage."""
    return _load(PROPOSERS, kind, "proposer")


def exporter(name: str) -> Exporter:
    """What writes the pipeline's weights in their official format. Raises UnknownName when it has none."""
    found: Exporter = _load(EXPORTERS, name, "exporter")
    return found


def train_step(name: str) -> TrainStep:
    """What takes the pipeline's first training step. Raises UnknownName when it has none to compare with."""
    found: TrainStep = _load(TRAIN_STEPS, name, "train step")
    return found


def label_source(name: str) -> LabelSource:
    """What makes pseudo-labels of that kind. Raises UnknownName with the nearest names, MissingPackage."""
    found: LabelSource = _load(LABEL_SOURCES, name, "label source")
    return found


def curriculum(name: str) -> Curriculum:
    """What chooses among pseudo-labels for that pipeline. Raises UnknownName when it has no curriculum."""
    found: Curriculum = _load(CURRICULA, name, "curriculum")
    return found


def dataset(name: str) -> Dataset:
    """The data set registered under `name`. Raises UnknownName with the nearest names."""
    found: Dataset = _load(DATASETS, name, "dataset")
    return found
