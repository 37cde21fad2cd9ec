"""Show what scores are worth: tables of the terminal, and rows and a chart of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.evaluation.confidence import BINS, Confidence
from bench.reporting.cells import BLANK, interval, percent
from bench.reporting.charts import Panel, line_chart
from bench.reporting.terminal import empty_table, print_table, wide

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

Named = tuple[str, Confidence]
CHARTED = 8  # runs in a chart; more look alike
LEGEND = "highest scores first; intervals are over images, for the score at which they end"


def print_confidence(name: str, worth: Confidence, console: Console | None = None) -> None:
    """Print the accuracy by coverage, the area under the risk-coverage curve and the calibration; default stdout."""
    console = wide(console)
    rows = [
        (f"{100 * c.coverage:g} %", f"{c.n:,.6g}", percent(c.accuracy), interval(c.ci95, c.ci95_note), _score(c.score))
        for c in worth.covered
    ]
    console.print()
    print_table(console, _grid(f"{name}: Acc@0.5 % by coverage", ("coverage", "n", "0.5", "interval", "score ≥"), rows))
    lines = [LEGEND, f"area under the risk-coverage curve {100 * worth.aurc:.2f} %; {_bounds(worth)}"]
    if worth.unscored:
        lines.append(f"expressions without a box, which come last: {worth.unscored:,}")
    error = "none, " + worth.uncalibrated
    if worth.calibration is not None:
        error = f"expected error {100 * worth.calibration.ece:.2f} %, over {BINS} bins of equal width"
    lines.append(f"calibration: {error}")
    for line in lines:
        console.print(f"  {line}", style="dim", markup=False, highlight=False)
    if worth.calibration is not None:
        bins = [
            (f"{b.low:.1f} to {b.high:.1f}", f"{b.n:,}", percent(b.score), percent(b.accuracy))
            for b in worth.calibration.bins
        ]
        console.print()
        print_table(console, _grid("calibration", ("score", "n", "mean score", "0.5"), bins))


def _grid(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    from rich.text import Text

    grid = empty_table(title)
    for header in headers:
        grid.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row))
    return grid


def section(named: Sequence[tuple[str, Confidence | str]]) -> dict[str, Any] | None:
    """Make the report's part about scores, of runs by label: what they are worth, or why there is nothing to say.

    None where no run has scores.
    """
    scored = [(number, name, worth) for number, (name, worth) in enumerate(named) if isinstance(worth, Confidence)]
    if not scored:
        return None
    reasons: dict[str, list[str]] = {}
    for name, why in named:
        if isinstance(why, str):
            reasons.setdefault(why, []).append(name)
    notes = [f"Left out ({why}): {', '.join(names)}." for why, names in reasons.items()]
    notes += [f"{name}: {w.unscored:,} expressions without a box come last." for _, name, w in scored if w.unscored]
    notes += [f"{name} has no calibration: {w.uncalibrated}." for _, name, w in scored if w.calibration is None]
    if len(scored) > CHARTED:
        notes.append(f"The chart shows the first {CHARTED} of {len(scored)}.")
    rows = [
        {
            "number": number,
            "label": name,
            "cells": [(percent(c.accuracy), interval(c.ci95, c.ci95_note)) for c in worth.covered],
            "aurc": f"{100 * worth.aurc:.2f}",
            "bounds": _bounds(worth),
            "ece": BLANK if worth.calibration is None else f"{100 * worth.calibration.ece:.2f}",
        }
        for number, name, worth in scored
    ]
    coverages = [f"{100 * each.coverage:g} %" for each in scored[0][2].covered]
    return {
        "rows": rows,
        "coverages": coverages,
        "notes": notes,
        "chart": chart([(n, w) for _, n, w in scored[:CHARTED]]),
    }


def chart(named: Sequence[Named]) -> str:
    """Draw accuracy by coverage, and where scores are probabilities, accuracy by score."""
    curves = [(name, [100 * x for x in w.curve[0]], [100 * y for y in w.curve[1]]) for name, w in named]
    panels = [Panel("Accuracy by coverage", "expressions with the highest scores, %", "Acc@0.5, %", curves)]
    calibrated = [(name, w.calibration.bins) for name, w in named if w.calibration is not None]
    if calibrated:
        lines = [(name, [100 * b.score for b in bins], [100 * b.accuracy for b in bins]) for name, bins in calibrated]
        lines.append(("as it should be", [0.0, 100.0], [0.0, 100.0]))
        panels.append(Panel("Calibration", "mean score of a bin, %", "Acc@0.5 of the bin, %", lines))
    return line_chart("What scores are worth", panels)


def _bounds(worth: Confidence) -> str:
    error = 1 - worth.covered[0].accuracy
    return f"{100 * worth.best_aurc:.2f} % would be perfect, {100 * error:.2f} % means nothing"


def _score(value: float | None) -> str:
    return BLANK if value is None else f"{value:.4g}"
