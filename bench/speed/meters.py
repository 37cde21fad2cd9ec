"""Peak memory of this process and of its device, in MB (2**20 bytes)."""

from __future__ import annotations

import sys
from pathlib import Path

MB = 2**20


def peak_memory_mb() -> float | None:
    """The largest resident size of this process so far; None where the system does not say."""
    # getrusage carries a parent's peak over into a started program, so Linux is asked directly.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / MB
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MB if sys.platform == "darwin" else peak * 1024 / MB


def device_memory_mb(device: str, reserved: bool = False) -> float | None:
    """The largest memory torch has allocated (or reserved) on a CUDA device so far; None elsewhere."""
    if not device.startswith("cuda") or "torch" not in sys.modules:
        return None
    import torch

    return (torch.cuda.max_memory_reserved if reserved else torch.cuda.max_memory_allocated)(device) / MB


def restart_peaks(device: str) -> bool:
    """Forgets the peaks so far, of the process and of its CUDA device; False where the system keeps the process's."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew at what is resident now
    except OSError:
        return False
    return True
