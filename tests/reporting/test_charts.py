"""Charts: whole SVG documents whatever the values and names, with lines, marks and bars where their numbers say."""

import itertools
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from bench.reporting.charts import COLOURS, Panel, line_chart
from bench.reporting.reliability_chart import grid_width, reliability_chart
from bench.reporting.speed_chart import pareto_front, speed_chart

NAN, INF = math.nan, math.inf
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert("x")</script>\x00 & $x_1$ \\frac 模型\nline'
numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)


def row(name="p", accuracy=0.5, speed=100.0, half=0.1):
    rate = {"median": speed, "low": speed * 0.9, "high": speed * 1.1}
    ci95 = [accuracy - half, accuracy + half]
    return {"pipeline": name, "acc@0.5": accuracy, "ci95": ci95, "speed": {"expressions_per_s": rate}}


def pair(scorer="m", source="s", counts=(0, 1, 3, 0, 0) * 5, rows=40, mean=0.5, kind="SR"):
    return {"scorer": scorer, "source": source, "counts": counts, "rows": rows, "mean": mean, "kind": kind}


def lines(*series, log=False, title="t"):
    return line_chart(title, [Panel("title", "x", "y", series, log)])


@pytest.fixture
def painted(monkeypatch):
    """painted(chart, ...): the axes that a chart was painted on."""
    figures = []
    saved = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), saved(self, *a, **k))[1])
    return lambda chart, *arguments, **words: (chart(*arguments, **words), figures[-1].axes)[1]


def texts(svg):
    return [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_lines_stand_where_their_numbers_say(painted):
    (axes,) = painted(lines, ("a", [0, 5, 10], [0.0, 1.0, 0.25]), ("b", [0, 5], [NAN, INF]))
    a, b = axes.get_lines()
    assert a.get_xydata().tolist() == [[0, 0.0], [5, 1.0], [10, 0.25]]
    assert all(math.isnan(y) for _, y in b.get_xydata()) and a.get_linestyle() != b.get_linestyle()
    assert all(float(x).is_integer() for x in axes.get_xticks())
    (axes,) = painted(lines, ("a", [1, 2, 3], [1, 0, 1000]), log=True)
    assert axes.get_yscale() == "log" and axes.get_lines()[0].get_markevery() == [0, 2]  # alone beside a gap: dots


@pytest.mark.slow
def test_names_stand_beside_the_lines_with_their_last_values():
    svg = lines(("loss", [1, 2], [3.0, 1234.5]), ("l1", [1], [0.25]), ("none", [1], [NAN]))
    assert {"loss  1,234", "l1  0.25", "none", "title", "x", "y", "t"} <= set(texts(svg))
    assert "no values yet" in texts(lines(("a", [], []))) and "no values yet" in texts(lines())
    assert any("…  1" in text for text in texts(lines(("long" * 30, [1], [1]))))
    with pytest.raises(ValueError, match="1 xs and 2 ys"):
        lines(("a", [1], [1, 2]))


@pytest.mark.slow
def test_no_two_of_many_look_alike(painted):
    many = 12
    (axes,) = painted(lines, *((f"n{i}", [1, 2], [i, 2]) for i in range(many)))
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in axes.get_lines()}
    (axes,) = painted(speed_chart, "t", [row(f"p{i}", i / 20, 10.0 * (i + 1)) for i in range(many)])
    marks = {(bars[0].get_color(), bars[0].get_marker()) for bars in axes.containers}
    assert len(looks) == len(marks) == many > len(COLOURS)


@pytest.mark.slow
def test_speed_is_right_and_accuracy_is_up(painted):
    rows = [row("slow", 0.8, 10.0), row("quick", 0.2, 1000.0), row("still", 0.9, 0.0)]
    (axes,) = painted(speed_chart, "t", rows, "H200")
    where = {bars.get_label().split()[0]: bars[0].get_xydata()[0].tolist() for bars in axes.containers}
    assert where == {"slow": [10.0, 80.0], "quick": [1000.0, 20.0]} and axes.get_xscale() == "log"
    svg = speed_chart("t", rows, "H200")
    assert "slow  80.00 % at 10/s" in texts(svg) and any("H200" in text for text in texts(svg))
    assert "slow: 80.00 % at 10 expressions/s" in ElementTree.fromstring(svg).find(f"{SVG}desc").text
    assert "no values yet" in texts(speed_chart("t", []))


def test_the_front_is_what_none_beats():
    points = [(1.0, 1.0), (5.0, 0.1), (3.0, 0.5), (2.0, 0.4), (3.0, 0.2)]
    assert pareto_front(points) == [(1.0, 1.0), (3.0, 0.5), (5.0, 0.1)]


@pytest.mark.slow
def test_bars_are_shares_of_all_rows(painted):
    (axes,) = painted(reliability_chart, "t", [pair(counts=(2,) * 500 + (6,) * 500, rows=5000, mean=0.6)])
    heights = [bar.get_height() for bar in axes.patches]
    assert len(heights) == 25 and heights[0] == pytest.approx(1.6) and heights[-1] == pytest.approx(4.8)
    assert sorted(line.get_xdata()[0] for line in axes.get_lines()) == [0.5, 0.6]
    assert "SR, 5,000 rows, mean 0.60, 20 % at 0" in texts(
        reliability_chart("t", [pair(counts=(160,) * 25, rows=5000, mean=0.6)])
    )
    for none in (reliability_chart("t", []), reliability_chart("t", [pair(counts=(0,) * 25, rows=0, mean=None)])):
        ElementTree.fromstring(none)
    assert "no rows" in texts(none)


@pytest.mark.slow
def test_scorers_are_lines_of_panels_and_sources_columns(painted):
    pairs = [
        pair(*names, kind=kind)
        for names, kind in zip(itertools.product("ab", "xyz"), ("SR", "CR", "") * 2, strict=True)
    ]
    axes = painted(reliability_chart, "t", pairs)
    assert [a.get_title(loc="left").split("\n")[0] for a in axes] == [f"{a} on {x}" for a in "ab" for x in "xyz"]
    assert grid_width(pairs) == 3 and len({a.get_ylim() for a in axes}) == 1
    assert [a.patches[0].get_hatch() for a in axes[:3]] == ["", "////", ""]
    assert [grid_width([pair(str(n), str(n)) for n in range(count)]) for count in (0, 1, 3, 9)] == [1, 1, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("svg", [
    lambda: lines((HOSTILE, [1, 2], [1, 2]), title=HOSTILE),
    lambda: speed_chart(HOSTILE, [row(HOSTILE)], HOSTILE),
    lambda: reliability_chart(HOSTILE, [pair(HOSTILE, HOSTILE)]),
])  # fmt: skip
def test_names_are_data_and_documents_describe_themselves(svg):
    root = ElementTree.fromstring(svg())
    assert "script" not in {element.tag.removeprefix(SVG) for element in root.iter()}
    assert root.find(f"{SVG}title").text.startswith('<script>alert("x")') and root.find(f"{SVG}desc").text
    assert "prefers-color-scheme:dark" in root.find(f"{SVG}style").text


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.lists(numbers, max_size=8)), max_size=4), st.booleans(), st.text())
def test_any_values_give_a_whole_document(series, log, title):
    ElementTree.fromstring(lines(*((name, range(len(ys)), ys) for name, ys in series), log=log, title=title))


@pytest.mark.slow
def test_the_same_bytes_in_another_process():
    code = "from test_charts import lines; print(lines(('a', [1, 2], [3, 4])))"
    again = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True)
    assert again.stdout.decode().strip() == lines(("a", [1, 2], [3, 4])).strip()
