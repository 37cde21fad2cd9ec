"""What every drawing as SVG text needs: safe words that fit, colours for light and dark readers, scales and axes.

A scale maps values to pixels. Its range ends on round numbers, and its ticks have labels that tell neighbours apart.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

LIGHT = ("#0b63c4", "#c2410c", "#0f766e", "#8b2fc9", "#8a6100", "#b3246b")
DARK = ("#6cb6ff", "#ff9e64", "#5eead4", "#d2a8ff", "#e3b341", "#ff8ac0")
SMALL, LARGE = 11, 16  # sizes of letters
ROUND = (1, 2, 5)
LARGEST, SMALLEST = 1e100, 1e-100  # beyond them floats overflow when compared; no curve worth drawing goes there
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(title: str, said: str, width: float, height: float, style: str, parts: Iterable[str]) -> str:
    """A whole SVG document with `title` as its headline; `said` is what it shows, for who cannot see it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {height:.0f}" width="{width}" '
            f'height="{height:.0f}">',
            f"<title>{safe(title)}</title>",
            f"<desc>{safe(said)}</desc>",
            f"<style>{style}</style>",
            f'<rect class="paper" width="{width}" height="{height:.0f}"/>',
            text("head", 20, 30, fitted(title, width - 40, LARGE)),
            *parts,
            "</svg>\n",
        ]
    )


def text(kind: str, x: float, y: float, said: str, anchor: str = "start") -> str:
    """Words whose baseline is at `y`; `kind` is a class of `style`."""
    return f'<text class="{kind}" x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{safe(said)}</text>'


def safe(said: str) -> str:
    """`said` as XML may hold it."""
    return escape(NOT_XML.sub("�", said))


def width_of(said: str, size: float) -> float:
    """About as wide as the text gets in any sans-serif, in pixels; a little too much rather than too little."""
    return sum(1.05 if unicodedata.east_asian_width(c) in "WF" else 0.62 for c in said) * size


def fitted(said: str, most: float, size: float) -> str:
    """`said`, its end replaced by "…" where it would be wider than `most` pixels."""
    said = " ".join(said.split())
    if width_of(said, size) <= most:
        return said
    while said and width_of(f"{said}…", size) > most:
        said = said[:-1]
    return f"{said}…"


def style(shapes: str = "") -> str:
    """The style sheet: letters, grid and colours by number (`s0` strokes, `t0` fills), light and dark.

    `shapes` are a drawing's own rules, the same in both modes.
    """

    def mode(paper: str, ink: str, muted: str, faint: str, colours: Sequence[str]) -> str:
        rules = [f".paper{{fill:{paper}}}.head,.name{{fill:{ink}}}.label,.tick{{fill:{muted}}}"]
        rules += [f".grid{{stroke:{faint}}}.axis{{stroke:{muted}}}"]
        rules += [f".s{n}{{stroke:{colour}}}.t{n}{{fill:{colour}}}" for n, colour in enumerate(colours)]
        return "".join(rules)

    letters = (
        f"text{{font:{SMALL}px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}}"
        f".head{{font-size:{LARGE}px;font-weight:600}}.name{{font-size:{SMALL + 2}px;font-weight:600}}"
        ".grid,.axis{fill:none;stroke-width:1}"
    )
    light = mode("#ffffff", "#1f2328", "#57606a", "#e4e7eb", LIGHT)
    dark = mode("#0d1117", "#e6edf3", "#9aa4af", "#262c36", DARK)
    return f"{letters}{shapes}{light}@media(prefers-color-scheme:dark){{{dark}}}"


@dataclass(frozen=True, slots=True)
class Scale:
    """Values `low` to `high` on pixels `start` to `end` (which may run backwards, as heights do), with its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; values outside go beyond the ends. On a logarithmic scale `value` is above 0."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def drawable(self, value: float) -> bool:
        """Whether the value has a place: finite, and above 0 on a logarithmic scale."""
        return _drawable(value, self.log)

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands at each tick, with as many decimals as tell neighbours apart."""
        if self.log and self.high / self.low >= 10:
            return tuple(words(tick) for tick in self.ticks)
        gaps = [b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)]
        return tuple(words(tick, min(gaps, default=0.0)) for tick in self.ticks)


