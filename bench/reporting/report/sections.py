"""Collect what the tables and charts of the page contain, as plain values for the template."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.datasets.split import Split
from bench.evaluation.protocols import protocol
from bench.reporting.cells import interval, measures, percent
from bench.reporting.marks import MARKS, REMARKS, legend
from bench.reporting.report.gallery import AnsweredRun
from bench.reporting.report.selection import ReportRun
from bench.reporting.table import filled_columns
from bench.reporting.terminal import cuts_of, remarks
from bench.runs.numbers import Metrics, Stratum
from bench.runs.record import RunRecord

SHAPES = 6  # marks and colours; the seventh run has the first one's colour and another shape
CHARTED = 8  # runs in a chart of strata; more look alike


def head(split: Split, runs: Sequence[ReportRun], answers: Sequence[AnsweredRun]) -> dict[str, Any]:
    """Return title, lede, remarks, and the first facts, each leading into the gallery."""
    first = runs[0].record
    metrics = metrics_of(first)
    data, rule = first.identity.data, protocol(first.protocol)
    hit = f"{'IoU' if rule.is_iou else 'generalised IoU'} {rule.hits_at.replace('>=', '≥ ')}"
    if rule.sets:
        hit = f"a box for every target and no other one, paired at {hit}, or nothing where nothing is referred to"
    accuracy, overlap, _ = measures(first.signature)
    draws = metrics.bootstrap
    how = f"from {draws.draws:,} bootstrap draws over images"
    if all(run.record.metrics and run.record.metrics.ci95_note for run in runs):
        how = "Student's over so few images"
    text = (
        f"{data.expressions:,} expressions about {data.images:,} images, answered by "
        f"{len(runs):,} pipeline{'s' if len(runs) != 1 else ''}. A hit is {hit} (protocol {rule.name}); "
        f"intervals are {100 * draws.confidence:g} %, {how}."
    )
    notes = remarks([(run.label, run.record) for run in runs])
    dirty = [run.label for run in runs if run.record.git.get("dirty")]
    if dirty:
        notes.append(f"made by code that is in no commit, so in no leaderboard: {', '.join(dirty)}")
    return {
        "split": split.name,
        "text": text,
        "remarks": notes,
        "level": f"{100 * draws.confidence:g}",
        "accuracy": accuracy,
        "overlap": overlap,
        "facts": _facts(runs, answers),
        "made": f"Made by bench report from {first.signature}. Everything is in this file; it fetches nothing.",
    }


def _facts(runs: Sequence[ReportRun], answers: Sequence[AnsweredRun]) -> list[dict[str, str]]:
    right = np.sum([run.outcomes.hit for run in answers], axis=0)
    best = metrics_of(runs[0].record)
    kept = interval(best.ci95, best.ci95_note).replace(" ", "\N{NO-BREAK SPACE}")
    facts = [
        (
            "leaderboard",
            f"{percent(best.accuracy)} %",
            f"{measures(runs[0].record.signature)[0]} of {runs[0].label}, {kept}",
        )
    ]
    if len(runs) > 1:
        some = (right > 0) & (right < len(runs))
        facts += [
            ("show=all-wrong", f"{int((right == 0).sum()):,}", "expressions that no pipeline gets right"),
            ("show=all-right", f"{int((right == len(runs)).sum()):,}", "expressions that every pipeline gets right"),
            ("show=some&sort=a-low", f"{int(some.sum()):,}", "expressions that some get right and some wrong"),
        ]
    else:
        facts.append(("show=all-wrong", f"{int((right == 0).sum()):,}", "expressions that it gets wrong"))
    return [{"link": link, "number": number, "text": text} for link, number, text in facts]


def board(runs: Sequence[ReportRun]) -> dict[str, Any]:
    """Return the leaderboard's table, without columns in which every cell is blank."""
    rows: list[dict[str, Any]] = []
    for number, run in enumerate(runs):
        metrics = metrics_of(run.record)
        marks = [{"sign": sign, "why": why} for sign, _, applies, why in MARKS if applies(run.row)]
        rows.append(_dot(number, run.label, metrics, line=0) | {"marks": marks})
    notes = [f"{sign} {why}." for sign, why in legend([run.row for run in runs])]
    notes += [f"{why}." for applies, why in REMARKS if any(applies(run.row) for run in runs)]
    columns = filled_columns("h", [run.row for run in runs])
    where = next((set(cells) for column, cells in columns if column.name == "device"), set())
    if len(runs) > 1 and len(where) == 1:  # a column that says one thing is a sentence
        columns = [(column, cells) for column, cells in columns if column.name != "device"]
        notes.append(f"All of them ran on: {where.pop()}.")
    for number, row in enumerate(rows):
        row["cells"] = [(cells[number], column.right) for column, cells in columns]
    names = [{"name": column.header, "why": column.why, "right": column.right} for column, _ in columns]
    return {"columns": names, "rows": rows, "notes": notes}


