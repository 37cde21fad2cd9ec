"""Drawings of predictions and sheets of scenes: boxes visible on any background, words beside them, each once."""

import math

import numpy as np
import pytest
from PIL import ImageDraw
from pycocotools import mask as coco

from bench.attention import Stage
from bench.errors import UsageError
from bench.grounding import Expression, Scene
from bench.reporting.drawing import ANSWER, STAGES, contact_sheet, draw_answer


@pytest.fixture
def written(monkeypatch):
    """What is written on drawings: (x, y, text)."""
    texts, write = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda pen, at, text, **how: (texts.append((*at, text)), write(pen, at, text, **how)),
    )
    return texts


@pytest.mark.parametrize("grey", [0, 90, 128, 200, 255])
@pytest.mark.parametrize("colour", [(1, 1, 1), (1, 0.8, 0.25), (0.9, 0.2, 0.25)])
def test_every_box_is_visible_on_every_background(grey, colour):
    plain = np.full((120, 160, 3), grey * np.array(colour), np.uint8)
    drawn = np.asarray(draw_answer(plain, (100, 20, 150, 90), "it", [(10, 20, 60, 90)], (70, 30, 85, 60)), int)[:120]
    for x1, x2 in ((5, 15), (95, 105), (66, 74)):  # the left edges of proposal, prediction and ground truth
        assert np.abs(drawn[45, x1:x2] - plain[45, x1:x2]).max(axis=1).max() > 100
        changed = (drawn[45, x1:x2] != plain[45, x1:x2]).any(axis=1).sum()
        assert 2 <= changed <= 5  # the line, and a pixel on both sides


def test_the_legend_names_what_is_drawn_under_the_image(written):
    image = np.zeros((90, 120, 3), np.uint8)
    drawn = draw_answer(image, (1, 2, 50, 60), "the dog", [(0, 0, 9, 9)] * 12, (5, 5, 20, 20), score=0.315)
    assert [text for *_, text in written] == ["the dog", "prediction, score 0.32", "12 proposals", "ground truth"]
    assert all(y >= 90 for _, y, _ in written) and drawn.height > max(y for _, y, _ in written)
    assert len({y for _, y, _ in written}) == 4  # no entry of a narrow image leads out of it
    written.clear()
    draw_answer(image, None, "the dog")
    assert [text for *_, text in written] == ["the dog", "no box"]


class Grey:
    def load(self, scene):
        return np.full((scene.height, scene.width, 3), 120, np.uint8)


def sheet_of(texts, kinds):
    expressions = tuple(
        Expression(str(n), text, (10.0, 10.0, 40.0, 40.0), kind=kind)
        for n, (text, kind) in enumerate(zip(texts, kinds, strict=True))
    )
    return contact_sheet([Scene("s", "s.jpg", 100, 80, expressions)], Grey())


def test_a_sheet_says_one_kind_once_and_counts_the_expressions_that_are_left(written):
    long = "the small brown dog that is lying on the floor to the left of the chair"
    sheet_of([long] * 9, ["template"] * 9)
    texts = [text for *_, text in written]
    assert texts.count("template") == 1 and not any("(" in text for text in texts)
    shown = sum(text.startswith("1  ") for text in texts)
    assert f"... {9 - shown} more" in texts and 3 <= shown < 9
    assert all(text.startswith(("1  ", "     ", "...", "template")) for text in texts if text != "1")
    written.clear()
    sheet_of(["a dog", "a cat"], ["attribute", None])
    assert [text for *_, text in written] == ["1", "1  a dog  (attribute)", "1  a cat"]


def test_a_sheet_numbers_several_targets_alike_and_says_none(written):
    one, other = (10.0, 10.0, 40.0, 40.0), (60.0, 10.0, 90.0, 40.0)
    nothing = Expression("0", "a cow", (math.nan,) * 4)
    expressions = (nothing, Expression("1", "the dogs", one, also=(other,)), Expression("2", "one dog", other))
    contact_sheet([Scene("s", "s.jpg", 100, 80, expressions)], Grey())
    assert [text for *_, text in written] == ["1", "1", "2", "1  the dogs", "2  one dog", "none  a cow"]


def test_stages_have_points_and_boxes_in_colours_of_their_own(written):
    image = np.full((60, 90, 3), 100, np.uint8)
    first, last = (
        Stage(box, np.array([[x, 30.0], [500.0, -9.0]])) for box, x in (((5, 5, 40, 40), 60), ((20, 9, 50, 50), 75))
    )
    drawn = np.asarray(draw_answer(image, last.box, "it", stages=(first, last)))
    assert {"stage 1", "stage 2"} <= {text for *_, text in written}
    assert tuple(drawn[30, 60]) == tuple(drawn[20, 5]) == STAGES[0]  # a point, and the edge of its box
    assert tuple(drawn[30, 75]) == tuple(drawn[30, 20]) == tuple(drawn[0, 89]) == ANSWER  # far points at the border
    assert not np.array_equal(drawn[:60], np.asarray(draw_answer(image, last.box, "it"))[:60])


def test_a_mask_tints_what_it_covers():
    image, inside = np.full((60, 90, 3), 100, np.uint8), np.zeros((60, 90), np.uint8, order="F")
    inside[10:30, 20:50] = 1
    encoded = coco.encode(inside)
    mask = {"size": [60, 90], "counts": encoded["counts"].decode()}
    drawn = np.asarray(draw_answer(image, None, "it", mask=mask))[:60]
    changed = (drawn != image).any(axis=2)
    assert np.array_equal(changed, inside.astype(bool)) and drawn[20, 30, 0] > 150
    light = (drawn == drawn[10, 20]).all(axis=2)  # a line within its border, to be seen on an object of its colour
    assert light.sum() == 2 * (20 + 30) - 4 and not light[11:29, 21:49].any()
    with pytest.raises(UsageError, match="a mask of 90 x 60 on an image of 60 x 90"):
        draw_answer(image.transpose(1, 0, 2), None, "it", mask=mask)
