"""Line charts as SVG text: training curves, and whatever else is a few lines over one quantity.

Lines differ by their dashes and by the name at their end, not by colour alone; colours follow light and dark mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.reporting.svg import (
    LIGHT,
    SMALL,
    Scale,
    axes,
    document,
    fitted,
    make_scale,
    safe,
    style,
    text,
    width_of,
    words,
)

DASHES = ("", "7 4", "2 3", "10 3 2 3", "14 5", "5 2 1 2")
RULES = ".line{fill:none;stroke-width:1.8;stroke-linejoin:round}" + "".join(
    f".d{n}{{stroke-dasharray:{dash}}}" for n, dash in enumerate(DASHES) if dash
)

WIDTH, PLOT = 760, 190  # pixels: of the chart, and the height of one panel's plot
ABOVE, BELOW = 42, 56  # room of its titles over a plot, of its ticks and label under it
ROW = 15  # pixels between names at the ends of lines
SAMPLE = 22  # length of the piece of line before a name
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line. A `y` that is NaN or infinite is a gap in it."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot. With `log` the heights are logarithmic, and what is not above 0 is a gap."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log: bool = False


def line_chart(title: str, panels: Sequence[Panel]) -> str:
    """The panels one below the other, as a whole SVG document. Raises ValueError for xs and ys of unequal length."""
    parts: list[str] = []
    top = 48.0
    for panel in panels:
        plot = max(PLOT, ROW * len(panel.series))
        parts += _panel(panel, top, plot)
        top += ABOVE + plot + BELOW
    names = "; ".join(f"{panel.title}: {', '.join(series.name for series in panel.series)}" for panel in panels)
    return document(title, names, WIDTH, top, style(RULES), parts)


def _panel(panel: Panel, top: float, height: float) -> Iterator[str]:
    """One panel whose title begins at `top`: titles, grid, lines, and the names of the lines beside their ends."""
    upper, lower = top + ABOVE, top + ABOVE + height
    y = make_scale((v for s in panel.series for v in s.ys), lower, upper, log=panel.log)
    left = 28 + max(width_of(label, SMALL) for label in y.labels)
    names = []  # each with the last value of its line
    for series in panel.series:
        last = next((words(v) for v in reversed(series.ys) if y.drawable(v)), "")
        names.append(f"{fitted(series.name, 150, SMALL)} {last}".rstrip())
    right = WIDTH - 20 - max([SAMPLE + 8 + width_of(name, SMALL) for name in names], default=0)
    xs = (x for s in panel.series for x, v in zip(s.xs, s.ys, strict=True) if y.drawable(v))
    x = make_scale(xs, left, right, most=7, tight=True)
    yield text("name", 20, top + 12, fitted(panel.title, WIDTH - 40, SMALL + 2))
    yield text("label", 20, top + 27, fitted(panel.y_label, WIDTH - 40, SMALL))
    yield from axes(x, y)
    yield text("label", (left + right) / 2, lower + 34, fitted(panel.x_label, right - left, SMALL), "middle")
    ends: list[float | None] = []
    for number, series in enumerate(panel.series):
        runs = _runs(series, x, y)
        yield from (_line(run, number, series.name) for run in runs)
        ends.append(runs[-1][-1][1] if runs else None)
    if not any(end is not None for end in ends):
        yield text("label", (left + right) / 2, (upper + lower) / 2, "no values yet", "middle")
    for number, place in enumerate(_apart([lower if end is None else end for end in ends], upper, lower)):
        yield f'<path class="{_style_of(number)}" d="M{right + 8:.2f} {place:.2f}h{SAMPLE - 6}"/>'
        yield text(f"end {_colour_of(number)}", right + 8 + SAMPLE, place + 4, names[number])


def _runs(series: Series, x: Scale, y: Scale) -> list[list[Point]]:
    """The line in pixels, cut at its gaps."""
    pairs = list(zip(series.xs, series.ys, strict=True))
    runs = []
    for there, run in groupby(pairs, lambda pair: y.drawable(pair[1]) and x.drawable(pair[0])):
        if there:
            runs.append(_thinned([(x.at(a), y.at(b)) for a, b in run]))
    return runs


def _thinned(points: list[Point]) -> list[Point]:
    """Of the points on one column of pixels the first, the highest, the lowest and the last: it looks the same."""
    if len(points) <= 2 * WIDTH:
        return points
    out: list[Point] = []
    for _, group in groupby(points, lambda point: int(point[0])):
        column = list(group)
        keep = {0, len(column) - 1}
        for pick in (min, max):
            keep.add(pick(range(len(column)), key=lambda n: column[n][1]))
        out += [column[n] for n in sorted(keep)]
    return out


def _line(run: Sequence[Point], number: int, name: str) -> str:
    """A line through the points, or a dot where there is only one."""
    said = f"<title>{safe(name)}</title>"
    if len(run) == 1:
        ((a, b),) = run
        return f'<circle class="{_colour_of(number)}" cx="{a:.2f}" cy="{b:.2f}" r="3.5">{said}</circle>'
    path = "L".join(f"{a:.2f} {b:.2f}" for a, b in run)
    return f'<path class="{_style_of(number)}" d="M{path}">{said}</path>'


def _style_of(number: int) -> str:
    """Colour and dashes of a line; the seventh has the first one's colour and other dashes."""
    return f"line s{number % len(LIGHT)} d{(number + number // len(LIGHT)) % len(DASHES)}"


def _colour_of(number: int) -> str:
    return f"t{number % len(LIGHT)}"


def _apart(places: Sequence[float], upper: float, lower: float) -> list[float]:
    """Heights at least ROW apart and within the panel, each as near to its own as the order of the lines allows."""
    order = sorted(range(len(places)), key=lambda n: (places[n], n))
    out = list(places)
    free = upper
    for n in order:
        out[n] = max(out[n], free)
        free = out[n] + ROW
    free = lower
    for n in reversed(order):
        out[n] = min(out[n], free)
        free = out[n] - ROW
    return out