def strata(runs: Sequence[ReportRun]) -> dict[str, Any]:
    """Return a chart for every cut: a band a label, and in it a line for each of the first CHARTED runs."""
    several = [metrics_of(run.record) for run in runs]
    cuts: list[dict[str, Any]] = [
        {"name": cut, "rows": [_band(cut, label, runs, several) for label in labels]}
        for cut, labels in cuts_of(several).items()
    ]
    for entry in cuts:
        entry["text"] = "; ".join(
            f"{row['label']}: " + ", ".join(f"{c['label']} {percent(c['accuracy'])}" for c in row["cells"] if c)
            for row in entry["rows"]
        )
    return {
        "labels": [run.label for run in runs[:CHARTED]],
        "names": [run.label for run in runs],
        "more": len(runs) > CHARTED,
        "cuts": cuts,
    }


def _band(cut: str, label: str, runs: Sequence[ReportRun], several: Sequence[Metrics]) -> dict[str, Any]:
    cells: list[Stratum | None] = [metrics.strata.get(cut, {}).get(label) for metrics in several]
    dots = [
        _dot(number, run.label, cell, line=number) if cell else None
        for number, (run, cell) in enumerate(zip(runs, cells, strict=True))
    ]
    return {"label": label, "n": f"{next(c.n for c in cells if c):,}", "cells": dots[:CHARTED], "all": dots}


def _dot(number: int, label: str, part: Metrics | Stratum, line: int) -> dict[str, Any]:
    """Return a mark with its interval, on a line of its chart."""
    low, high = part.ci95 or (part.accuracy, part.accuracy)
    return {
        "number": number,
        "shape": (number + number // SHAPES) % SHAPES,
        "label": label,
        "accuracy": part.accuracy,
        "low": low,
        "high": high,
        "interval": interval(part.ci95, part.ci95_note),
        "line": line,
    }


def made(run: ReportRun) -> dict[str, Any]:
    """Return what is needed to make a run again."""
    record, row = run.record, run.row
    card, identity = record.card, record.identity
    options = record.settings.get("options", identity.options)
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
        "link": str(card.get("url") or ""),
        "licence": str(card.get("licence") or ""),
        "weights": "\n".join(f"{part}: {sha256}" for part, sha256 in identity.weights.items()),
        "options": "\n".join(f"{key} = {value!r}" for key, value in options.items()),
        "settings hash": record.settings_hash,
        "seconds": f"{speed.seconds:,.1f}, and {speed.load_seconds or 0:,.1f} to load" if speed else "",
        "boxes from": f"{record.imported.file}, sha256 {record.imported.sha256}" if record.imported else "",
        "folder": str(row.get("run_dir") or ""),
    }
    known = [(name, value) for name, value in facts.items() if value]
    return {"label": run.label, "short": str(card.get("summary") or ""), "facts": known}


def metrics_of(record: RunRecord) -> Metrics:
    """Return a finished run's metrics; selection.py lets no other in."""
    assert record.metrics is not None
    return record.metrics
