"""Word the pairs of runs for the page: a matrix of differences, and neighbours in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from bench.comparison.compare import Pair, compare, pair_notes
from bench.errors import BenchError
from bench.reporting.cells import interval, measures, signed
from bench.reporting.comparison_text import mask_lines
from bench.reporting.report.selection import ReportRun
from bench.runs.numbers import Bootstrap


def comparing(runs: Sequence[ReportRun], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Return every pair for the template; None for fewer than two runs, a note where they cannot be compared."""
    if len(runs) < 2:
        return None
    rules = bootstrap.draws, bootstrap.seed, bootstrap.confidence
    numbers = [str(number + 1) for number in range(len(runs))]  # the page's names of the runs
    try:
        comparison = compare([run.folder for run in runs], *rules, labels=numbers)
    except BenchError as error:
        return {"notes": [str(error)], "matrix": []}
    place = {run["label"]: number for number, run in enumerate(comparison.runs)}
    labels = [run.label for run in runs]
    pairs = {(place[pair.a], place[pair.b]): pair for pair in comparison.pairs}
    holm = f", Holm's correction for {len(pairs):,} pairs" if len(pairs) > 1 else ""
    return {
        "notes": list(pair_notes(comparison.pairs, comparison.images, comparison.draws, comparison.confidence)),
        "labels": labels,
        "text": (
            f"{measures(comparison.signature)[0]} of the row minus that of the column, in percentage points, on the "
            "same expressions. ▲ and ▼: the "
            f"difference is significant at {100 * (1 - comparison.confidence):.3g} % (paired bootstrap over images, "
            f"{comparison.draws:,} draws{holm}); without a mark the two are too close to call. Follow a number to the "
            "expressions that the row gets right and the column wrong."
        ),
        "matrix": [
            {"label": label, "cells": [_cell(row, column, pairs, labels) for column in range(len(labels))]}
            for row, label in enumerate(labels)
        ],
        "pairs": [_pair(n, n + 1, pairs[n, n + 1], labels) for n in range(len(labels) - 1)],
        "masks": [
            line for (a, b), pair in pairs.items() for line in mask_lines(pair, labels[a], labels[b], len(pairs))
        ],
    }


def only(a: str, b: str, show: str = "a-right") -> str:
    """Return the gallery's address for what A gets right and B wrong (templates/state.js reads it)."""
    return urlencode({"a": a, "b": b, "show": show})


def _cell(row: int, column: int, pairs: Mapping[tuple[int, int], Pair], labels: Sequence[str]) -> dict[str, Any] | None:
    """The pair of (A, B) is about A - B; a cell about its row minus its column, None where they are one."""
    if row == column:
        return None
    pair = pairs[min(row, column), max(row, column)]
    sign = 1 if row < column else -1
    better = pair.significant and sign * pair.difference > 0
    worse = pair.significant and sign * pair.difference < 0
    bounds = sorted(sign * bound for bound in pair.ci95)
    right = pair.cells["a_only"] if row < column else pair.cells["b_only"]
    return {
        "difference": signed(100 * sign * pair.difference, 1),
        "verdict": "better" if better else "worse" if worse else "even",
        "sign": "▲" if better else "▼" if worse else "",
        "link": only(labels[row], labels[column]),
        "text": (
            f"{labels[row]} minus {labels[column]}: {signed(100 * sign * pair.difference)} {interval(bounds)}, "
            f"p {_p(pair.p_holm)} corrected; {right:,} expressions that only {labels[row]} gets right"
        ),
    }


def _pair(a: int, b: int, pair: Pair, labels: Sequence[str]) -> dict[str, Any]:
    cells = tuple(pair.cells[which] for which in ("both", "a_only", "b_only", "neither"))
    n = sum(cells)
    parts = [(100 * sum(cells[:k]) / n, 100 * cell / n) for k, cell in enumerate(cells)]
    return {
        "a": a,
        "b": b,
        "difference": signed(100 * pair.difference),
        "interval": interval(pair.ci95),
        "p": _p(pair.p_holm).removeprefix("= "),
        "exact": _exact(pair),
        "verdict": "too close to call" if not pair.significant else f"{'AB'[pair.difference < 0]} is better",
        "both": f"{cells[0]:,}",
        "only_a": f"{cells[1]:,}",
        "only_b": f"{cells[2]:,}",
        "neither": f"{cells[3]:,}",
        "only_a_link": only(labels[a], labels[b]),
        "only_b_link": only(labels[a], labels[b], "b-right"),
        "bars": [(f"{start:.2f}", f"{width:.2f}") for start, width in parts],
    }


def _exact(pair: Pair) -> str:
    """McNemar's p where too few images differ for the bootstrap."""
    return f"McNemar {_p(pair.mcnemar_p).removeprefix('= ')}" if pair.few_different is not None else ""


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
