"""When a device's memory is too small: telling that error from others, and giving back what can be given back."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from bench.errors import DeviceError

Item = TypeVar("Item")
Result = TypeVar("Result")

SAID = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    # By name: asking torch for its class would import it.
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in SAID)


def free() -> None:
    """Collects what nobody holds any more, and has torch hand unused GPU memory back."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def in_chunks(
    items: Sequence[Item],
    size: int,
    work: Callable[[Sequence[Item]], Result],
    on_halved: Callable[[int, int], None] = lambda tried, size: None,
) -> Iterator[Result]:
    """Apply `work` to chunks of at most `size` items, halving where memory runs out.

    Yields one result a chunk, in order. `on_halved(tried, size)` reports each halving, so that a caller can keep the
    smaller size. Raises DeviceError when a single item does not fit, and what `work` raises besides.
    """
    start = 0
    while start < len(items):
        chunk = items[start : start + size]
        failure = ""
        try:
            result = work(chunk)
        except Exception as error:
            if not out_of_memory(error):
                raise
            failure = str(error).partition("\n")[0] or type(error).__name__
        if not failure:
            start += len(chunk)
            yield result
            continue
        # Outside the except: while the exception lives, its frames keep the tensors that must be freed.
        if len(chunk) == 1:
            raise DeviceError(f"out of memory with a single item ({failure})")
        free()
        size = (len(chunk) + 1) // 2
        on_halved(len(chunk), size)
