"""Where a training's time goes: into steps, into waiting for data, and into what is neither."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Stopwatch:
    """Of one session. `first` is the number of steps done before it, `before` the seconds of earlier sessions."""

    first: int
    before: float
    began: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    aside: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of all sessions."""
        return self.before + time.monotonic() - self.began

    @contextmanager
    def away(self) -> Iterator[None]:
        """For what is no step: validation, saving, looking at pictures once."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.aside += time.monotonic() - since

    def awaited(self, items: Iterator[T]) -> Iterator[T]:
        """The items; the time they are waited for is kept."""
        while True:
            since = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.waited += time.monotonic() - since
            yield item

    def read(self, step: int, steps: int, rows: int) -> tuple[dict[str, float], float]:
        """After `step` of `steps` steps of `rows` rows: what training.jsonl tells of it, and the minutes left."""
        spent, done = max(time.monotonic() - self.began - self.aside, 1e-9), step - self.first
        told = {
            "rows_per_second": round(done * rows / spent, 1),
            "waiting": round(self.waited / spent, 4),
            "seconds": round(spent, 1),
        }
        return told, spent / done * (steps - step) / 60
