"""Device clock: seconds of each named stage, which pipelines mark and a run stores batch by batch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

KEPT = 1000  # spans that nobody took; beyond them the finished ones are added up


class Clock:
    """Add up the seconds of each named stage of a pipeline: `with clock.stage("detect"): ...`.

    A stage inside another takes its time away from the outer one, so the stages add up to no more than the wall time.
    On CUDA a stage is the time of the device's stream between its ends, which are events in it: what the device worked
    on the stage, or idled while the host did. Nothing is waited for. Not for several threads.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._moment: Callable[[], Any] = _events(device) if device.startswith("cuda") else time.perf_counter
        self._seconds: dict[str, float] = defaultdict(float)
        self._spans: list[tuple[str, Any, Any]] = []  # stage, its moments; in the order of time
        self._open: list[str] = []
        self._since: Any = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def take(self, wait: bool = False) -> dict[str, float]:
        """Return the seconds of each stage since the last call, and start from zero.

        On CUDA those of the work that the device has finished, the rest coming with a later call; with `wait` all.
        """
        self._add_up(wait)
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds of stages that another process measured."""
        for name, value in seconds.items():
            self._seconds[name] += value

    def _charge(self) -> None:
        """Charge the time since the last change to the innermost open stage."""
        now = self._moment()
        if self._open:
            self._spans.append((self._open[-1], self._since, now))
            if len(self._spans) > KEPT:
                self._add_up(wait=False)
        self._since = now

    def _add_up(self, wait: bool) -> None:
        """Add up the spans that are over."""
        done = 0
        for name, start, end in self._spans:
            if isinstance(end, float):
                seconds = end - start
            else:
                if wait:
                    end.synchronize()
                elif not end.query():
                    break
                seconds = start.elapsed_time(end) / 1000
            self._seconds[name] += seconds
            done += 1
        del self._spans[:done]


def _events(device: str) -> Callable[[], Any]:
    """Return a function that records an event in the device's current stream."""
    import torch

    def record() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    return record


def synchroniser(device: str) -> Callable[[], None]:
    """Return a function that waits until a CUDA device is idle; it does nothing elsewhere."""
    if not device.startswith("cuda"):
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device)
