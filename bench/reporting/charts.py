"""Draw charts as SVG text: line charts, and the canvas that every saved chart shares.

Lines and marks differ by dashes or shape, not by colour alone; a dark reader gets the colours inverted. The same values
give the same bytes: nothing of the moment is written, and letters are measured in a font that comes with matplotlib.
"""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0b63c4", "#c2410c", "#0f766e", "#8b2fc9", "#8a6100", "#b3246b")
DASHES = ("solid", (0, (6, 3)), (0, (1.5, 2)), (0, (8, 2, 1.5, 2)), (0, (12, 4)), (0, (4, 2, 1, 2, 1, 2)))
INCH = 96  # pixels
WIDTH = 760 / INCH
PANEL = 290 / INCH  # height of a panel of lines
LARGEST, SMALLEST = 1e100, 1e-100  # beyond them floats overflow when they are scaled
LONGEST = 32  # letters of a name
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
DARK = "<style>@media(prefers-color-scheme:dark){svg{filter:invert(.93) hue-rotate(180deg)}}</style>"
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "bench",
    "text.parse_math": False,  # names are data
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "legend.frameon": False,
    "hatch.linewidth": 1.5,
}

Line = tuple[str, Sequence[float], Sequence[float]]  # name, xs, ys


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot of lines. A y that is NaN or infinite, or not above 0 with `log`, is a gap."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log: bool = False


def svg(title: str, description: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """Draw a whole SVG document of `size` inches; `description` is what it shows, for screen readers."""
    import matplotlib  # here, for it takes half a second

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # not a word about its cache of fonts
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks: the reader's own font has them
        figure = Figure(size, layout="constrained")
        figure.suptitle(fitted(title, 90), x=0.02, ha="left", fontsize=12, fontweight="bold")
        paint(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Title": xml(title)})
    text = out.getvalue()
    head = f"</title>\n <desc>{escape(xml(description))}</desc>\n {DARK}"
    return text[text.index("<svg") :].replace("</title>", head, 1)


def xml(text: str) -> str:
    """Return the text with the characters replaced that XML may not hold."""
    return NOT_XML.sub("�", text)


def fitted(name: str, most: int = LONGEST) -> str:
    """Return a name on one line, its end replaced by "…" beyond `most` letters."""
    flat = xml(" ".join(name.split()))
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def number(value: float, _: int = 0) -> str:
    """Return a number with three digits: 12,000, 0.35, 2e-05."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def drawable(values: Sequence[float], log: bool = False) -> NDArray[np.float64]:
    """Return the values as an array, NaN for those without a place on the axis."""
    array = np.array(values, np.float64)
    return np.where((np.abs(array) < LARGEST) & ((array > SMALLEST) | (not log)), array, np.nan)


def log_axis(axes: Axes, which: str, values: NDArray[np.float64], room: float = 1.3) -> None:
    """Make an axis logarithmic over positive `values`, with ticks at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = float(values.min()) / room, float(values.max()) * room
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    decades = math.log10(high / low)
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if decades <= 2 else (1,)))
    axis.set_minor_locator(LogLocator(10, subs=(1,)))
    axis.set_major_formatter(FuncFormatter(number))
    axis.set_minor_formatter(FuncFormatter(lambda value, place: ""))


def line_chart(title: str, panels: Sequence[Panel]) -> str:
    """Draw the panels one below the other. Raises ValueError for xs and ys of unequal length."""

    def paint(figure: Figure) -> None:
        for panel, axes in zip(panels, figure.subplots(len(panels), 1, squeeze=False)[:, 0], strict=True):
            _paint_panel(panel, axes)

    names = "; ".join(f"{panel.title}: {', '.join(name for name, *_ in panel.lines)}" for panel in panels)
    return svg(title, names, (WIDTH, 0.5 + PANEL * max(1, len(panels))), paint)


def _paint_panel(panel: Panel, axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(fitted(panel.title, 80))
    axes.set(xlabel=fitted(panel.x_label, 80), ylabel=fitted(panel.y_label, 50))
    known: list[NDArray[np.float64]] = []
    for place, (name, xs, ys) in enumerate(panel.lines):
        x, y = drawable(xs), drawable(ys, panel.log)
        if len(x) != len(y):
            raise ValueError(f"{name}: {len(x)} xs and {len(y)} ys")
        # 1. A name with the last value of its line, beside the plot.
        there = np.isfinite(x) & np.isfinite(y)
        last = f"  {number(y[there][-1])}" if there.any() else ""
        # 2. A point without neighbours gets a dot, for no line goes through it.
        before, after = np.r_[False, there[:-1]], np.r_[there[1:], False]
        alone = np.flatnonzero(there & ~before & ~after).tolist()
        # 3. The seventh line has the first one's colour and other dashes.
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[(place + place // len(COLOURS)) % len(DASHES)]
        style: dict[str, Any] = {"color": colour, "linestyle": dash, "linewidth": 1.6, "markersize": 4.5}
        axes.plot(x, np.where(there, y, np.nan), marker="o" if alone else "", markevery=alone or None, **style)
        axes.lines[-1].set_label(f"{fitted(name)}{last}")
        known += [y[there]] * bool(there.any())
    if not known:
        axes.text(0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", va="center")
    elif panel.log:
        log_axis(axes, "y", np.concatenate(known))
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(number))
    if all(float(x).is_integer() for _, xs, _ in panel.lines for x in xs if math.isfinite(x)):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(number))
    if panel.lines:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), handlelength=2.6)
