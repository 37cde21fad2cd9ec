"""Memory of the process and its device: peaks, what frees it, and chunks that are halved where it runs out."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import DeviceError

Item = TypeVar("Item")
Result = TypeVar("Result")

MB = 2**20
FULL = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on whatever device."""
    # By name: torch's class would have to be imported.
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in FULL)


def free() -> None:
    """Free what is unreferenced, and the unused GPU memory that torch keeps."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def to_host(tensor: Any) -> Callable[[], Any]:
    """Start copying a torch tensor from its device -> the function that waits for the copy and returns it as numpy's.

    A GPU is not waited for before.
    """
    import torch

    if tensor.device.type != "cuda":
        return tensor.cpu().numpy  # type: ignore[no-any-return]
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Any:
        copied.synchronize()
        return host.numpy()

    return wait


def chunks(
    items: Sequence[Item],
    size: int,
    failures: list[str],
    on_halved: Callable[[int, int], None] = lambda tried, size: None,
) -> Iterator[Sequence[Item]]:
    """Yield chunks of at most `size` items, halved where memory runs out.

    Append `memory_failure(error)` to `failures` when a chunk did not fit: its items come again in smaller chunks.
    `on_halved(tried, size)` reports each halving. Raises DeviceError when a single item does not fit.
    """
    start = 0
    while start < len(items):
        chunk = items[start : start + size]
        yield chunk
        if not failures:
            start += len(chunk)
            continue
        # Here the error is gone: while it lives, its frames keep the tensors that must be freed.
        failure = failures.pop()
        if len(chunk) == 1:
            raise DeviceError(f"out of memory with a single item ({failure})")
        free()
        size = (len(chunk) + 1) // 2
        on_halved(len(chunk), size)


def in_chunks(
    items: Sequence[Item],
    size: int,
    work: Callable[[Sequence[Item]], Result],
    on_halved: Callable[[int, int], None] = lambda tried, size: None,
) -> Iterator[Result]:
    """Apply `work` to the `chunks` of items; yields one result a chunk, in order.

    Raises what `chunks` and `work` raise.
    """
    failures: list[str] = []
    for chunk in chunks(items, size, failures, on_halved):
        try:
            result = work(chunk)
        except Exception as error:
            failures.append(memory_failure(error))
            continue
        yield result


def memory_failure(error: Exception) -> str:
    """Return the first line of an out-of-memory error; any other error is raised again."""
    if not out_of_memory(error):
        raise error
    return str(error).partition("\n")[0] or type(error).__name__


def peak_memory_mb() -> float | None:
    """Return the largest resident size of this process so far; None where the system does not say."""
    # getrusage carries a parent's peak over into a started program, so Linux's own file comes first.
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
    """Return the largest memory that torch has allocated (or reserved) on a CUDA device so far; None elsewhere."""
    if not device.startswith("cuda") or "torch" not in sys.modules:
        return None
    import torch

    return (torch.cuda.max_memory_reserved if reserved else torch.cuda.max_memory_allocated)(device) / MB


def restart_peaks(device: str) -> bool:
    """Forget the peaks so far, of the process and its CUDA device; False where the system keeps the process's."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew at what is resident now
    except OSError:
        return False
    return True
