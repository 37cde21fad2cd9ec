"""Embed the charts of the page (scores, speed, training, reliability) as <img> data addresses, which run nothing."""

from __future__ import annotations

import base64
import html
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from bench.errors import DataError, UsageError
from bench.evaluation.confidence import Confidence, confidence
from bench.reporting.confidence import section
from bench.reporting.report.gallery import AnsweredRun
from bench.reporting.report.selection import ReportRun
from bench.reporting.rows import Row
from bench.reporting.speed_chart import speed_chart
from bench.runs.reliability import IMAGE

CURVES: tuple[str, ...] = ("curves.svg", "thresholds.svg", "reliability.svg")  # of a training and of a curriculum
SHARED_OPTIONS = ("--results", "--on", "--weights", "--preprocessing", "--device", "--dtype", "--config", "--set")
SHARED_FLAGS = ("--compile", "--channels-last", "--offline")
MOST = 4_000_000  # bytes; a drawing of ours has a few thousand


def speeds(runs: Sequence[ReportRun], split: str) -> dict[str, Any]:
    """Make a chart for every device on which runs were timed, and the commands that time the others on `split`."""
    timed: dict[str, list[Row]] = {}
    for run in runs:
        if run.row["speed"]:
            timed.setdefault(run.row["device"], []).append(cast(Row, {**run.row, "pipeline": run.label}))
    drawn = [speed_chart("Accuracy against speed", points, device) for device, points in timed.items()]
    charts = [{"source": as_image(svg), "text": described(svg)} for svg in drawn]
    missing = [run for run in runs if not run.row["speed"]]
    notes, commands = [], dict[tuple[str, ...], list[str]]()
    own = [run for run in missing if run.record.provenance == "run"]
    if own:
        for run in own:
            commands.setdefault(_shared_options(run.record.argv), []).append(run.record.identity.pipeline)
        who = f"Not timed: {', '.join(run.label for run in own)}." if charts else "None of these runs is timed yet."
        notes.append(f"{who} To measure the speed:")
    if elsewhere := [run.label for run in missing if run.record.provenance != "run"]:
        notes.insert(0, f"Boxes predicted elsewhere have no speed here: {', '.join(elsewhere)}.")
    lines = [
        shlex.join(["bench", "speed", "--pipeline", ",".join(dict.fromkeys(names)), "--split", split, *options])
        for options, names in commands.items()
    ]
    return {"charts": charts, "notes": notes, "commands": lines}


def _shared_options(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the options of a `bench run` that `bench speed` needs to measure the same pipeline."""
    kept: list[str] = []
    words = iter(argv[2:] if tuple(argv[1:2]) == ("run",) else ())
    for word in words:
        name, equals, _ = word.partition("=")
        if name in SHARED_FLAGS or name in SHARED_OPTIONS:
            kept += [word] if equals or name in SHARED_FLAGS else [word, next(words, "")]
    return tuple(kept)


def confidences(answers: Sequence[AnsweredRun]) -> dict[str, Any] | None:
    """Return the part about the scores of runs, with its chart; None where no run has any."""
    worth: list[tuple[str, Confidence | str]] = []
    for each in answers:
        assert each.run.record.metrics is not None
        try:
            one: Confidence | str = confidence(each.outcomes, each.run.record.metrics.bootstrap)
        except DataError as error:
            one = str(error)
        worth.append((each.run.label, one))
    part = section(worth)
    return part and {**part, "source": as_image(part["chart"]), "text": described(part["chart"])}


def stored_drawings(trainings: Sequence[Path], reliabilities: Sequence[Path]) -> list[dict[str, str]]:
    """Read the curves that `bench train` and the histograms that `bench label score` leave in these folders.

    Raises UsageError for a folder without any, and for what is no drawing.
    """
    wanted = [(folder, CURVES, "bench train writes NAME.run/curves.svg") for folder in trainings]
    wanted += [(folder, (IMAGE,), f"bench label score writes {IMAGE}") for folder in reliabilities]
    drawings = []
    for folder, names, who in wanted:
        there = [folder / name for name in names if (folder / name).is_file()]
        if not there:
            raise UsageError(f"{folder}: has no {' or '.join(names)}; {who} into the folder to show here")
        drawings += [_drawing(path) for path in there]
    return drawings


def _drawing(path: Path) -> dict[str, str]:
    try:
        data = path.read_bytes() if path.stat().st_size <= MOST else b""
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is no SVG ({error})") from None
    if "<svg" not in text:
        raise UsageError(f"{path}: not an SVG file of at most {MOST:,} bytes; make it anew")
    return {"title": f"{path.parent.resolve().name}/{path.name}", "source": as_image(text), "text": described(text)}


def as_image(svg: str) -> str:
    """Return the address of an <img> that contains the drawing itself."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def described(svg: str) -> str:
    """Return a drawing's own title and description, for screen readers."""
    return ": ".join(filter(None, (_inside(svg, "title"), _inside(svg, "desc"))))


def _inside(svg: str, tag: str) -> str:
    match = re.search(rf"<{tag}>(.*?)</{tag}>", svg, re.DOTALL)
    return html.unescape(match[1]) if match else ""
