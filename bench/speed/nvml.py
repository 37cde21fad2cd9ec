"""A GPU as its driver sees it (NVML): energy, clocks, what holds it back, and who else is on it. Imports no torch.

What a driver does not support is None with the reason, never 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from bench.speed.meters import MB

T = TypeVar("T")
# Bits of nvmlDeviceGetCurrentClocksEventReasons. An idle GPU and clocks that somebody set are no throttling.
THROTTLES = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


class Gpu:
    """One GPU. Every question is answered with a value and "", or with None and why there is none."""

    def __init__(self, handle: Any, nvml: Any) -> None:
        self._handle, self._nvml = handle, nvml

    def energy_mj(self) -> tuple[int | None, str]:
        """Millijoules since the driver was loaded."""
        return self._ask(lambda: int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)))

    def process_memory_mb(self) -> tuple[float | None, str]:
        """What this process holds on the GPU, with the CUDA context and all libraries."""

        def mine() -> float | None:
            used = [p.usedGpuMemory for p in self._processes() if p.pid == os.getpid()]
            return used[0] / MB if used and used[0] is not None else None

        value, why = self._ask(mine)
        return value, why or ("" if value is not None else "the driver does not list this process (a container?)")

    def others(self) -> tuple[int | None, str]:
        """How many other processes compute on the GPU."""

        def count() -> int:
            pids = [p.pid for p in self._processes()]
            # In a container the driver may list the numbers of the host: then one of them is ours.
            return len(pids) - 1 if pids else 0

        return self._ask(count)

    def state(self) -> dict[str, Any]:
        """Clocks in MHz, temperature, and what holds the clocks back, as far as the driver says."""
        nvml, handle = self._nvml, self._handle
        asked: dict[str, Callable[[], Any]] = {
            "sm_mhz": lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "sm_mhz_max": lambda: int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "memory_mhz": lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            "temperature_c": lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            "throttled_by": self._throttles,
        }
        return {name: self._ask(question)[0] for name, question in asked.items()}

    def close(self) -> None:
        """Lets go of the driver."""
        self._ask(self._nvml.nvmlShutdown)

    def _processes(self) -> list[Any]:
        return list(self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))

    def _throttles(self) -> list[str]:
        nvml = self._nvml
        # Drivers before 535 know it by its old name.
        ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        bits = int((ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(self._handle))
        return [name for bit, name in THROTTLES.items() if bits & bit]

    def _ask(self, question: Callable[[], T]) -> tuple[T | None, str]:
        try:
            return question(), ""
        except self._nvml.NVMLError as error:
            return None, str(error)


def open_gpu(device: str) -> tuple[Gpu | None, str]:
    """The GPU that torch calls `device` ("cuda:0"); None and the reason elsewhere."""
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
