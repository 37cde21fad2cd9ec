"""Draw the reliabilities of pseudo-labels as histograms, as CLIP-VG's figure has them.

Rows of panels are scorers, columns are sources. A scorer trained on the rows it scores (SR, source-specific) has full
bars, one of another source (CR, cross-source) hatched ones. All panels share one scale, the share of a source's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.reporting.charts import COLOURS, INCH, fitted, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARS = 25  # over (0, 1]
BESIDE = 4  # panels in a line where they are no whole grid
KINDS = {"SR": ("SR: source-specific", ""), "CR": ("CR: cross-source", "////"), "": ("of unknown training", "")}


def reliability_chart(title: str, pairs: Sequence[Mapping[str, Any]]) -> str:
    """Draw a panel a pair: scorers by sources where the pairs fill that grid, else in lines of four.

    A pair has "scorer", "source", "kind" ("SR", "CR" or ""), "rows", "mean" and "counts": rows in a multiple of BARS
    equal bins over (0, 1]. Rows at 0 are in no bin.
    """
    across = grid_width(pairs)
    down = max(1, -(-len(pairs) // across))
    size = ((120 + max(3, across) * 230) / INCH, (90 + down * 200) / INCH)
    bars = [np.array(pair["counts"], np.float64).reshape(BARS, -1).sum(axis=1) for pair in pairs]

    def paint(figure: Figure) -> None:
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for pair, counts, axes in zip(pairs, bars, grid, strict=False):
            _paint_panel(axes, pair, counts)
        for axes in grid[len(pairs) :]:
            axes.set_axis_off()
        for axes in grid[::across]:
            axes.set_ylabel("rows, %")
        handles, labels = [], []
        for axes in grid[: len(pairs)]:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                if label not in labels:
                    handles.append(handle)
                    labels.append(label)
        if handles:
            figure.legend(handles, labels, loc="outside lower left", ncols=5)

    texts = (f"{p['scorer']} on {p['source']}: {p['kind'] or 'unknown'}, mean {p['mean'] or 0.0:.3f}" for p in pairs)
    return svg(title, "; ".join(texts), size, paint)


def grid_width(pairs: Sequence[Mapping[str, Any]]) -> int:
    """Return how many panels stand side by side."""
    keys = [(pair["scorer"], pair["source"]) for pair in pairs]
    scorers, sources = (list(dict.fromkeys(names)) for names in zip(*keys, strict=True)) if keys else ([], [])
    whole = keys == [(scorer, source) for scorer in scorers for source in sources] and len(sources) <= 2 * BESIDE
    return max(1, len(sources) if whole and len(pairs) > 1 else min(BESIDE, len(pairs)))


def _paint_panel(axes: Axes, pair: Mapping[str, Any], counts: Any) -> None:
    rows, kind = pair["rows"], pair["kind"]
    label, hatch = KINDS[kind]
    # 1. The names and the facts; rows at 0 have no bar, so they are counted there.
    nothing = 100 * (1 - counts.sum() / rows) if rows else 0.0
    facts = [kind, f"{rows:,} row{'s' * (rows != 1)}", f"mean {pair['mean'] or 0.0:.2f}"]
    facts += [f"{nothing:.3g} % at 0"] if nothing > 1e-9 else []
    text = ", ".join(filter(None, facts)) if rows else "no rows"
    name = fitted(f"{pair['scorer']} on {pair['source']}", 36)
    axes.set_title(f"{name}\n{text}", fontsize=8)
    # 2. The bars in shares of all rows.
    colour = COLOURS[list(KINDS).index(kind)]
    style: dict[str, Any] = {"edgecolor": colour, "hatch": hatch, "linewidth": 0.8}
    style["facecolor"] = "none" if hatch else colour
    heights = 100 * counts / rows if rows else counts
    axes.bar(np.arange(BARS) / BARS, heights, 1 / BARS, align="edge", label=label, **style)
    # 3. The usual threshold and the mean.
    axes.axvline(0.5, color="#57606a", linewidth=1, label="0.5")
    if rows:
        axes.axvline(pair["mean"] or 0.0, color="#57606a", linewidth=1.6, linestyle="--", label="mean")
    axes.set(xlim=(0, 1), ylim=(0, None))
