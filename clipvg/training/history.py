"""What a training leaves for people: training.jsonl, curves.svg, and what a tracker shows where one is asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from bench.errors import MissingPackage
from bench.runs.files import write_atomically

log = logging.getLogger("bench.train")


class History:
    """The lines of training.jsonl. Going on from step N, what was written about later steps is dropped."""

    def __init__(self, folder: Path, title: str, step: int, tracker: Any = None) -> None:
        self.path, self.curves, self.title, self.tracker = (
            folder / "training.jsonl",
            folder / "curves.svg",
            title,
            tracker,
        )
        self.lines: list[dict[str, Any]] = []
        if step and self.path.is_file():
            held = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
            self.lines = [line for line in held if line["step"] <= step]
        self._write()

    def add(self, **values: Any) -> None:
        """One line; it has to hold `step`."""
        self.lines.append(values)
        self._write()
        if self.tracker is not None:
            self.tracker.log({k: v for k, v in values.items() if isinstance(v, int | float)}, step=values["step"])

    def draw(self) -> None:
        """Loss over steps, and accuracy and mean IoU over epochs, as a picture."""
        from bench.reporting.charts import Panel, Series, line_chart

        losses = [line for line in self.lines if "loss" in line]
        scores = [line for line in self.lines if "accuracy" in line]
        names = [n for n in ("loss", "l1", "giou", "auxiliary") if any(line.get(n) for line in losses)]
        steps = [line["step"] for line in losses]
        panels = [Panel("Loss", "step", "", tuple(Series(n, steps, [line[n] for line in losses]) for n in names))]
        if scores:
            epochs = [line["epoch"] for line in scores]
            both = (("Acc@0.5", "accuracy"), ("mean IoU", "mean_iou"))
            series = tuple(Series(n, epochs, [100 * line[key] for line in scores]) for n, key in both)
            panels.append(Panel("Validation", "epoch", "%", series))
        write_atomically(self.curves, line_chart(self.title, panels).encode())

    def _write(self) -> None:
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())


def usable_tracker(kind: str) -> list[str]:
    """What accelerate is to log with. Raises MissingPackage."""
    from accelerate.utils import is_tensorboard_available, is_trackio_available

    if not kind:
        return []
    there = {"tensorboard": is_tensorboard_available, "trackio": is_trackio_available}[kind]()
    if not there:
        raise MissingPackage(f"track = {kind!r} needs the package {kind}, which is not installed: pip install {kind}")
    return [kind]
