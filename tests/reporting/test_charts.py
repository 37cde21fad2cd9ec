"""Charts: valid SVG whatever the values, lines where their numbers say, no word over another, and round ticks."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.reporting.charts import PLOT, WIDTH, Panel, Series, line_chart
from bench.reporting.svg import DARK, LIGHT, make_scale, words

NAN, INF = math.nan, math.inf
SVG = "{http://www.w3.org/2000/svg}"
numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
epochs = st.lists(numbers, max_size=12)


def parsed(*series, log=False, title="t"):
    panel = Panel("title", "x", "y", series, log)
    return ElementTree.fromstring(line_chart(title, [panel]))


def lines(root):
    """The points of each line in pixels, longest strokes only: not the grid, not the samples before names."""
    paths = [path for path in root.iter(f"{SVG}path") if path.find(f"{SVG}title") is not None]
    return [[tuple(map(float, point.split())) for point in path.get("d")[1:].split("L")] for path in paths]


def texts(root):
    """(text, left, top, right, bottom) of every text, by a narrower measure of letters than the chart's own."""
    found = []
    for text in root.iter(f"{SVG}text"):
        kind = text.get("class").split()[0]
        size = {"head": 16, "name": 13}.get(kind, 11)
        x, y, width = float(text.get("x")), float(text.get("y")), 0.55 * size * len(text.text or "")
        left = {"start": x, "middle": x - width / 2, "end": x - width}[text.get("text-anchor")]
        found.append((text.text, left, y - 0.75 * size, left + width, y + 0.2 * size))
    return found


def overlapping(root):
    boxes = [box for box in texts(root) if box[0]]
    return [
        (a[0], b[0])
        for a, b in itertools.combinations(boxes, 2)
        if a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
    ]


def test_a_line_stands_where_its_numbers_say():
    (points,) = lines(parsed(Series("a", [0, 5, 10], [0.0, 1.0, 0.25])))
    (x1, bottom), (x2, top), (x3, quarter) = points
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.02) and x1 < x2
    assert bottom - top == PLOT and (bottom - quarter) / PLOT == pytest.approx(0.25, abs=1e-3)


def test_a_logarithmic_scale_has_equal_steps_for_equal_factors():
    (points,) = lines(parsed(Series("a", [0, 1, 2], [10, 1, 0.1]), log=True))
    assert points[1][1] - points[0][1] == pytest.approx(points[2][1] - points[1][1], abs=0.02)
    assert points[2][1] - points[0][1] == PLOT


@given(st.dictionaries(st.integers(0, 10**6), st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_more_is_never_lower(values):
    pairs = sorted(values.items())
    root = parsed(Series("a", *zip(*pairs, strict=True)))
    ((*points,),) = lines(root)
    assert len(points) == len(pairs)
    for (v, (_, y1)), (w, (_, y2)) in itertools.combinations(zip([v for _, v in pairs], points, strict=True), 2):
        assert (v - w) * (y1 - y2) <= 0 or y1 == y2
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(points))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.text(max_size=40), epochs), max_size=8), st.booleans(), st.text(max_size=200))
def test_anything_is_a_whole_document_without_words_over_words(table, log, title):
    root = parsed(*(Series(name, range(len(ys)), ys) for name, ys in table), log=log, title=title)
    height = float(root.get("height"))
    for line in lines(root):
        assert all(math.isfinite(v) for point in line for v in point)
        assert all(0 <= x <= WIDTH and 0 <= y <= height for x, y in line)
    for said, left, top, right, bottom in texts(root):
        assert left >= 0 and right <= WIDTH and top >= 0 and bottom <= height, said
    assert overlapping(root) == []


def test_words_over_words_would_be_seen():
    root = ElementTree.fromstring(
        '<svg xmlns="http://www.w3.org/2000/svg"><text class="tick" x="9" y="9" text-anchor="start">one</text>'
        '<text class="tick" x="12" y="12" text-anchor="start">two</text></svg>'
    )
    assert overlapping(root) == [("one", "two")]


def test_gaps_cut_the_line_and_a_lone_point_is_a_dot():
    root = parsed(Series("a", range(7), [1, 2, NAN, 3, INF, 4, 5]))
    assert [len(line) for line in lines(root)] == [2, 2]
    assert len(list(root.iter(f"{SVG}circle"))) == 1
    root = parsed(Series("a", range(4), [1, 0, -1, 10]), log=True)
    assert lines(root) == [] and len(list(root.iter(f"{SVG}circle"))) == 2


def test_one_point_a_constant_and_nothing_at_all():
    (dot,) = parsed(Series("a", [3], [0.25])).iter(f"{SVG}circle")
    assert 0 < float(dot.get("cx")) < WIDTH
    (points,) = lines(parsed(Series("a", [0, 1, 2], [7.0] * 3)))
    assert len({y for _, y in points}) == 1 and 60 < points[0][1] < 60 + PLOT
    for nothing in (parsed(), parsed(Series("a", [], [])), parsed(Series("a", [0], [NAN]))):
        assert "no values yet" in [text[0] for text in texts(nothing)]
    assert ElementTree.fromstring(line_chart("no panels", [])).tag == f"{SVG}svg"


