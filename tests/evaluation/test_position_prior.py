"""The usual part of a noun: whose image counts, and when there is a label."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.datasets.annotations import annotations_of
from bench.evaluation.position_prior import FEWEST, noun
from bench.evaluation.strata import strata
from bench.grounding import Expression, Scene

CENTRES = {"left": 15.0, "middle": 45.0, "right": 75.0}


def split(*images, size=(90, 90)):
    """Make a split of images, each a list of (text, where)."""
    scenes = []
    for place, image in enumerate(images):
        made = []
        for n, (text, where) in enumerate(image):
            x = CENTRES[where]
            made.append(Expression(f"{place}-{n}", text, (x - 5, 40, x + 5, 50)))
        scenes.append(Scene(str(place), f"{place}.jpg", *size, tuple(made)))
    return scenes


def agreement(scenes):
    cut = strata(annotations_of(scenes)).get("position prior")
    return cut.labels() if cut else [None] * sum(len(scene.expressions) for scene in scenes)


@pytest.mark.parametrize(("text", "wanted"), [
    ("guy on left", "guy"), ("the red car behind the bus", "car"), ("woman wearing a hat", "woman"),
    ("bottom right zebra", "zebra"), ("Man 2nd from left", "man"), ("person 3", "person"), ("left", "left"),
    ("red car left of the bus", "car"), ("behind the car", "car"), ("", ""), ("...", ""), ("7", ""),
])  # fmt: skip
def test_nouns(text, wanted):
    assert noun(text) == wanted


def test_the_usual_part_is_that_of_other_images():
    usual = [[("sheep", "middle")]] * FEWEST
    assert agreement(split(*usual, [("a sheep", "left")])) == ["agrees"] * FEWEST + ["disagrees"]
    # Many targets on one image do not decide where that image's own targets lie.
    crowd = [("sheep", "right")] * 20
    assert agreement(split(*usual, crowd))[FEWEST:] == ["disagrees"] * 20


def test_rare_nouns_missing_sizes_and_no_target_have_no_label():
    assert agreement(split(*[[("sheep", "middle")]] * FEWEST)) == [None] * FEWEST  # four others each
    assert agreement(split(*[[("sheep", "middle")]] * 9, size=(None, None))) == [None] * 9
    nowhere = Scene("x", "x.jpg", 90, 90, (Expression("x", "sheep", (float("nan"),) * 4),))
    assert agreement([*split(*[[("sheep", "middle")]] * 9), nowhere]) == ["agrees"] * 9 + [None]
    assert agreement([]) == []


def test_a_split_has_the_cut_beside_the_others():
    cuts = strata(annotations_of(split(*[[("sheep", "middle")]] * 9)))
    assert {*cuts["position prior"].labels()} == {"agrees"} and {*cuts["length"].labels()} == {"1-5"}


@given(st.text(max_size=40))
def test_any_text_has_a_word_of_its_own_or_none(text):
    assert noun(text) == "" or noun(text) in text.casefold()
