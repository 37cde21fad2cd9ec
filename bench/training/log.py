"""What a training leaves for people: training.jsonl, curves, a tracker's pages, warnings; and where its time goes."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.errors import MissingPackage
from bench.evaluation.progress import is_quiet
from bench.runs.files import Appender, write_atomically
from bench.training.config import BatchPlan, TrainConfig

T = TypeVar("T")
log = logging.getLogger("bench.train")
SCORES = {"accuracy": "Acc@0.5", "mean_iou": "mean IoU", "region_accuracy": "accuracy among true regions"}
SAME = 0.15  # boxes that spread by less than this share of the targets' spread are all the same box
FLAT = 0.01  # a loss that falls by less than this share from one half of the window to the next lies flat


class TrainingLog:
    """The lines of training.jsonl, appended. Resuming after step N drops what was written about later steps."""

    def __init__(self, folder: Path, title: str, step: int, tracker: Any = None) -> None:
        self.path, self.curves, self.title, self.tracker = (
            folder / "training.jsonl", folder / "curves.svg", title, tracker,
        )  # fmt: skip
        self.lines: list[dict[str, Any]] = []
        if step and self.path.is_file():
            text = self.path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1].splitlines()  # a kill may have cut the last line short
            self.lines = [line for line in map(json.loads, whole) if line["step"] <= step]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())
        self._file = Appender(self.path)

    def add(self, **values: Any) -> None:
        """Append one line; it has to hold `step`."""
        self.lines.append(values)
        self._file.write(json.dumps(values) + "\n")
        if self.tracker is not None:
            self.tracker.log({k: v for k, v in values.items() if isinstance(v, int | float)}, step=values["step"])

    def draw(self, losses: tuple[str, ...]) -> None:
        """Draw the losses over steps, and the validation scores over epochs."""
        from bench.reporting.charts import Panel, line_chart

        steps = [line for line in self.lines if "loss" in line]
        names = [name for name in ("loss", *losses) if any(line.get(name) for line in steps)]
        curves = []
        for name in names:  # steps that alternate have different losses
            own = [line for line in steps if name in line]
            curves.append((name, [line["step"] for line in own], [line[name] for line in own]))
        panels = [Panel("Loss", "step", "", tuple(curves))]
        if scores := [line for line in self.lines if "loss" not in line]:
            epochs = [line["epoch"] for line in scores]
            keys = [key for key in scores[0] if key in SCORES or key.startswith("recall")]
            series = tuple((SCORES.get(k, k), epochs, [100 * line[k] for line in scores]) for k in keys)
            panels.append(Panel("Validation", "epoch", "%", series))
        write_atomically(self.curves, line_chart(self.title, panels).encode())

    def close(self) -> None:
        self._file.close()


def usable_tracker(kind: str) -> list[str]:
    """Return what accelerate is to log with. Raises MissingPackage."""
    if kind and find_spec(kind) is None:
        raise MissingPackage(f"track = {kind!r} needs the package {kind}, which is not installed: pip install {kind}")
    return [kind] if kind else []


def collapse_detector(config: TrainConfig, plan: BatchPlan) -> Callable[[int, float, float], str]:
    """Detect the way box regression fails: a flat loss, and every prediction the same box in the middle.

    Users of the official CLIP-VG code on one GPU get just that: its learning rate with a fifth of its batch. The
    detector looks back over `collapse_window` steps: it takes a step, its loss, and the spread of its boxes as a share
    of its targets', and returns a warning when a collapse starts and when it is over, else nothing.
    """
    losses: deque[float] = deque(maxlen=config.collapse_window)
    spreads: deque[float] = deque(maxlen=config.collapse_window)
    collapsed = False

    def note(step: int, loss: float, spread: float) -> str:
        nonlocal collapsed
        losses.append(loss)
        spreads.append(spread)
        if len(losses) < config.collapse_window:
            return ""
        # Compare the mean loss of the window's two halves, and the boxes of all of it.
        half, window = len(losses) // 2, list(losses)
        before, now, apart = (float(np.mean(values)) for values in (window[:half], window[half:], spreads))
        same, flat = apart < SAME, now > (1 - FLAT) * before
        was, collapsed = collapsed, same and flat if not collapsed else same
        if collapsed and not was:
            return (
                f"step {step:,}: no progress. The loss went from {before:.3f} to {now:.3f} in {len(losses)} steps, "
                f"and all boxes are nearly the same one (they spread {apart:.2f} times as far as the targets). {plan}. "
                f"Worth trying: {_advice(config, plan)}"
            )
        if was and not collapsed:
            return f"step {step:,}: the boxes differ again ({apart:.2f} times as far as the targets)"
        return ""

    return note


def _advice(config: TrainConfig, plan: BatchPlan) -> str:
    """List the settings that may help, less those that are set already."""
    advice = []
    if plan.effective < config.reference_batch and config.adapt == "off":
        advice.append('adapt = "accumulate" or "scale": the learning rate is meant for more rows')
    if not config.warm_up:
        advice.append("warm_up = 500")
    if not config.clip_norm:
        advice.append("clip_norm = 0.1")
    return "; ".join([*advice, f"learning_rate = {config.learning_rate / 4:.1g}"])


@dataclass
class Timer:
    """The time of one session: in steps, waiting for data, and in what is neither.

    `first` is the number of steps done before it, `before` the seconds of earlier sessions.
    """

    first: int
    before: float
    start: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    excluded: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of all sessions."""
        return self.before + time.monotonic() - self.start

    @contextmanager
    def exclude(self) -> Iterator[None]:
        """Leave out what is no step: validation, saving, filling a feature cache."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.excluded += time.monotonic() - since

    def waiting(self, items: Iterator[T]) -> Iterator[T]:
        """Yield the items; the time they are waited for is counted."""
        while True:
            since = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.waited += time.monotonic() - since
            yield item

    def rates(self, step: int, steps: int, rows: int) -> tuple[dict[str, float], float]:
        """After `step` of `steps` steps of `rows` rows: rates for training.jsonl, and the minutes left."""
        spent, done = max(time.monotonic() - self.start - self.excluded, 1e-9), step - self.first
        rates = {
            "rows_per_second": round(done * rows / spent, 1),
            "waiting": round(self.waited / spent, 4),
            "seconds": round(spent, 1),
        }
        return rates, spent / done * (steps - step) / 60


@contextmanager
def progress_bar(title: str, total: int, done: int) -> Iterator[Any]:
    """Yield `advance(note)`: a bar beside the log lines on a terminal, nothing elsewhere."""
    from rich.logging import RichHandler
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = next((h.console for h in logging.getLogger().handlers if isinstance(h, RichHandler)), None)
    if console is None or not console.is_terminal or is_quiet():
        yield lambda note: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, completed=done, note="")
        yield lambda note: bar.update(task, advance=1, note=note)