def test_names_are_told_apart_without_colour():
    root = parsed(*(Series(f"line {n}", [0, 1], [1, 1]) for n in range(14)))
    assert [text[0] for text in texts(root) if text[0].startswith("line")] == [f"line {n} 1" for n in range(14)]
    drawn = [path.get("class") for path in root.iter(f"{SVG}path") if path.find(f"{SVG}title") is not None]
    assert len(set(drawn)) == 14 and len({look.split()[2] for look in drawn[:6]}) == 6
    places = sorted(text[2] for text in texts(root) if text[0].startswith("line"))
    assert min(b - a for a, b in itertools.pairwise(places)) >= 14


def test_text_is_escaped_and_long_text_cut():
    svg = line_chart("<b> & \x00 'q'", [Panel("p", "x", "y", [Series("a<b", [0, 1], [1, 2])])])
    root = ElementTree.fromstring(svg)
    assert root.find(f"{SVG}title").text == "<b> & \N{REPLACEMENT CHARACTER} 'q'"
    assert "a<b 2" in [text[0] for text in texts(root)]
    said = [text[0] for text in texts(parsed(Series("n" * 300, [0, 1], [1, 2]), title="w" * 999))]
    assert said[0].endswith("…") and any(re.fullmatch("n+… 2", each) for each in said)


def test_a_long_training_is_a_small_file():
    steps = range(60_000)
    wave = [math.sin(step / 2700) + (step % 7) * 0.01 for step in steps]
    svg = line_chart("t", [Panel("loss", "step", "loss", [Series("loss", steps, wave)])])
    assert len(svg) < 80_000
    (points,) = lines(ElementTree.fromstring(svg))
    y = make_scale(wave, 90.0 + PLOT, 90.0)  # the extremes are kept
    assert max(p[1] for p in points) == pytest.approx(y.at(min(wave)), abs=0.02)
    assert min(p[1] for p in points) == pytest.approx(y.at(max(wave)), abs=0.02)


def test_both_modes_have_colours_of_their_own():
    svg = line_chart("t", [])
    light, dark = svg.split("@media(prefers-color-scheme:dark)")
    assert all(colour in light for colour in LIGHT) and all(colour in dark for colour in DARK)
    assert len(LIGHT) == len(DARK)


def test_the_same_values_give_the_same_bytes():
    panels = [Panel("p", "x", "y", [Series("a", [0, 1, 2], [0.1, 0.2, 0.3])])]
    assert line_chart("t", panels) == line_chart("t", panels)
    with pytest.raises(ValueError, match="zip"):
        line_chart("t", [Panel("p", "x", "y", [Series("a", [0, 1], [1])])])


@pytest.mark.parametrize(
    ("values", "log", "labels"),
    [
        ([0, 0.83], False, ("0", "0.2", "0.4", "0.6", "0.8", "1.0")),
        ([1, 15], False, ("0", "5", "10", "15")),
        ([0, 1], False, ("0", "1")),  # whole values, whole ticks
        ([0, 12_000], False, ("0", "5,000", "10,000", "15,000")),
        ([2.5e-4, 2.5e-5], False, ("0", "0.00005", "0.00010", "0.00015", "0.00020", "0.00025")),
        ([0.3, 3], True, ("0.2", "0.5", "1", "2", "5")),
        ([1e-6, 2e3], True, ("1e-06", "0.0001", "0.01", "1", "100", "10,000")),
        ([0.5, 0.8], True, ("0.5", "0.6", "0.7", "0.8")),
        ([], True, ("1", "2", "5", "10")),
    ],
)
def test_ticks_are_round(values, log, labels):
    assert make_scale(values, 0, 100, log=log).labels == labels


@given(st.lists(numbers, max_size=6), st.integers(3, 9), st.booleans(), st.booleans())
def test_a_scale_holds_its_values_and_its_ticks(values, most, log, tight):
    scale = make_scale(values, 10, 210, most, log, tight)
    shown = [v for v in values if scale.drawable(v)]
    assert all(9.999 <= scale.at(v) <= 210.001 for v in (*shown, *scale.ticks))
    assert list(scale.ticks) == sorted(set(scale.ticks)) and len(scale.ticks) <= most + 3
    assert len(set(scale.labels)) == len(scale.labels) == len(scale.ticks)
    assert tight or len(scale.ticks) >= 2
    assert scale.low < scale.high


def test_numbers_in_words():
    said = [words(v) for v in (0, 0.25, 1234567, 12_345.6, 2e-5, 1e9, -0.5)]
    assert said == ["0", "0.25", "1,234,567", "12,346", "2e-05", "1e+09", "-0.5"]
    assert words(0.1, 0.05) == "0.10"
