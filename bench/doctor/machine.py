"""What `bench doctor` looks at: the machine, whether each pipeline's packages and weights are at hand, which splits
are, what would be faster, and the first training step of one pipeline, to be held against that of its official code.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from bench import registry
from bench.datasets.load import datasets, load_split
from bench.doctor.estimate import threads
from bench.doctor.readiness import Lack, lacks
from bench.errors import BenchError, DeviceError
from bench.evaluation.device import resolve_device
from bench.evaluation.opening import open_pipeline
from bench.grounding import LoadedScene
from bench.runs.provenance import packages
from bench.settings import Resolved

EXTRAS = {"ultralytics": ("yolo", "YOLO's boxes"), "polars": ("hub", "hub mirrors"), "gradio": ("demo", "bench demo")}
WORTH = 1.3  # times as fast is worth a word


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


def pipeline_states(resolved: Resolved) -> list[dict[str, Any]]:
    """For every pipeline, what stands between it and a run: on the embedded data, and with its default weights; `how`
    says for each thing that is missing what brings it.
    """
    rows = []
    for name in registry.names(registry.PIPELINES):
        missing = {dataset: lacks(name, dataset, resolved) for dataset in ("shapes", "")}
        how = {lack.what: lack.how for lack in (*missing["shapes"], *missing[""]) if lack.how}
        rows.append({"pipeline": name, "shapes": _said(missing["shapes"]), "elsewhere": _said(missing[""]), "how": how})
    return rows


def split_states(resolved: Resolved) -> list[dict[str, Any]]:
    """For every data set, which of its parts could be loaded now, and the command for the others."""
    rows = []
    for dataset in datasets():
        parts = [part.name for part in dataset.parts]
        there = [part for part in parts if dataset.ready(part, resolved)]
        how = "" if there == parts else f"bench data prepare {dataset.name} --annotations FOLDER --images FOLDER"
        rows.append({"dataset": dataset.name, "parts": parts, "ready": there, "how": how})
    return rows


def faster(speed: Mapping[str, Any]) -> list[str]:
    """What would make this machine faster or let it do more, one sentence each; `speed` is `estimate.measured`'s."""
    said = []
    if speed["device"] == "cpu":
        try:
            resolve_device("cuda")
        except DeviceError as error:
            why = str(error).removeprefix("--device cuda: ").removesuffix(", or use --device cpu")
            said.append(f"no GPU is used: {why}")
        used, cores = threads()
        if used < cores:
            why = (
                f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}" if "OMP_NUM_THREADS" in os.environ else "its choice"
            )
            said.append(f"torch computes with {used} of {cores} cores ({why})")
    rates = speed["matmul_gflops"]
    best = max(rates, key=rates.__getitem__)
    if rates[best] > WORTH * rates[speed["dtype"]]:
        times = rates[best] / rates[speed["dtype"]]
        said.append(f"--dtype {best}: matrix products are {times:.1f} times as fast as in {speed['dtype']} here")
    for package, (extra, use) in EXTRAS.items():
        if find_spec(package) is None:
            said.append(f'{use}: the package {package} is not installed; pip install "grounding-bench[{extra}]"')
    return said


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
    return {"pipeline": name, "shapes": said, "elsewhere": _said(lacks(name, "", resolved))}


def train_step(
    name: str,
    split_name: str,
    resolved: Resolved,
    recipe: Mapping[str, Any] | None = None,
    part: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """One training step of a pipeline on a split's expressions, without dropout, augmentation or update: the JSON of
    `bench doctor --train-step`. `limit` keeps the first images; `recipe` wins over [train.NAME] of bench.toml.

    Numbers that are not finite become None. Raises UnknownName when the pipeline cannot be trained, DataError,
    UsageError, WeightsError.
    """
    from bench.training.jobs import first_step

    step = first_step(name, split_name, resolved, recipe or {}, part, limit)
    return {"pipeline": name, "split": split_name, **_finite(step)}


def _finite(value: Any) -> Any:
    """As JSON has it: tables and lists, with None where a number is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _said(missing: list[Lack]) -> str:
    """ "ready", or what is missing."""
    if not missing:
        return "ready"
    if not missing[0].how:  # the pipeline itself cannot be loaded, and the error says what to do
        return missing[0].what
    kind = "to be fetched" if all(lack.by_itself for lack in missing) else "missing"
    return f"{kind}: " + ", ".join(lack.what for lack in missing)


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
