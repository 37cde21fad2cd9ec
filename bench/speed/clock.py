"""Where the seconds of a run go: a stage clock that pipelines mark and the loop reads batch by batch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Adds up the seconds of each named stage (the StageClock of bench.grounding).

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
        """Seconds a stage since the last call, and starts again from zero."""
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken

    def _charge(self) -> None:
        """Charges the time since the last change to the innermost open stage."""
        if self.waits:
            self._wait()
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now


def synchroniser(device: str) -> Callable[[], None]:
    """Make what waits until a CUDA device has done all that it was given; it does nothing elsewhere."""
    if not device.startswith("cuda"):
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device)
