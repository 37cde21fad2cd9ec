"""What the machine was like while something was measured, and whether that makes the measurement noisy."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from bench.speed.nvml import Gpu
from bench.speed.record import Rate

OTHERS = 0.05  # of all cores: more of them taken by others is noise
SPREAD = 0.05  # of the median: repeats further apart are noise
SLOW = 0.9  # of the clock at the start: a clock below it at the end is noise
STAT = Path("/proc/stat")


class Watch:
    """Begins to look when it is made; `stop` says what it saw."""

    def __init__(self, gpu: Gpu | None = None) -> None:
        self._gpu = gpu
        self._began, self._busy, self._stolen, self._own = time.perf_counter(), *_processor(), _own()
        self._before = gpu.state() if gpu else {}
        self._others = gpu.others()[0] if gpu else None

    def stop(self) -> tuple[dict[str, Any], list[str]]:
        """Conditions as a record holds them, and the reasons for which the measurement is noisy."""
        seconds = time.perf_counter() - self._began
        cores = os.cpu_count() or 1
        conditions: dict[str, Any] = {"seconds": round(seconds, 3), "cpu_cores": cores, "cpu_load_by_others": None}
        noisy: list[str] = []
        busy, stolen = _processor()
        if busy is not None and self._busy is not None and stolen is not None and self._stolen is not None:
            others = max(0.0, busy - self._busy - (_own() - self._own)) / (seconds * cores)
            lost = (stolen - self._stolen) / (seconds * cores)
            conditions |= {"cpu_load_by_others": round(others, 4), "cpu_stolen": round(lost, 4)}
            if others > OTHERS:
                noisy.append(f"other processes took {others:.0%} of the processor")
            if lost > OTHERS:
                noisy.append(f"the machine beneath took {lost:.0%} of the processor away")
        if self._gpu:
            after = self._gpu.state()
            conditions |= {"gpu_before": self._before, "gpu_after": after}
            others_now = self._gpu.others()[0]
            conditions["gpu_other_processes"] = _most(self._others, others_now)
            noisy += _gpu_noise(self._before, after, conditions["gpu_other_processes"])
        return conditions, noisy


def _gpu_noise(before: dict[str, Any], after: dict[str, Any], others: int | None) -> list[str]:
    noisy = []
    if others:
        noisy.append(f"{others} other process{'es' * (others > 1)} on the GPU")
    throttles = {reason for state in (before, after) for reason in state.get("throttled_by") or ()}
    if throttles:
        noisy.append(f"the GPU was throttled: {', '.join(sorted(throttles))}")
    clocks = (before.get("sm_mhz"), after.get("sm_mhz"))
    if clocks[0] and clocks[1] and clocks[1] < SLOW * clocks[0]:
        noisy.append(f"the GPU's clock fell from {clocks[0]} to {clocks[1]} MHz")
    return noisy


def uneven(rate: Rate) -> list[str]:
    """A reason where the repeats of a rate are far apart."""
    speed = rate.expressions_per_s
    apart = (speed.high - speed.low) / speed.median if speed.median else 0.0
    return [f"repeats ({rate.cache}) are {apart:.0%} apart"] if apart > SPREAD else []


def _most(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return max(known) if known else None


def _processor() -> tuple[float | None, float | None]:
    """Seconds that all processes together have worked on all cores, and that were stolen by the machine beneath."""
    try:
        fields = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None, None
    user, nice, system, _, _, irq, softirq, steal = fields
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick


def _own() -> float:
    """Seconds that this process and its ended children have worked."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
