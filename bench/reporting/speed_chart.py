"""Accuracy against speed as SVG text: a point a pipeline, with its accuracy's interval and its speed's spread.

Points differ by shape and by the name beside them, not by colour alone, and colours follow light and dark mode. The
dashed line is the front: no pipeline beyond it is both faster and more accurate.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.reporting.boards import collect
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
from bench.reporting.table import Row

WIDTH, TOP, PLOT, BELOW = 760, 78, 380, 56  # pixels
LONGEST = 190  # of a name
SIZE = 5.0  # half of a mark
GAP = 9.0  # between a mark and its name
ROW = 14.0  # height of a name
SHAPES = (
    "M{x} {y}m-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0",  # circle
    "M{x} {y}m-4.5 -4.5h9v9h-9z",  # square
    "M{x} {y}m0 -6l5.6 9.8h-11.2z",  # triangle
    "M{x} {y}m0 -6.4l6.4 6.4l-6.4 6.4l-6.4 -6.4z",  # diamond
    "M{x} {y}m0 6l5.6 -9.8h-11.2z",  # triangle on its point
    "M{x} {y}m-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",  # cross
)
RULES = (
    ".bar{fill:none;stroke-width:1.4;opacity:.75}.lead{fill:none;stroke-width:.8;opacity:.6}"
    ".front{fill:none;stroke:#8a919c;stroke-width:1.2;stroke-dasharray:5 4}"
)
Place = tuple[float, float]  # across, down
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Point:
    """One pipeline: accuracy and its interval as fractions, expressions per second and the spread of its repeats."""

    name: str
    accuracy: float
    interval: tuple[float, float]
    speed: float
    spread: tuple[float, float]


def point(row: Row) -> Point:
    """The point of a leaderboard's row that has a measured speed."""
    rate, (low, high) = row["speed"]["expressions_per_s"], row["ci95"]
    return Point(row["pipeline"], row["acc@0.5"], (low, high), rate["median"], (rate["low"], rate["high"]))


def chart_of(results: Path, split: str) -> str | None:
    """Draws the rows of a split under the usual protocol, on the device of most of them; None without a speed."""
    boards = [b for b in collect(results).boards if b.split == split and b.protocol == "iou" and not b.proposals]
    rows = [row for board in boards for row in board.rows if row["speed"]]
    if not rows:
        return None
    devices = Counter(row["device"] for row in rows)
    most = max(devices, key=lambda device: (devices[device], device))
    points = [point(row) for row in rows if row["device"] == most]
    return speed_chart(f"{split}: accuracy against speed", points, most)


def speed_chart(title: str, points: Sequence[Point], device: str = "") -> str:
    """Draws a whole SVG document; points with a speed of 0 are left out. `device` is what all of them ran on."""
    shown = sorted((p for p in points if p.speed > 0), key=lambda p: (-p.accuracy, p.name))
    y = make_scale([100 * v for p in shown for v in p.interval], TOP + PLOT, TOP)
    left = 40 + max(width_of(label, SMALL) for label in y.labels)
    x = make_scale([v for p in shown for v in p.spread if v > 0], left, WIDTH - 30, most=9, log=True)
    what = f"Acc@0.5 in % with its interval; speed offline, cold, best batch{f', {device}' if device else ''}"
    parts = [
        text("label", 20, 52, fitted(what, 720, SMALL)),
        *axes(x, y, upright=True),
        text("label", (x.start + x.end) / 2, TOP + PLOT + 36, "expressions per second (logarithmic)", "middle"),
        *_marks(shown, x, y),
    ]
    said = "; ".join(f"{p.name}: {100 * p.accuracy:.2f} % at {words(p.speed)} expressions/s" for p in shown)
    return document(title, said or "no values yet", WIDTH, TOP + PLOT + BELOW, style(RULES), parts)