def make_scale(
    values: Iterable[float], start: float, end: float, most: int = 6, log: bool = False, tight: bool = False
) -> Scale:
    """A scale over `values`; NaN, infinities and, with `log`, what is not above 0 are left out of the range.

    About `most` ticks on 1, 2 or 5 times powers of ten. The range is widened to the next tick on either side unless it
    is to be `tight`; a single value gets room around it, no value at all the range 0 to 1 (1 to 10 with `log`). Where
    every value is whole, so is every tick.
    """
    known = [v if abs(v) > SMALLEST else 0.0 for v in map(float, values) if _drawable(v, log)]
    if not known:
        known = [1.0, 10.0] if log else [0.0, 1.0]
    low, high = min(known), max(known)
    whole = all(v.is_integer() for v in known)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = _widened(low, log, whole)
    if log and high / low >= 10:
        ticks = _decades(low, high, most)
    else:
        step = _step((high - low) / max(1, most - 1), whole)
        ticks = _multiples(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9), step)
        if log:  # zero has no place
            ticks = [tick for tick in ticks if tick > 0]
    if not tight:
        low, high = min(low, ticks[0]), max(high, ticks[-1])
    below, above = (low * 1e-9, high * 1e-9) if log else ((high - low) * 1e-9,) * 2
    kept = tuple(tick for tick in ticks if low - below <= tick <= high + above)
    return Scale(low, high, start, end, kept, log)


def axes(
    x: Scale, y: Scale, across: Iterable[str] | None = None, upwards: Iterable[str] | None = None, upright: bool = False
) -> Iterator[str]:
    """Draws lines at the ticks, and the labels that have room; `across` and `upwards` stand for the scales' own.

    `upright` draws the grid of the x axis too, where there are ticks otherwise.
    """
    free = y.start + 2 * SMALL
    for tick, label in zip(y.ticks, upwards or y.labels, strict=True):
        yield f'<path class="grid" d="M{x.start:.2f} {y.at(tick):.2f}H{x.end:.2f}"/>'
        if y.at(tick) <= free - SMALL - 2:
            free = y.at(tick)
            yield text("tick", x.start - 8, free + 4, label, "end")
    free = 0.0
    for tick, label in zip(x.ticks, across or x.labels, strict=True):
        place, half = x.at(tick), width_of(label, SMALL) / 2
        kind, down = ("grid", f"V{y.end:.2f}") if upright else ("axis", "v4")
        yield f'<path class="{kind}" d="M{place:.2f} {y.start:.2f}{down}"/>'
        if place - half >= free:
            free = place + half + 8
            yield text("tick", place, y.start + 17, label, "middle")
    yield f'<path class="axis" d="M{x.start:.2f} {y.start:.2f}H{x.end:.2f}"/>'


def words(value: float, step: float = 0.0) -> str:
    """A number as people write it: 12,000, 0.35, 2e-05. `step` is what it must be told apart by; 0 = 3 digits."""
    if value == 0:
        return "0"
    size = abs(value)
    if step and step >= 1e-6 and size < 1e7:
        return f"{value:,.{_decimals(step)}f}"
    if step:
        return f"{value:.{max(1, 1 + math.floor(math.log10(size)) - math.floor(math.log10(step) + 1e-9))}g}"
    return f"{value:,.0f}" if 1000 <= size < 1e7 else f"{value:.3g}"


def _drawable(value: float, log: bool) -> bool:
    return abs(value) < LARGEST and (value > SMALLEST or not log)  # NaN compares to nothing


def _widened(value: float, log: bool, whole: bool) -> tuple[float, float]:
    if log:
        return value / 2, value * 2
    room = max(1.0, round(abs(value) * 0.05)) if whole else abs(value) * 0.05 or 1.0
    return value - room, value + room


def _step(least: float, whole: bool) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    step = next((n * power for n in ROUND if n * power >= least * (1 - 1e-9)), 10 * power)
    return max(step, 1.0) if whole else step


def _multiples(first: int, last: int, step: float) -> list[float]:
    decimals = _decimals(step)
    return [round(n * step, decimals) for n in range(first, max(last, first + 1) + 1)]


def _decades(low: float, high: float, most: int) -> list[float]:
    """1, 2, 5 times powers of ten from at or below `low` to at or above `high`; powers alone where that is too many."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    every = [float(f"{n}e{power}") for power in range(first, last + 1) for n in ROUND]
    inner = [tick for tick in every if low < tick < high]
    begin = max(tick for tick in every if tick <= low * (1 + 1e-9))
    end = min(tick for tick in every if tick >= high * (1 - 1e-9))
    if len(inner) + 2 <= most:
        return [begin, *inner, end]
    apart = max(1, math.ceil((last - first) / max(1, most - 1)))
    return [float(f"1e{power}") for power in range(first, last + apart, apart)]


def _decimals(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))
