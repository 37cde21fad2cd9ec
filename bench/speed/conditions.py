"""Record the state of the machine during a measurement, and whether that makes it noisy.

A GPU is queried through its driver (NVML), without torch: energy, clocks, what slows it, and who else is on it. What a
driver does not support is None with the reason, never 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bench.memory import MB
from bench.speed.record import Rate

T = TypeVar("T")
# Bits of nvmlDeviceGetCurrentClocksEventReasons. An idle GPU and clocks that a user set are no throttling.
THROTTLES = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


class Gpu:
    """One GPU. Every query returns a value and "", or with None and why there is none."""

    def __init__(self, handle: Any, nvml: Any) -> None:
        self._handle, self._nvml = handle, nvml

    def energy_mj(self) -> tuple[int | None, str]:
        """Return millijoules since the driver was loaded."""
        return self._query(lambda: int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)))

    def process_memory_mb(self) -> tuple[float | None, str]:
        """Return the memory of this process on the GPU, with the CUDA context and all libraries."""

        def mine() -> float | None:
            used = [p.usedGpuMemory for p in self._processes() if p.pid == os.getpid()]
            return used[0] / MB if used and used[0] is not None else None

        value, why = self._query(mine)
        return value, why or ("" if value is not None else "the driver does not list this process (a container?)")

    def others(self) -> tuple[int | None, str]:
        """Count the other processes that compute on the GPU."""

        def count() -> int:
            pids = [p.pid for p in self._processes()]
            # In a container the driver may list the numbers of the host: then one of them is ours.
            return len(pids) - 1 if pids else 0

        return self._query(count)

    def state(self) -> dict[str, Any]:
        """Return clocks in MHz, temperature, and what throttles the clocks, as far as the driver reports."""
        nvml, handle = self._nvml, self._handle
        questions: dict[str, Callable[[], Any]] = {
            "sm_mhz": lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "sm_mhz_max": lambda: int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "memory_mhz": lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            "temperature_c": lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            "throttled_by": self._throttles,
        }
        return {name: self._query(question)[0] for name, question in questions.items()}

    def close(self) -> None:
        """Close the driver."""
        self._query(self._nvml.nvmlShutdown)

    def _processes(self) -> list[Any]:
        return list(self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))

    def _throttles(self) -> list[str]:
        nvml = self._nvml
        # Drivers before 535 know it by its old name.
        ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        bits = int((ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(self._handle))
        return [name for bit, name in THROTTLES.items() if bits & bit]

    def _query(self, question: Callable[[], T]) -> tuple[T | None, str]:
        try:
            return question(), ""
        except self._nvml.NVMLError as error:
            return None, str(error)


def open_gpu(device: str) -> tuple[Gpu | None, str]:
    """Open the GPU that torch calls `device` ("cuda:0"); None and the reason elsewhere."""
    if not device.startswith("cuda"):
        return None, "measured on a CPU, for which there is no counter that every machine has"
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        # By its own identity: CUDA_VISIBLE_DEVICES makes torch count otherwise than the driver.
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        return Gpu(pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"), pynvml), ""
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"


OTHERS = 0.05  # of all cores: more of them taken by others is noise
SPREAD = 0.05  # of the median: repeats further apart are noise
SLOW = 0.9  # of the clock at the start: a clock below it at the end is noise
STAT = Path("/proc/stat")


def record_conditions(gpu: Gpu | None = None) -> Callable[[], tuple[dict[str, Any], list[str]]]:
    """Start recording; the returned function stops, and returns the conditions and the reasons for noise."""
    start, (busy_before, stolen_before), own_before = time.perf_counter(), _processor(), _own()
    before, others_before = (gpu.state(), gpu.others()[0]) if gpu else ({}, None)

    def stop() -> tuple[dict[str, Any], list[str]]:
        seconds, cores = time.perf_counter() - start, os.cpu_count() or 1
        conditions: dict[str, Any] = {"seconds": round(seconds, 3), "cpu_cores": cores, "cpu_load_by_others": None}
        noisy: list[str] = []
        # 1. The processor: what others took, and what the machine beneath did.
        busy, stolen = _processor()
        if busy is not None and busy_before is not None and stolen is not None and stolen_before is not None:
            others = max(0.0, busy - busy_before - (_own() - own_before)) / (seconds * cores)
            lost = (stolen - stolen_before) / (seconds * cores)
            conditions |= {"cpu_load_by_others": round(others, 4), "cpu_stolen": round(lost, 4)}
            if others > OTHERS:
                noisy.append(f"other processes took {others:.0%} of the processor")
            if lost > OTHERS:
                noisy.append(f"the machine beneath took {lost:.0%} of the processor away")
        # 2. The GPU: its clocks, what throttled it, and who else was on it.
        if gpu:
            after = gpu.state()
            conditions |= {"gpu_before": before, "gpu_after": after}
            known = [count for count in (others_before, gpu.others()[0]) if count is not None]
            conditions["gpu_other_processes"] = max(known, default=None)
            noisy += _gpu_noise(before, after, conditions["gpu_other_processes"])
        return conditions, noisy

    return stop


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
    """Return a reason where the repeats of a rate are far apart."""
    speed = rate.expressions_per_s
    apart = (speed.high - speed.low) / speed.median if speed.median else 0.0
    return [f"repeats ({rate.cache}) are {apart:.0%} apart"] if apart > SPREAD else []


def _processor() -> tuple[float | None, float | None]:
    """Count the seconds that all processes together worked on all cores, and those that the machine beneath stole."""
    try:
        fields = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None, None
    user, nice, system, _, _, irq, softirq, steal = fields
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick


def _own() -> float:
    """Count the seconds that this process and its ended children worked."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