def _marks(points: Sequence[Point], x: Scale, y: Scale) -> Iterator[str]:
    if not points:
        yield text("label", (x.start + x.end) / 2, (y.start + y.end) / 2, "no values yet", "middle")
        return
    places = [(x.at(p.speed), y.at(100 * p.accuracy)) for p in points]
    front = "L".join(f"{a:.2f} {b:.2f}" for a, b in _front(places))
    yield f'<path class="front" d="M{front}"/>'
    bars: list[Rectangle] = []
    for number, (p, (a, b)) in enumerate(zip(points, places, strict=True)):
        low, high = (y.at(100 * v) for v in p.interval)
        slow, fast = (x.at(max(v, x.low)) for v in p.spread)
        bars += [_around((a, low), (a, high)), _around((slow, b), (fast, b))]
        colour = number % len(LIGHT)
        # The seventh has the first one's colour and another shape.
        shape = SHAPES[(number + number // len(LIGHT)) % len(SHAPES)].format(x=f"{a:.2f}", y=f"{b:.2f}")
        yield f'<path class="bar s{colour}" d="M{a:.2f} {low:.2f}V{high:.2f}M{slow:.2f} {b:.2f}H{fast:.2f}"/>'
        about = f"{p.name}: {100 * p.accuracy:.2f} %, {words(p.speed)} expressions/s"
        yield f'<path class="mark t{colour}" d="{shape}"><title>{safe(about)}</title></path>'
    for number, (p, place, box) in enumerate(zip(points, places, _labels(points, places, bars, x, y), strict=True)):
        yield from _label(fitted(p.name, LONGEST, SMALL), place, box, number % len(LIGHT))


def _front(places: Sequence[Place]) -> list[Place]:
    """The corners and points of the steps that nobody is both right of and above, from the right to the left."""
    best, front = float("inf"), list[Place]()
    for a, b in sorted(places, key=lambda place: (-place[0], place[1])):
        if b < best:
            front += [(front[-1][0], b), (a, b)] if front else [(a, b)]
            best = b
    return front


def _labels(
    points: Sequence[Point], places: Sequence[Place], bars: Sequence[Rectangle], x: Scale, y: Scale
) -> list[Rectangle]:
    """Places each name beside its mark, or as near as there is room inside the plot.

    A name is never over another name or another mark, and on no line unless there is no other way.
    """
    taken: list[Rectangle] = [(a - SIZE - 1, b - SIZE - 1, a + SIZE + 1, b + SIZE + 1) for a, b in places]
    lines = [*bars, *(_around(a, b) for a, b in itertools.pairwise(_front(places)))]
    boxes = []
    for number, (p, (a, b)) in enumerate(zip(points, places, strict=True)):
        width = width_of(fitted(p.name, LONGEST, SMALL), SMALL)
        across = bars[2 * number + 1]  # the name begins where the bar of its own speed ends
        ends = (min(a - GAP, across[0] - 4), max(a + GAP, across[2] + 4))
        lefts = (ends[1], ends[0] - width)  # to the right of the mark, to the left
        options = [(left, b + s - ROW / 2, left + width, b + s + ROW / 2) for s in _shifts(y) for left in lefts]
        inside = [o for o in options if o[0] >= x.start and o[2] <= x.end and o[1] >= y.end and o[3] <= y.start]
        free = [o for o in inside if not any(_overlap(o, other) for other in taken)]
        clear = (o for o in free if not any(_overlap(o, line) for line in lines))
        box = next(clear, free[0] if free else options[0])
        taken.append(box)
        boxes.append(box)
    return boxes


def _around(one: Place, other: Place) -> Rectangle:
    """The room of an upright or a level line."""
    (a, b), (c, d) = one, other
    return (min(a, c) - 1, min(b, d) - 1, max(a, c) + 1, max(b, d) + 1)


def _shifts(y: Scale) -> list[float]:
    """Heights to try, the nearest first: 0, a row down, a row up, two rows down, ..."""
    rows = int((y.start - y.end) // (ROW / 2))
    return [0.0, *(sign * n * ROW / 2 for n in range(1, rows) for sign in (1, -1))]


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _label(name: str, place: Place, box: Rectangle, colour: int) -> Iterator[str]:
    """The name in its box, and a thin line from the mark where the name had to go further away."""
    middle = (box[1] + box[3]) / 2
    if abs(middle - place[1]) > ROW:
        near = box[0] - 2 if box[0] > place[0] else box[2] + 2
        yield f'<path class="lead s{colour}" d="M{place[0]:.2f} {place[1]:.2f}L{near:.2f} {middle:.2f}"/>'
    after = box[0] > place[0]
    yield text(f"end t{colour}", box[0] if after else box[2], middle + 4, name, "start" if after else "end")
