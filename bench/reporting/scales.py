"""From values to pixels: ranges that end on round numbers, their ticks, and the words on the ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.reporting.svg import SMALL, text, width_of

ROUND = (1, 2, 5)
LARGEST, SMALLEST = 1e100, 1e-100  # beyond them floats overflow when compared; no curve worth drawing goes there


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
