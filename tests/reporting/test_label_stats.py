"""Statistics of pseudo-labels against rows that can be counted by hand."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench.grounding import Expression, Scene
from bench.reporting.label_stats import label_stats, print_stats

WHOLE = (0.0, 0.0, 40.0, 25.0)  # of an image of 40 x 25
HALF = (0.0, 0.0, 20.0, 25.0)
TINY = (0.0, 0.0, 5.0, 3.0)  # 1.5 %, under 1/64


def row(text, box, image="1", size=(40, 25), **provenance):
    expression = Expression(text, text, box)
    return Scene(image, f"{image}.png", *size, (expression,)), expression, provenance


TEMPLATE = [
    row("red dog", WHOLE, entities=1, template="n", detector="a.pt"),
    row("Red  dog", HALF, entities=1, template="n", detector="a.pt"),  # ambiguous with the first
    row("dog on the left", TINY, entities=2, template="n r", detector="b.pt"),
    row("dog on the left", TINY, entities=2, template="n r", detector="b.pt"),  # repeated
    row("red dog", HALF, "2", template="n"),  # another image: no ambiguity
]
ROWS = {"template": TEMPLATE, "relation": [row("x", WHOLE, "2")]}


def test_counts_by_hand():
    template, relation = (SimpleNamespace(**json.loads(json.dumps(stats))) for stats in label_stats(ROWS))
    assert (template.source, template.rows, template.images) == ("template", 5, 2)
    assert template.rows_per_image == {"least": 1, "mean": 2.5, "most": 4}
    assert (template.phrases, template.vocabulary) == (2, 5)  # red, dog, on, the, left
    assert template.words == {"2": 3, "4": 2} and template.words_mean == pytest.approx(14 / 5)
    assert template.entities == 1.5 and (template.ambiguous, template.repeated) == (2, 1)
    assert template.area["0.5"] == 0.5 and template.area["0.95"] == pytest.approx(0.9)
    assert (template.sized, template.small) == (5, 0.4)
    assert template.frequent == [["red dog", 3], ["dog on the left", 2]]
    assert template.templates == {"n": 3, "n r": 2} and template.detectors == {"a.pt": 2, "b.pt": 2}
    assert (relation.rows, relation.entities, relation.templates) == (1, None, {})


def test_sizes_that_nobody_knows_are_not_guessed():
    (stats,) = label_stats({"s": [row("a", WHOLE, size=(None, None)), row("b", HALF)]})
    assert (stats["sized"], stats["area"]["0.5"]) == (1, 0.5)
    (stats,) = label_stats({"s": [row("a", WHOLE, size=(None, None))]})
    assert (stats["sized"], stats["area"], stats["small"]) == (0, None, None)


def printed(rows):
    out = io.StringIO()
    print_stats(label_stats(rows), Console(file=out, width=100))
    return out.getvalue()


def test_the_table_has_a_column_a_source_and_survives_mark_up():
    text = printed(ROWS | {"[red]mine": [row("[bold]x[/bold]", WHOLE)] * 2})
    head = text.splitlines()[0].split()
    assert head == ["template", "relation", "[red]mine"] and "[bold]x[/bold] (2)" in text
    assert "2 (40.0%)" in text and "1 (20.0%)" in text and "1.5% to 90.0%" in text
    assert "template templates: n (3); n r (2)" in text
    text = printed(
        {"template": [row("a b", WHOLE), row("w " * 400, WHOLE)]}
    )  # a stray long phrase does not widen the table
    assert max(map(len, text.splitlines()[:15])) < 100 and "31+" in text
