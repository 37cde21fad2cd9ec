"""Processor cores: those this process may use, and those that other work leaves free."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Literal

MEASURABLE = 0.5  # seconds under which the system's count of ticks says little


def usable_cores() -> int:
    """Return the cores of this process's share: its affinity, divided among a machine's ranks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class OthersLoad:
    """Measures, between its making and `cores()`, how many cores the other processes keep busy."""

    def __init__(self) -> None:
        self.since, self.used = time.perf_counter(), _seconds_of_others()

    def cores(self) -> float | None:
        """Return the mean number of cores; None where the time was too short or the system counts none (not Linux)."""
        elapsed, used = time.perf_counter() - self.since, _seconds_of_others()
        if self.used is None or used is None or elapsed < MEASURABLE:
            return None
        return max(0.0, used - self.used) / elapsed


def _seconds_of_others() -> float | None:
    """Sum the processor seconds since the start of the system, without this process and what is niced."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
        user, _nice, system, _idle, _waiting, irq, softirq, stolen = map(int, fields)
    except (OSError, ValueError):
        return None
    own = os.times()
    ticks = user + system + irq + softirq + stolen
    return ticks / os.sysconf("SC_CLK_TCK") - own.user - own.system - own.children_user - own.children_system


def compute_with(threads: int | Literal["auto"], load: OthersLoad, fixed: bool = False) -> str:
    """Set torch's threads on the CPU, where torch is loaded; return a remark when other work takes some of them.

    "auto" takes the cores that other work leaves free: threads that wait for a busy core make all of them wait. It
    keeps torch's own number where OMP_NUM_THREADS names one, or `fixed` asks for the same sums in every run.
    """
    if "torch" not in sys.modules:
        return ""
    import torch

    if threads != "auto":
        torch.set_num_threads(threads)
    elif not fixed and "OMP_NUM_THREADS" not in os.environ and (busy := load.cores()) is not None:
        share, everywhere = usable_cores(), os.cpu_count() or 1
        free = max(1, min(share, round(everywhere - busy)))
        torch.set_num_threads(free)
        if free < share:
            return f"torch computes with {free} of {share} cores: other work keeps {busy:.1f} busy"
    return ""
