"""Reliability, the IoUs of one scorer on one source: numbers, a table, and histograms as CLIP-VG's figure has them.

Rows of panels are scorers, columns are sources. A scorer trained on the rows it scores (SR, source-specific) has
full bars, one of another source (CR, cross-source) hatched ones. All panels share one scale, the share of a source's
rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.reporting.svg import SMALL, Scale, axes, document, fitted, make_scale, safe, style, text, width_of, words
from bench.reporting.table import BLANK, percent
from bench.reporting.terminal import empty_table, wide

if TYPE_CHECKING:
    from rich.console import Console

Kind = Literal["SR", "CR", ""]
CALLED: dict[Kind, str] = {"SR": "source-specific", "CR": "cross-source", "": "of unknown training"}
BINS, BARS = 1000, 25  # over (0, 1]: of the record, as the paper's; of the drawing
THRESHOLDS = tuple(n / 10 for n in range(10))
SHOWN = ("0.3", "0.5", "0.7", "0.9")  # thresholds with a column of their own
WIDE = 120

PLOT_WIDTH, PLOT = 264, 120  # pixels of one panel's plot
LEAST = 560  # width of the whole: room for its title and its key
MARGIN, GAP = 20, 26  # around the drawing, between panels
ABOVE, BELOW = 44, 30  # room of its titles over a plot, of its ticks under it
TOP, FOOT = 48, 40  # the headline, the key
BY = 4  # panels side by side where they are no whole grid
FILLS: dict[Kind, str] = {"SR": "bar t0 s0", "CR": "bar cross s1", "": "bar t2 s2"}


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
    for name in ("rows", "mean", *(f"≥ {h}" for h in SHOWN), "at 0", "no box"):
        table.add_column(name, justify="right", no_wrap=True)
    for pair in pairs:
        cells = [Text(pair["scorer"]), Text(pair["source"]), pair["kind"] or "?", f"{pair['rows']:,}"]
        cells.append(BLANK if pair["mean"] is None else f"{pair['mean']:.3f}")
        cells += [percent(pair["at_least"][h]) for h in SHOWN]
        cells.append(percent(pair["at_0"] / pair["rows"] if pair["rows"] else None))
        table.add_row(*cells, str(pair.get("no_box", BLANK)))
    console.print(table)


def drawing(title: str, pairs: Sequence[Mapping[str, Any]]) -> str:
    """Draws the histograms of pairs as a record has them, as SVG."""
    panels = []
    for pair in pairs:
        counts = np.array(pair["counts"], np.int64).reshape(BARS, -1).sum(axis=1).tolist()
        names = (pair["scorer"], pair["source"])
        panels.append(Histogram(*names, counts, pair["rows"], pair["mean"] or 0.0, pair["kind"]))
    return histograms(title, panels)


@dataclass(frozen=True, slots=True)
class Histogram:
    """One panel. `counts` are rows in equal bars over (0, 1]; `rows` counts those at 0 too, which have no bar.

    `kind` is "SR", "CR", or empty where nobody knows what the scorer was trained on. `mean` is over all rows.
    """

    scorer: str
    source: str
    counts: Sequence[int]
    rows: int
    mean: float
    kind: Kind = ""


def histograms(title: str, panels: Sequence[Histogram]) -> str:
    """The panels as a whole SVG document: scorers by sources where they fill that grid, else in rows of four."""
    columns = _columns(panels)
    shares = [100 * max(panel.counts, default=0) / panel.rows for panel in panels if panel.rows]
    ticks = make_scale([0.0, max(shares, default=0.0) or 1.0], PLOT, 0.0, most=4)
    left = max(width_of(_percent(tick), SMALL) for tick in ticks.ticks) + 8
    across, down = left + PLOT_WIDTH + GAP, ABOVE + PLOT + BELOW
    width = max(LEAST, math.ceil(2 * MARGIN + columns * across - GAP))
    parts: list[str] = []
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        parts += _panel(panel, MARGIN + column * across + left, TOP + row * down, ticks)
    height = TOP + math.ceil(len(panels) / columns) * down + FOOT
    parts += _key({panel.kind for panel in panels}, height - 16)
    said = "; ".join(f"{p.scorer} on {p.source}: {p.kind or 'unknown'}, mean {p.mean:.3f}" for p in panels)
    return document(title, said, width, height, style(SHAPES) + HATCHED, (PATTERN, *parts))


def _columns(panels: Sequence[Histogram]) -> int:
    scorers = list(dict.fromkeys(panel.scorer for panel in panels))
    sources = list(dict.fromkeys(panel.source for panel in panels))
    grid = [(scorer, source) for scorer in scorers for source in sources]
    whole = grid == [(panel.scorer, panel.source) for panel in panels] and len(sources) <= 2 * BY
    return max(1, len(sources) if whole and len(panels) > 1 else min(BY, len(panels)))


def _panel(panel: Histogram, left: float, top: float, ticks: Scale) -> Iterator[str]:
    """One panel whose plot begins at `left`, its titles at `top`."""
    x = Scale(0.0, 1.0, left, left + PLOT_WIDTH, (0.0, 0.25, 0.5, 0.75, 1.0))
    y = Scale(ticks.low, ticks.high, top + ABOVE + PLOT, top + ABOVE, ticks.ticks)
    name = f"{panel.scorer} on {panel.source}"
    yield text("name", left, top + 14, fitted(name, PLOT_WIDTH, SMALL + 2))
    yield text("label", left, top + 30, fitted(_said(panel), PLOT_WIDTH, SMALL))
    if not panel.rows:
        yield text("label", left + PLOT_WIDTH / 2, (y.start + y.end) / 2, "no rows", "middle")
    yield from axes(x, y, map(words, x.ticks), map(_percent, y.ticks))
    yield from _bars(panel, x, y)
    yield f'<path class="axis half" d="M{x.at(0.5):.2f} {y.start:.2f}V{y.end:.2f}"/>'
    if panel.rows:
        yield f'<path class="axis mean" d="M{x.at(panel.mean):.2f} {y.start:.2f}V{y.end:.2f}"/>'


def _bars(panel: Histogram, x: Scale, y: Scale) -> Iterator[str]:
    bars = len(panel.counts)
    for number, count in ((n, count) for n, count in enumerate(panel.counts) if count):
        low, high = number / bars, (number + 1) / bars
        share = 100 * count / panel.rows
        rows = "1 row" if count == 1 else f"{count:,} rows"
        yield (
            f'<rect class="{FILLS[panel.kind]}" x="{x.at(low):.2f}" y="{y.at(share):.2f}" '
            f'width="{x.at(high) - x.at(low):.2f}" height="{y.start - y.at(share):.2f}">'
            f"<title>{safe(f'{low:g} to {high:g}: {rows}, {share:.1f} %')}</title></rect>"
        )


def _said(panel: Histogram) -> str:
    if not panel.rows:
        return panel.kind
    nothing = panel.rows - sum(panel.counts)
    kept = [panel.kind, f"{panel.rows:,} rows" if panel.rows > 1 else "1 row", f"mean {panel.mean:.2f}"]
    kept.append(f"{_percent(round(100 * nothing / panel.rows))} at 0" if nothing else "")
    return ", ".join(filter(None, kept))


def _key(kinds: set[Kind], y: float) -> Iterator[str]:
    """What the bars and the two lines mean, at the foot."""
    x = float(MARGIN)
    for kind in sorted(kinds, reverse=True):
        said = f"{kind}: {CALLED[kind]}" if kind else CALLED[kind]
        yield f'<rect class="{FILLS[kind]}" x="{x:.2f}" y="{y - 9:.2f}" width="12" height="10"/>'
        yield text("label", x + 18, y, said)
        x += 18 + width_of(said, SMALL) + 14
    for line, said in (("mean", "mean"), ("half", "0.5")):
        yield f'<path class="axis {line}" d="M{x + 6:.2f} {y + 2:.2f}v-12"/>'
        yield text("label", x + 14, y, said)
        x += 14 + width_of(said, SMALL) + 14


def _percent(value: float) -> str:
    return f"{words(value)} %"


SHAPES = ".bar{stroke-width:.8}.half{stroke-width:1.2}.mean{stroke-width:1.8;stroke-dasharray:5 3}"
HATCHED = ".cross{fill:url(#hatch)}.bar.s0{fill-opacity:.8}.bar.s2{fill-opacity:.4}"
PATTERN = (
    '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path class="s1" d="M0 0V5" stroke-width="3.4"/></pattern></defs>'
)
