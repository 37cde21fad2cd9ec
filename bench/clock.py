"""Device clock: seconds of each named stage, which pipelines mark and a run stores batch by batch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Add up the seconds of each named stage of a pipeline: `with clock.stage("detect"): ...`.

    A stage inside another takes its time away from the outer one, so the stages add up to no more than the wall time.
    On CUDA the device is waited for at both ends of a stage, so that queued work is charged to the stage it belongs to;
    with `waits` off it is not, which leaves the pipeline as fast as it is. Not for several threads.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._wait = synchroniser(device)
        self.waits = True
        self._seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def take(self) -> dict[str, float]:
        """Return the seconds of each stage since the last call, and start from zero."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds

    def _charge(self) -> None:
        """Charge the time since the last change to the innermost open stage."""
        if self.waits:
            self._wait()
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now


def synchroniser(device: str) -> Callable[[], None]:
    """Return a function that waits until a CUDA device is idle; it does nothing elsewhere."""
    if not device.startswith("cuda"):
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device)
