"""What `bench doctor` reports: the machine, each pipeline's packages and weights, splits, and how fast models would be.

The rate is an estimate: this machine's matrix products, measured, against the products an image and an expression
take, counted (costs.toml has how). A pipeline reaches a share of that rate, also in costs.toml; where it was measured
the estimate holds within a factor of 3, elsewhere the rate itself is a bound that nothing passes.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import registry
from bench.datasets.load import load_split
from bench.datasets.verify import survey
from bench.doctor.readiness import Missing, costs, missing_parts
from bench.errors import BenchError, DeviceError
from bench.evaluation.answering import ground_checked
from bench.evaluation.device import resolve_device, resolve_dtype
from bench.evaluation.opening import open_pipeline
from bench.grounding import LoadedScene
from bench.install import pip_install
from bench.runs.provenance import packages, threads
from bench.settings import Resolved

EXTRAS = {"ultralytics": ("yolo", "YOLO's boxes"), "polars": ("hub", "hub mirrors"), "gradio": ("demo", "bench demo")}
WORTH = 1.3  # times as fast is worth a word
PER_IMAGE = 7  # expressions; RefCOCO's val split has 10,834 about 1,500 images
WITHIN = 3.0  # a factor up or down
SIDES = {"cpu": 1024, "cuda": 8192}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 2**30


def examine(resolved: Resolved, pipeline: str | None = None) -> dict[str, Any]:
    """Make the JSON of `bench doctor`; with a name, only the machine and that pipeline, which is tried.

    Raises UnknownName, DeviceError.
    """
    if pipeline:
        return {"machine": machine(resolved), "pipelines": [try_out(pipeline, resolved)]}
    run = resolved.settings.run
    speed = device_speed(resolve_device(run.device), run.dtype)
    return {
        "machine": machine(resolved),
        "pipelines": pipeline_states(resolved),
        "speed": speed,
        "estimates": estimates(speed),
        "splits": split_states(resolved),
        "faster": faster(speed),
    }


def machine(resolved: Resolved) -> dict[str, Any]:
    """List facts about this machine."""
    home = resolved.home
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "device": _device(),
        **{f"package {name}": version for name, version in packages().items()},
        "BENCH_HOME": f"{home} ({'there' if home.exists() else 'made when needed'})",
        "free disk there": f"{shutil.disk_usage(there).free / GIB:.0f} GiB",
    }


def _device() -> str:
    """Name the GPU torch would use, or why there is none."""
    try:
        device = resolve_device("auto")
    except BenchError as error:
        return str(error)
    if device == "cpu":
        return "cpu (no GPU that torch can use)"
    import torch

    return f"{device}: {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


def pipeline_states(resolved: Resolved) -> list[dict[str, Any]]:
    """List what each pipeline needs, on the embedded data and elsewhere; `how` says what brings each part."""
    rows = []
    for name in registry.names(registry.PIPELINES):
        shapes, elsewhere = (missing_parts(name, dataset, resolved) for dataset in ("shapes", ""))
        how = {what: how for what, how, _ in (*shapes, *elsewhere) if how}
        states = {"shapes": _state(shapes), "elsewhere": _state(elsewhere)}
        rows.append({"pipeline": name, **states, "how": how})
    return rows


def _state(missing: list[Missing]) -> str:
    """Write "ready", or what is missing."""
    if not missing:
        return "ready"
    what, how, _ = missing[0]
    if not how:  # the pipeline itself cannot be loaded, and the error states what to do
        return what
    kind = "to be fetched" if all(by_itself for *_, by_itself in missing) else "missing"
    return f"{kind}: " + ", ".join(what for what, *_ in missing)


def try_out(name: str, resolved: Resolved) -> dict[str, str]:
    """Build a pipeline for the embedded data and ground one scene. Raises UnknownName."""
    registry.origin(registry.PIPELINES, name)
    split = load_split("shapes-val", resolved)
    scene = split.scenes[0]
    queries = tuple(e.query for e in scene.expressions)
    try:
        loaded = LoadedScene(scene.id, split.images.load(scene), queries)
        ground_checked(open_pipeline(name, split, resolved), [loaded], name)
        state = "works"
    except BenchError as error:
        state = str(error)
    return {"pipeline": name, "shapes": state, "elsewhere": _state(missing_parts(name, "", resolved))}


def split_states(resolved: Resolved) -> list[dict[str, Any]]:
    """List the parts of every data set that could be loaded now, and the command for the others."""
    rows = []
    for dataset, standings in survey(resolved):
        states = {part.name: each.state for part, each in zip(dataset.parts, standings, strict=True)}
        there = [part for part, state in states.items() if state == "ready"]
        partly = {part: state for part, state in states.items() if state not in ("ready", "not prepared")}
        how = (
            ""
            if len(there) == len(states)
            else f"bench data prepare {dataset.name} --annotations FOLDER --images FOLDER"
        )
        rows.append({"dataset": dataset.name, "parts": list(states), "ready": there, "partly": partly, "how": how})
    return rows


def faster(speed: Mapping[str, Any]) -> list[str]:
    """List what would make this machine faster or let it do more, a sentence each; `speed` is from `device_speed`."""
    hints = []
    if speed["device"] == "cpu":
        try:
            resolve_device("cuda")
        except DeviceError as error:
            why = str(error).removeprefix("--device cuda: ").removesuffix(", or use --device cpu")
            hints.append(f"no GPU is used: {why}")
        used, cores = threads()
        if used < cores:
            limit = os.environ.get("OMP_NUM_THREADS")
            why = "its choice" if limit is None else f"OMP_NUM_THREADS={limit}"
            hints.append(f"torch computes with {used} of {cores} cores ({why})")
    rates = speed["matmul_gflops"]
    best = max(rates, key=rates.__getitem__)
    times = rates[best] / rates[speed["dtype"]]
    if times > WORTH:
        hints.append(f"--dtype {best}: matrix products are {times:.1f} times as fast as in {speed['dtype']} here")
    for package, (extra, use) in EXTRAS.items():
        if find_spec(package) is None:
            hints.append(f"{use}: the package {package} is not installed; {pip_install(extra)}")
    return hints


def matmul_rate(device: str, dtype: str, seconds: float = 0.3) -> float:
    """Measure operations a second in matrix products of `dtype`, the best of a few runs in `seconds`."""
    import torch

    side = SIDES[device.partition(":")[0]]
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    wait: Callable[[], None] = (lambda: torch.cuda.synchronize(device)) if device.startswith("cuda") else (lambda: None)
    with torch.inference_mode():
        a @ b
        wait()
        best, until = 0.0, time.perf_counter() + seconds
        while best == 0.0 or time.perf_counter() < until:
            started = time.perf_counter()
            a @ b
            wait()
            best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def device_speed(device: str, dtype: str = "auto") -> dict[str, Any]:
    """Measure the device's rate in GFLOP/s for every number type that could be chosen, and its memory in GiB."""
    dtype = resolve_dtype(dtype, device)
    rates = {kind: matmul_rate(device, kind) / 1e9 for kind in dict.fromkeys([dtype, "float32", "bfloat16"])}
    free, whole = (None if size is None else round(size / GIB, 1) for size in memory(device))
    return {
        "device": device,
        "dtype": dtype,
        "matmul_gflops": {kind: float(f"{rate:.3g}") for kind, rate in rates.items()},
        "memory_free_gb": free,
        "memory_gb": whole,
    }


def estimates(speed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Estimate each counted pipeline's expressions a second, `within` a factor (None: at most), and weights in GiB."""
    share = costs()["share"].get(speed["device"].partition(":")[0])
    rate = speed["matmul_gflops"][speed["dtype"]] * (share or 1.0)
    free = speed["memory_free_gb"]
    rows = []
    for name, cost in costs()["cost"].items():
        weights = cost["parameters"] * BYTES[speed["dtype"]] / GIB
        rows.append(
            {
                "pipeline": name,
                "models": cost["models"],
                "expressions_per_s": float(f"{rate / (cost['image'] / PER_IMAGE + cost['expression']):.2g}"),
                "within": WITHIN if share else None,
                "gflops_image": cost["image"],
                "gflops_expression": cost["expression"],
                "weights_gb": round(weights, 2),
                "fits": None if free is None else bool(2 * weights + 1 < free),
            }
        )
    return rows


def memory(device: str) -> tuple[int | None, int | None]:
    """Return bytes free and in all, of the device or this machine; None where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        free, whole = torch.cuda.mem_get_info(device)
        return int(free), int(whole)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None, None
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    return sizes.get("MemAvailable"), sizes.get("MemTotal")
