"""When a device's memory is too small: telling that error from others, and giving back what can be given back."""

from __future__ import annotations

import gc
import sys

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
