"""What `bench doctor` looks at: the machine, whether each pipeline's package and weights are at hand, and the first
training step of one, to be held against the numbers of its official code.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import registry
from bench.datasets.load import load_split
from bench.errors import BenchError, DataError
from bench.evaluation.device import resolve_device
from bench.evaluation.pipelines import open_pipeline, pipeline_context
from bench.grounding import LoadedScene
from bench.runs.provenance import packages
from bench.settings import Resolved

WEIGHT_KEYS = ("weights", "pretrained", "checkpoint")
FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def machine(resolved: Resolved) -> dict[str, Any]:
    """Facts about this machine, one line each."""
    home = resolved.home
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "device": _device(),
        **{f"package {name}": version for name, version in packages().items()},
        "BENCH_HOME": f"{home} ({'there' if home.exists() else 'made when needed'})",
        "free disk there": f"{shutil.disk_usage(there).free / 2**30:.0f} GiB",
    }


def pipeline_states(resolved: Resolved) -> list[dict[str, str]]:
    """For every pipeline, what stands between it and a run: on the embedded data, and with its default weights."""
    return [
        {
            "pipeline": name,
            "shapes": _missing(name, "shapes", resolved) or "ready",
            "elsewhere": _missing(name, "", resolved) or "ready",
        }
        for name in registry.names(registry.PIPELINES)
    ]


def try_out(name: str, resolved: Resolved) -> dict[str, str]:
    """Builds a pipeline for the embedded data and asks it about one scene. Raises UnknownName."""
    registry.pipeline_factory(name)
    split = load_split("shapes-val", resolved)
    scene = split.scenes[0]
    queries = tuple(e.query for e in scene.expressions)
    try:
        answers = open_pipeline(name, split, resolved).ground(
            [LoadedScene(scene.id, split.pictures.load(scene), queries)]
        )
        said = "works" if len(answers) == len(queries) else f"{len(answers)} answers to {len(queries)} queries"
    except BenchError as error:
        said = str(error)
    return {"pipeline": name, "shapes": said, "elsewhere": _missing(name, "", resolved) or "ready"}


def train_step(
    name: str, split_name: str, resolved: Resolved, options: Mapping[str, Any] | None = None, limit: int | None = None
) -> dict[str, Any]:
    """One training step of a pipeline on a split's expressions, all in one batch, without dropout, augmentation or
    update: the JSON of `bench doctor --train-step`. `limit` keeps the first pictures; `options` win over bench.toml.

    Numbers that are not finite become None. Raises UnknownName when the pipeline has none to show, DataError,
    UsageError, WeightsError.
    """
    step = registry.train_step(name)
    split = load_split(split_name, resolved)
    split = split if limit is None else split.limited(limit)
    if not any(scene.expressions for scene in split.scenes):
        raise DataError(f"{split.name}: the split has no expressions")
    found = step(pipeline_context(name, split, resolved, options), split.scenes, split.pictures)
    return {"pipeline": name, "split": split.name, **_finite(found)}


def _finite(value: Any) -> Any:
    """As JSON has it: tables and lists, with None where a number is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _missing(name: str, dataset: str, resolved: Resolved) -> str:
    """What a pipeline lacks for a data set; empty when nothing does."""
    try:
        registry.pipeline_factory(name)
    except BenchError as error:
        return str(error)
    absent = [w for w in _weights(resolved.options(name, dataset)) if not _at_hand(w, resolved)]
    return "to be fetched: " + ", ".join(absent) if absent else ""


def _weights(options: Mapping[str, Any]) -> Iterator[str]:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _weights(value)
        elif key in WEIGHT_KEYS and isinstance(value, str):
            yield value


def _at_hand(weights: str, resolved: Resolved) -> bool:
    if not weights.endswith(FILE_SUFFIXES):
        return False
    return any(p.is_file() for p in (Path(weights), resolved.folder / weights, resolved.home / "weights" / weights))


def _device() -> str:
    """The GPU torch would use, or why there is none."""
    try:
        device = resolve_device("auto")
    except BenchError as error:
        return str(error)
    if device == "cpu":
        return "cpu (no GPU that torch can use)"
    import torch

    return f"{device}: {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
