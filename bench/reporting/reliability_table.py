"""Summarise and tabulate reliabilities: the IoUs of one scorer on one source of pseudo-labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.reporting.cells import BLANK, percent
from bench.reporting.terminal import empty_table, wide

if TYPE_CHECKING:
    from rich.console import Console

Kind = Literal["SR", "CR", ""]  # source-specific, cross-source, or of unknown training
BINS = 1000  # over (0, 1], as the paper's
THRESHOLDS = tuple(n / 10 for n in range(10))
IN_TABLE = ("0.3", "0.5", "0.7", "0.9")  # thresholds with a column of their own
WIDE = 120


def summary(ious: Sequence[float]) -> dict[str, Any]:
    """Rows, their mean reliability, how many are 0, the share of at least each threshold, and the histogram.

    "counts" are rows in BINS equal bins over (0, 1], a bin's upper end belonging to it; rows at 0 are in none. Without
    a row mean and shares are None.
    """
    r = np.asarray(ious, np.float64)
    above = r[r > 0]
    # 0.3 * 1000 is a little more than 300: an upper end must not fall into the next bin.
    places = np.clip(np.ceil(above * BINS - 1e-9).astype(np.int64) - 1, 0, BINS - 1)
    return {
        "rows": len(r),
        "mean": float(r.mean()) if len(r) else None,
        "at_0": int((r == 0).sum()),
        "at_least": {f"{h:.1f}": float((r >= h).mean()) if len(r) else None for h in THRESHOLDS},
        "counts": np.bincount(places, minlength=BINS).tolist(),
    }


def print_pairs(pairs: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A row a pair: rows, mean reliability, the share (percent) of at least some thresholds, and of exactly 0."""
    from rich.text import Text

    wide(console, WIDE)
    table = empty_table("")
    for name in ("scorer", "source"):
        table.add_column(name, overflow="fold")
    table.add_column("")
    for name in ("rows", "mean", *(f"≥ {h}" for h in IN_TABLE), "at 0", "no box"):
        table.add_column(name, justify="right", no_wrap=True)
    for pair in pairs:
        cells = [Text(pair["scorer"]), Text(pair["source"]), pair["kind"] or "?", f"{pair['rows']:,}"]
        cells.append(BLANK if pair["mean"] is None else f"{pair['mean']:.3f}")
        cells += [percent(pair["at_least"][h]) for h in IN_TABLE]
        cells.append(percent(pair["at_0"] / pair["rows"] if pair["rows"] else None))
        table.add_row(*cells, str(pair.get("no_box", BLANK)))
    console.print(table)
