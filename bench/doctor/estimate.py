"""How fast full-size models would roughly be on this machine: its own rate of matrix products, measured, against the
products a picture and an expression take, counted (costs.toml says how).

A pipeline reaches a share of that rate, also in costs.toml; where it was measured the estimate holds within a factor
of 3, elsewhere the rate itself is a bound that nothing passes. `bench speed` measures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.doctor.readiness import costs
from bench.evaluation.device import resolve_dtype

PER_PICTURE = 7  # expressions; RefCOCO's val split has 10,834 about 1,500 pictures
WITHIN = 3.0  # a factor up or down
SIDES = {"cpu": 1024, "cuda": 8192}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 2**30


def matmul_rate(device: str, dtype: str, seconds: float = 0.3) -> float:
    """Operations a second that the device does in matrix products of `dtype`, the best of a few runs in `seconds`."""
    import torch

    side = SIDES[device.partition(":")[0]]
    kind = getattr(torch, dtype)
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    wait: Callable[[], None] = (lambda: torch.cuda.synchronize(device)) if device.startswith("cuda") else (lambda: None)
    with torch.inference_mode():
        a @ b
        wait()
        best, until = 0.0, time.perf_counter() + seconds
        while best == 0.0 or time.perf_counter() < until:
            begun = time.perf_counter()
            a @ b
            wait()
            best = max(best, 2 * side**3 / (time.perf_counter() - begun))
    return best


def measured(device: str, asked: str = "auto") -> dict[str, Any]:
    """The device, what it computes in, and its rates in thousands of millions of operations a second, of every number
    type that could be asked for."""
    dtype = resolve_dtype(asked, device)
    kinds = dict.fromkeys([dtype, "float32", "bfloat16"])
    rates = {kind: matmul_rate(device, kind) / 1e9 for kind in kinds}
    free, whole = memory(device)
    return {
        "device": device,
        "dtype": dtype,
        "matmul_gflops": {kind: float(f"{rate:.3g}") for kind, rate in rates.items()},
        "memory_free_gb": None if free is None else round(free / GIB, 1),
        "memory_gb": None if whole is None else round(whole / GIB, 1),
    }


def estimates(speed: dict[str, Any]) -> list[dict[str, Any]]:
    """For every pipeline with a counted cost: expressions a second, `within` a factor (None: at most as many), and the
    GiB its weights take.
    """
    share = costs()["share"].get(speed["device"].partition(":")[0])
    rate = speed["matmul_gflops"][speed["dtype"]] * (share or 1.0)
    rows = []
    for name, cost in costs()["cost"].items():
        gflops = cost["picture"] / PER_PICTURE + cost["expression"]
        weights = cost["parameters"] * BYTES[speed["dtype"]] / GIB
        free = speed["memory_free_gb"]
        rows.append(
            {
                "pipeline": name,
                "models": cost["models"],
                "expressions_per_s": float(f"{rate / gflops:.2g}"),
                "within": WITHIN if share else None,
                "gflops_picture": cost["picture"],
                "gflops_expression": cost["expression"],
                "weights_gb": round(weights, 2),
                "fits": None if free is None else bool(2 * weights + 1 < free),
            }
        )
    return rows


def memory(device: str) -> tuple[int | None, int | None]:
    """Bytes free and in all, of the device's own memory or of this machine's; None where the system does not say."""
    if device.startswith("cuda"):
        import torch

        free, whole = torch.cuda.mem_get_info(device)
        return int(free), int(whole)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None, None
    held = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    return held.get("MemAvailable"), held.get("MemTotal")


def threads() -> tuple[int, int]:
    """The threads that torch computes with on the CPU, and the cores this process may use."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.get_num_threads(), cores
