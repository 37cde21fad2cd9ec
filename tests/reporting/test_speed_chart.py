"""Accuracy against speed: a mark a pipeline, names that do not overlap, nothing that a name can break."""

import itertools
import random
import re
from xml.etree import ElementTree

import pytest

from bench.reporting.speed_chart import (
    SHAPES,
    TOP,
    WIDTH,
    Point,
    _around,
    _front,
    _labels,
    _overlap,
    point,
    speed_chart,
)
from bench.reporting.svg import make_scale

SVG = "{http://www.w3.org/2000/svg}"


def points(count: int, seed: int = 0, close: bool = False) -> list[Point]:
    dice = random.Random(seed)
    out = []
    for n in range(count):
        accuracy, speed = (0.5 + n / 1000, 100 + n) if close else (dice.random(), 10 ** dice.uniform(0, 4))
        spread = (0.9 * speed, 1.1 * speed)
        out.append(Point(f"pipeline-{n}", accuracy, (accuracy - 0.02, accuracy + 0.02), speed, spread))
    return out


def marks(svg: str) -> list[ElementTree.Element]:
    return [p for p in ElementTree.fromstring(svg).iter(f"{SVG}path") if (p.get("class") or "").startswith("mark")]


def test_a_point_a_pipeline_with_its_bars() -> None:
    svg = speed_chart("t", points(5), "A GPU")
    assert len(marks(svg)) == 5 and svg.count('class="bar') == 5 and "A GPU" in svg
    for n in range(5):
        assert svg.count(f">pipeline-{n}</text>") == 1


def test_shapes_differ_where_colours_do_not() -> None:
    svg = speed_chart("t", points(12))
    told = [(m.get("class"), re.sub(r"^M[\d.]+ [\d.]+", "", m.get("d") or "")) for m in marks(svg)]
    assert len(set(told)) == 12 and len({shape for _, shape in told}) == len(SHAPES)


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("count", [1, 6, 20])
def test_names_do_not_overlap(count: int, close: bool) -> None:
    shown = points(count, close=close)
    y = make_scale([100 * v for p in shown for v in p.interval], TOP + 380, TOP)
    x = make_scale([v for p in shown for v in p.spread], 60, WIDTH - 30, most=9, log=True)
    places = [(x.at(p.speed), y.at(100 * p.accuracy)) for p in shown]
    bars = [_around(place, place) for place in places for _ in range(2)]
    boxes = _labels(shown, places, bars, x, y)
    assert not any(_overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    assert all(b[0] >= x.start and b[2] <= x.end and b[1] >= y.end and b[3] <= y.start for b in boxes)
    assert not any(_overlap(box, (a - 4, b - 4, a + 4, b + 4)) for box in boxes for a, b in places)


def test_the_front_is_what_nobody_beats() -> None:
    # right is fast, up (a small number) is good
    assert _front([(1.0, 1.0), (5.0, 9.0), (3.0, 5.0), (2.0, 6.0)]) == [
        (5.0, 9.0),
        (5.0, 5.0),
        (3.0, 5.0),
        (3.0, 1.0),
        (1.0, 1.0),
    ]
    assert _front([(1.0, 1.0), (0.5, 3.0)]) == [(1.0, 1.0)]


def test_faster_is_right_and_better_is_up() -> None:
    a, b = (Point(n, acc, (acc, acc), speed, (speed, speed)) for n, acc, speed in (("a", 0.2, 10), ("b", 0.8, 1000)))
    where = {}
    for mark in marks(speed_chart("t", [a, b])):
        x, y = re.match(r"M([\d.]+) ([\d.]+)", mark.get("d") or "").groups()  # type: ignore[union-attr]
        where[(mark[0].text or "")[0]] = (float(x), float(y))
    assert where["b"][0] > where["a"][0] and where["b"][1] < where["a"][1]


def test_hostile_names_and_nothing_at_all() -> None:
    bad = Point('<script>alert("x")</script>\x00', 0.5, (0.4, 0.6), 10, (9, 11))
    svg = speed_chart("<b>", [bad, Point("none", 0.5, (0.4, 0.6), 0, (0, 0))])
    ElementTree.fromstring(svg)
    assert "<script>" not in svg and len(marks(svg)) == 1
    assert "no values yet" in speed_chart("t", [])


def test_a_point_of_a_row() -> None:
    rate = {"median": 100.0, "low": 90.0, "high": 110.0}
    made = point({"pipeline": "hash", "acc@0.5": 0.7, "ci95": [0.6, 0.8], "speed": {"expressions_per_s": rate}})
    assert made == Point("hash", 0.7, (0.6, 0.8), 100.0, (90.0, 110.0))
