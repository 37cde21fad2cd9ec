"""What the tables and charts of the page say, as plain values for the template."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.datasets.split import Split
from bench.evaluation.protocols import protocol
from bench.reporting.report.gallery import Answered
from bench.reporting.report.selection import Shown
from bench.reporting.table import BLANK, interval, percent, rate, remarks
from bench.runs.record import Metrics, RunRecord, Stratum

SHAPES = 6  # marks and colours; the seventh run has the first one's colour and another shape
CHARTED = 8  # runs in a chart of strata; more cannot be told apart
WHOLE = "(ex/s) in brackets: of the whole evaluation, decoding included, no measurement of speed"
NOISY = "~ measured while the machine was busy, or its clocks were held down, or with repeats far apart"
SAW = {
    "yes": ("‡", "its training held pictures of this benchmark's validation or test parts"),
    "unknown": ("?", "not known whether its training held pictures of this benchmark's validation or test parts"),
}


def head(split: Split, runs: Sequence[Shown], answers: Sequence[Answered]) -> dict[str, Any]:
    """Title, lede, what every reader must know, and the first facts, each leading into the gallery."""
    first = runs[0].record
    metrics = metrics_of(first)
    data, rule = first.identity.data, protocol(first.protocol)
    hit = f"{'IoU' if rule.is_iou else 'generalised IoU'} {rule.hits_at.replace('>=', '≥ ')}"
    draws = metrics.bootstrap
    said = (
        f"{data.expressions:,} expressions about {data.pictures:,} pictures, answered by "
        f"{_count(len(runs), 'pipeline')}. A hit is {hit} (protocol {rule.name}); "
        f"intervals are {100 * draws.confidence:g} %, from {draws.draws:,} bootstrap draws over pictures."
    )
    notes = [line for run in runs for line in remarks(run.record)]
    dirty = [run.label for run in runs if run.record.git.get("dirty")]
    if dirty:
        notes.append(f"made by code that is in no commit, so in no leaderboard: {', '.join(dirty)}")
    return {
        "split": split.name,
        "said": said,
        "remarks": notes,
        "level": f"{100 * draws.confidence:g}",
        "facts": _facts(runs, answers),
        "made": f"Made by bench report from {first.signature}. Everything is in this file; it fetches nothing.",
    }


def _facts(runs: Sequence[Shown], answers: Sequence[Answered]) -> list[dict[str, str]]:
    right = np.sum([run.outcomes.hit for run in answers], axis=0)
    best = metrics_of(runs[0].record)
    facts = [("leaderboard", f"{percent(best.accuracy)} %", f"Acc@0.5 of {runs[0].label}, {interval(best.ci95)}")]
    if len(runs) > 1:
        some = (right > 0) & (right < len(runs))
        facts += [
            ("show=all-wrong", f"{int((right == 0).sum()):,}", "expressions that no pipeline gets right"),
            ("show=all-right", f"{int((right == len(runs)).sum()):,}", "expressions that every pipeline gets right"),
            ("show=some&sort=a-low", f"{int(some.sum()):,}", "expressions that some get right and some wrong"),
        ]
    else:
        facts.append(("show=all-wrong", f"{int((right == 0).sum()):,}", "expressions that it gets wrong"))
    return [{"link": link, "number": number, "said": said} for link, number, said in facts]


def board(runs: Sequence[Shown]) -> dict[str, Any]:
    """The leaderboard's table: columns in which no run has anything to say are left out."""
    rows = []
    columns: dict[str, tuple[str, list[str]]] = {}
    marks_used: dict[str, str] = {}
    for number, run in enumerate(runs):
        metrics = metrics_of(run.record)
        marks = []
        if (saw := str(run.row.get("saw_test_images", "unknown"))) in SAW:
            marks.append({"sign": SAW[saw][0], "why": SAW[saw][1]})
        if run.record.provenance == "imported":
            marks.append({"sign": "†", "why": "boxes made elsewhere, scored here"})
        marks_used |= {mark["sign"]: mark["why"] for mark in marks}
        for name, (why, text) in _cells(run).items():
            columns.setdefault(name, (why, []))[1].append(text)
        rows.append(
            {
                **_dot(number, run.label, metrics.accuracy, metrics.ci95, line=0),
                "marks": marks,
                "cells": [],
            }
        )
    kept = {name: cells for name, (_, cells) in columns.items() if set(cells) - {BLANK, "0"}}
    notes = [f"{sign} {why}." for sign, why in marks_used.items()]
    notes += [
        f"{why}." for begin, why in (("(", WHOLE), ("~", NOISY)) if any(c[0] == begin for c in columns["ex/s"][1])
    ]
    if len(runs) > 1 and len(where := set(kept.get("device", ()))) == 1:
        del kept["device"]  # a column that says one thing is a sentence
        notes.append(f"All of them ran on: {where.pop()}.")
    for number, row in enumerate(rows):
        row["cells"] = [cells[number] for cells in kept.values()]
    return {
        "columns": [{"name": name, "why": columns[name][0]} for name in kept],
        "rows": rows,
        "notes": notes,
    }


