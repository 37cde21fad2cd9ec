"""Histograms: bars where their counts say, panels in a grid, and a whole document whatever the names."""

import itertools
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.reporting.reliability import PLOT, PLOT_WIDTH, Histogram, histograms

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*panels, title="t"):
    return ElementTree.fromstring(histograms(title, panels))


def panel(scorer="m", source="s", counts=(0, 1, 3, 0), rows=4, mean=0.5, kind="SR"):
    return Histogram(scorer, source, counts, rows, mean, kind)


def bars(root):
    """(class, left, top, width, height) of each bar, those of the key left out."""
    found = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    return [(r.get("class"), *(float(r.get(side)) for side in ("x", "y", "width", "height"))) for r in found]


def names(root):
    return [(t.text, float(t.get("x")), float(t.get("y"))) for t in root.iter(f"{SVG}text") if t.get("class") == "name"]


def test_bars_stand_where_their_counts_say():
    root = drawn(panel(counts=(2, 0, 6, 1), rows=10, mean=0.6))
    (_, x1, y1, w1, h1), (_, x3, y3, w3, h3), (_, x4, _, _, h4) = bars(root)
    assert w1 == w3 == PLOT_WIDTH / 4 and x3 - x1 == 2 * w1 and x4 - x3 == w1
    assert h3 / h1 == pytest.approx(3, abs=0.01) and h1 / h4 == pytest.approx(2, abs=0.01)
    assert y1 + h1 == pytest.approx(y3 + h3, abs=0.02) and h3 == pytest.approx(PLOT, abs=0.02)  # 60 % is the top
    said = [t.text for t in root.iter(f"{SVG}text")]
    assert "SR, 10 rows, mean 0.60, 10 % at 0" in said and "60 %" in said
    assert [t.text for t in root.iter(f"{SVG}title")][1:] == [
        "0 to 0.25: 2 rows, 20.0 %",
        "0.5 to 0.75: 6 rows, 60.0 %",
        "0.75 to 1: 1 row, 10.0 %",
    ]
    (mean,) = [p.get("d") for p in root.iter(f"{SVG}path") if p.get("class") == "axis mean"][:1]
    (half,) = [p.get("d") for p in root.iter(f"{SVG}path") if p.get("class") == "axis half"][:1]
    assert float(mean[1:].split()[0]) - x1 == pytest.approx(0.6 * PLOT_WIDTH, abs=0.02)
    assert float(half[1:].split()[0]) - x1 == pytest.approx(0.5 * PLOT_WIDTH, abs=0.02)


def test_all_panels_share_one_scale():
    root = drawn(panel("a", "s", (0, 5), 10), panel("b", "s", (10, 0), 10, kind="CR"))
    (first, second) = bars(root)
    assert second[4] == pytest.approx(2 * first[4], abs=0.02) and first[0] != second[0]
    assert "hatch" in histograms("t", [panel(kind="CR")])


def test_scorers_are_rows_and_sources_are_columns():
    pairs = list(itertools.product(["m1", "m2", "m3"], ["s1", "s2"]))
    places = {said: (x, y) for said, x, y in names(drawn(*(panel(*pair) for pair in pairs)))}
    assert len(places) == 6
    for m, s in pairs:
        x, y = places[f"{m} on {s}"]
        assert x == places[f"m1 on {s}"][0] and y == places[f"{m} on s1"][1]
    assert places["m1 on s1"][0] < places["m1 on s2"][0] and places["m1 on s1"][1] < places["m3 on s1"][1]


@pytest.mark.parametrize("number", range(1, 17))
def test_any_number_of_panels_fits_without_overlap(number):
    root = drawn(*(panel(f"m{n}", f"s{n}") for n in range(number)))
    width, height = float(root.get("width")), float(root.get("height"))
    places = names(root)
    assert len(places) == number == len({(x, y) for _, x, y in places})
    assert all(x >= 0 and x + PLOT_WIDTH <= width and y >= 0 and y + PLOT < height for _, x, y in places)
    for (_, x1, y1), (_, x2, y2) in itertools.combinations(places, 2):
        assert abs(x1 - x2) >= PLOT_WIDTH or abs(y1 - y2) >= PLOT
    assert all(x + w <= width + 0.02 and y + h <= height for _, x, y, w, h in bars(root))


def test_nothing_one_row_and_only_zeros():
    assert bars(drawn()) == [] and bars(drawn(panel(counts=(), rows=0, mean=0.0))) == []
    root = drawn(panel(counts=(0, 0), rows=0, mean=0.0))
    assert bars(root) == [] and "no rows" in [t.text for t in root.iter(f"{SVG}text")]
    root = drawn(panel(counts=(0, 1), rows=1, mean=0.9, kind=""))
    assert len(bars(root)) == 1 and "1 row, mean 0.90" in [t.text for t in root.iter(f"{SVG}text")]
    root = drawn(panel(counts=(0, 0), rows=7, mean=0.0))
    assert bars(root) == [] and "SR, 7 rows, mean 0.00, 100 % at 0" in [t.text for t in root.iter(f"{SVG}text")]


@settings(max_examples=40)
@given(
    st.lists(
        st.builds(
            lambda m, s, c, zero, mean, kind: Histogram(m, s, c, sum(c) + zero, mean, kind),
            st.text(max_size=60),
            st.text(max_size=60),
            st.lists(st.integers(0, 10**7), max_size=25),
            st.integers(0, 10**7),
            st.floats(0, 1),
            st.sampled_from(["SR", "CR", ""]),
        ),
        max_size=9,
    ),
    st.text(max_size=200),
)
def test_anything_is_a_whole_document(panels, title):
    root = drawn(*panels, title=title)
    height = float(root.get("height"))
    for _, x, y, w, h in bars(root):
        assert x >= 0 and w > 0 and 0 <= y <= height and 0 <= h <= PLOT + 0.02


def test_names_are_escaped():
    root = drawn(panel("<b>&", 'a"b\x00</svg>'), title="<script>")
    assert any(said.startswith('<b>& on a"b') for said, _, _ in names(root))
    assert root.find(f"{SVG}title").text == "<script>"