def _cells(run: Shown) -> dict[str, tuple[str, str]]:
    """Column -> (what it means, the run's cell)."""
    metrics, row = metrics_of(run.record), run.row
    parameters = row.get("parameters", run.record.card.get("parameters"))
    training = str(row.get("training_data") or "unknown")
    return {
        "rank": ("range of ranks that the paired test leaves open", _rank(row.get("rank"))),
        "paper": ("what its paper published for this split, and how this run differs", _published(row)),
        "0.7": ("Acc@0.7", percent(metrics.accuracy_70)),
        "0.9": ("Acc@0.9", percent(metrics.accuracy_90)),
        "mIoU": ("mean IoU", percent(metrics.mean_iou)),
        "ceiling": ("share of expressions for which some proposal would be a hit", percent(metrics.oracle)),
        "no box": ("expressions that got no box", f"{metrics.no_box:,}"),
        "unreadable": ("pictures that could not be read", f"{metrics.errors:,}"),
        "ex/s": ("expressions per second, cold", _speed(row)),
        "ms": ("milliseconds for one expression on one picture, median", _noisy(row) + rate(row.get("latency_ms"))),
        "GB": ("peak memory, 10⁹ bytes", rate(row.get("peak_gb"))),
        "parameters": ("parameters of the whole pipeline", _millions(parameters)),
        "training": ("what it was trained on", BLANK if training == "unknown" else training),
        "device": ("what it ran on", str(row.get("device") or BLANK)),
    }


def _speed(row: Mapping[str, Any]) -> str:
    """The measured speed, or in brackets that of the whole evaluation: as in LEADERBOARD.md."""
    if speed := row.get("speed"):
        return _noisy(row) + rate(speed["expressions_per_s"]["median"])
    known = row.get("expressions_per_s")
    return BLANK if known is None else f"({rate(known)})"


def _noisy(row: Mapping[str, Any]) -> str:
    speed = row.get("speed")
    return "~" if speed and speed.get("noisy") else ""


def _published(row: Mapping[str, Any]) -> str:
    """The first published accuracy, and this row minus it in points."""
    said = next((p for p in row.get("published") or () if p["metric"] == "acc@0.5"), None)
    return f"{said['value']:g} ({said['difference']:+.2f})".replace("-", "−") if said else BLANK


def _rank(rank: Any) -> str:
    if isinstance(rank, Sequence) and len(rank) == 2:
        return f"{rank[0]}" if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"
    return BLANK


def _millions(parameters: Any) -> str:
    return f"{parameters / 1e6:,.3g} M" if isinstance(parameters, int | float) and parameters else BLANK


def strata(runs: Sequence[Shown]) -> dict[str, Any]:
    """A chart for every cut: a band a label, and in it a line for each of the first CHARTED runs."""
    found = [metrics_of(run.record) for run in runs]
    cuts: dict[str, dict[str, None]] = {}
    for metrics in found:
        for cut, labels in metrics.strata.items():
            cuts.setdefault(cut, {}).update(dict.fromkeys(labels))
    shown: list[dict[str, Any]] = [
        {"name": cut, "rows": [_band(cut, label, runs, found) for label in labels]}
        for cut, labels in cuts.items()
        if len(labels) > 1  # a cut with one label cuts nothing
    ]
    for entry in shown:
        said = (f"{row['label']}: " + ", ".join(_words(c) for c in row["cells"] if c) for row in entry["rows"])
        entry["said"] = "; ".join(said)
    return {
        "labels": [run.label for run in runs[:CHARTED]],
        "names": [run.label for run in runs],
        "more": len(runs) > CHARTED,
        "cuts": shown,
    }


def _band(cut: str, label: str, runs: Sequence[Shown], found: Sequence[Metrics]) -> dict[str, Any]:
    cells: list[Stratum | None] = [metrics.strata.get(cut, {}).get(label) for metrics in found]
    dots = [
        _dot(number, run.label, cell.accuracy, cell.ci95, line=number) if cell else None
        for number, (run, cell) in enumerate(zip(runs, cells, strict=True))
    ]
    return {"label": label, "n": f"{next(c.n for c in cells if c):,}", "cells": dots[:CHARTED], "all": dots}


def _dot(number: int, label: str, accuracy: float, ci95: tuple[float, float], line: int) -> dict[str, Any]:
    """A mark with its interval, on a line of its chart."""
    return {
        "number": number,
        "shape": (number + number // SHAPES) % SHAPES,
        "label": label,
        "accuracy": accuracy,
        "low": ci95[0],
        "high": ci95[1],
        "interval": interval(ci95),
        "line": line,
    }


def _words(dot: Mapping[str, Any]) -> str:
    return f"{dot['label']} {percent(dot['accuracy'])}"


def made(runs: Sequence[Shown]) -> list[dict[str, Any]]:
    """How each run came to be: what is needed to make it again."""
    return [
        {"label": run.label, "short": str(run.record.card.get("summary") or ""), "facts": _made(run.record, run.row)}
        for run in runs
    ]


def _made(record: RunRecord, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    card, identity = record.card, record.identity
    dirty = " (with changes that are in no commit)" if record.git.get("dirty") else ""
    speed = record.throughput
    facts = {
        "command": shlex.join(record.argv),
        "commit": f"{record.git['commit']}{dirty}" if record.git.get("commit") else "",
        "signature": record.signature,
        "finished": record.finished or "",
        "device": f"{row.get('device') or identity.device}, {identity.dtype}, seed {identity.seed}",
        "trained on": str(card.get("trained_on") or ""),
        "paper": str(card.get("paper") or ""),
        "licence": str(card.get("licence") or ""),
        "weights": "\n".join(f"{part}: {sha256}" for part, sha256 in identity.weights.items()),
        "options": "\n".join(f"{key} = {value!r}" for key, value in identity.options.items()),
        "settings hash": record.settings_hash,
        "seconds": f"{speed.seconds:,.1f}, and {speed.load_seconds or 0:,.1f} to load" if speed else "",
        "boxes from": f"{record.imported.file}, sha256 {record.imported.sha256}" if record.imported else "",
        "folder": str(row.get("run_dir") or ""),
    }
    return [(name, value) for name, value in facts.items() if value]


def metrics_of(record: RunRecord) -> Metrics:
    """A finished run's metrics; selection.py lets no other in."""
    assert record.metrics is not None
    return record.metrics


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("s" if n != 1 else "")
