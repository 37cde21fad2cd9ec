"""Expressions of every kind, read by words: what they name, and how they single it out."""

import re
from collections import Counter

import pytest
from phrase_lines import line

from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.shapes import make_scene
from pipelines.two_stage.language.parse import Phrase, normalised, parse

# In one line, `_` for any thing: name | superlatives, a place in an order by its number | relation(other thing)
EXPRESSIONS = {
    # only a name
    "a red car": "a red car", "guy in white shirt": "guy in white shirt",
    "woman holding an umbrella": "woman holding an umbrella", "find the striped star": "the striped star",
    "the dog in the picture": "the dog", "the person with the hat in this photo": "the person with the hat",
    # one side
    "left guy": "guy | left", "the man on the right": "the man | right", "man on left": "man | left",
    "elephant left": "elephant | left", "the leftmost sheep": "the sheep | left", "right most cup": "cup | right",
    "guy on far right": "guy | right", "the plant to the far left": "the plant | left", "left-hand bus": "bus | left",
    "girl on the left hand side": "girl | left", "the laptop, right side": "the laptop | right",
    "white car left of frame": "white car | left", "the bowl on the left side of the picture": "the bowl | left",
    "soup all the way on the right": "soup | right", "lft cow": "cow | left", "top pizza": "pizza | top",
    "the upper shelf": "the shelf | top", "bird at the very top": "bird | top", "book on top": "book | top",
    "the lowest plane": "the plane | bottom", "keyboard at the bottom": "keyboard | bottom",
    "the bottommost tie": "the tie | bottom", "middle guy with glass": "guy with glass | middle",
    "the train in the center": "the train | middle", "left": "_ | left", "the one on the left": "_ | left",
    # corners
    "top left pizza": "pizza | top+left", "pizza, bottom right corner": "pizza | bottom+right",
    "upper right": "_ | top+right", "the glass at right top": "the glass | top+right",
    "flowers on the bottom left side": "flowers | bottom+left",
    "man in the lower left corner of the image": "man | bottom+left",
    # depth, as an image shows it
    "front zebra": "zebra | bottom", "the cow in front": "the cow | bottom",
    "zebra in the foreground": "zebra | bottom", "man in back": "man | top",
    "person in the background": "person | top", "person closest to the camera": "person | big",
    "the zebra furthest from us": "the zebra | small", "closest elephant": "elephant | big",
    # sizes
    "the biggest giraffe": "the giraffe | big", "smallest dog": "dog | small", "the larger bear": "the bear | big",
    "bigger of the two dogs": "dogs | big", "the smaller one of the 2 cups": "the cups | small",
    "tallest man in the image": "man | tall", "the tiniest ring": "the ring | small",
    # places in an order
    "second from left": "_ | 2 left", "second girl from the right": "girl | 2 right",
    "the third red star from the top": "the red star | 3 top", "3rd car from left": "car | 3 left",
    "the first man on the left": "the man | left", "fourth remote from the left": "remote | 4 left",
    "the man standing second from right": "the man standing | 2 right",
    "second wedge from left to right": "wedge | 2 left", "second largest dog": "dog | 2 big",
    "last cow on the right": "cow | right",
    # relations
    "the star left of the circle": "the star | left(the circle)",
    "man to the left of the woman": "man | left(the woman)",
    "bag to the right of a black bag": "bag | right(a black bag)",
    "person on the right side of the bus": "person | right(the bus)", "cup above the plate": "cup | above(the plate)",
    "lamp over the table": "lamp | above(the table)", "cup on top of the table": "cup | above(the table)",
    "truck behind the men": "truck | above(the men)", "dog right behind a man": "dog | above(a man)",
    "dog under the table": "dog | below(the table)", "woman in front of the car": "woman | below(the car)",
    "the star higher than the ring": "the star | above(the ring)",
    "the dog bigger than the cat": "the dog | bigger(the cat)", "apple inside the bowl": "apple | inside(the bowl)",
    "man next to the lady": "man | near(the lady)", "the girl beside a boy": "the girl | near(a boy)",
    "cup closest to the plate": "cup | near(the plate)",
    "the red ring nearest the cross": "the red ring | near(the cross)",
    "car furthest from the meters": "car | far(the meters)", "left of the car": "_ | left(the car)",
    # several at once
    "the second man from the left behind a red car": "the man | 2 left | above(a red car)",
    "woman facing away on left in back": "woman facing away | left, top",
    "top right cup beside the glass": "cup | top+right | near(the glass)",
    "man to the left of the woman on the right": "man | left(the woman | right)",
    "man next to the lady in red, on left": "man | left | near(the lady in red)",
    "cat under the table behind the chair": "cat | below(the table | above(the chair))",
    "closest to the right": "_ | right", "metal chair in front of green one": "metal chair | below(green one)",
    # words of place that say no place
    "man facing left": "man facing left", "a skier leaning to the left": "a skier leaning to the left",
    "his right hand": "his right hand", "small stain on the man's left leg": "stain on the man's left leg | small",
    "woman in blue top": "woman in blue top",
    "the cat on the back of the toilet": "the cat on the back of the toilet",
    "the back side of the truck": "the back side of the truck", "man with his back to us": "man with his back to us",
    "a person bent over": "a person bent over", "a sofa with a towel draped over it": "a sofa with a towel draped",
}  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_meant(expression):
    assert line(parse(expression)) == EXPRESSIONS[expression]
    assert parse(expression).plain == ("|" not in EXPRESSIONS[expression])


@pytest.mark.parametrize(
    "odd", ["", "   ", ",", "⭐🔴", "النجمة الحمراء", "left left left", "of the", "in front of", "1 2 3"]
)
def test_anything_can_be_read(odd):
    assert isinstance(parse(odd), Phrase)


def test_stops_and_case_do_not_matter():
    assert normalised("Find the MAN’s hat; (left!)") == "the man's hat , , left ,"
    assert parse("The man. LEFT!") == parse("the man, left")


def test_every_name_is_listed_for_the_encoder():
    assert list(parse("cup left of the plate above a red tray").texts()) == ["cup", "the plate", "a red tray"]
    assert list(parse("left of the plate").texts()) == ["the plate"]


KINDS = {
    "attribute": lambda p: p.plain,
    "comparison": lambda p: [t for t, _ in p.superlatives] in ([("big",)], [("small",)]) and not p.relations,
    "location": lambda p: len(p.superlatives) == 1 and not p.relations,
    "ordinal": lambda p: len(p.superlatives) == 1 and not p.relations,
    "relation": lambda p: len(p.relations) == 1 and not p.superlatives and p.relations[0][1].plain,
}


@pytest.mark.slow
def test_the_embedded_data_is_read_without_a_mistake():
    for index in range(150):
        for expression in make_scene(7, "train", index).expressions:
            assert KINDS[expression.kind](parse(expression.text)), expression.text


@pytest.mark.slow
@pytest.mark.parametrize(("name", "plain"), [("unc", 0.34), ("gref_umd", 0.64), ("referit", 0.44)])
def test_real_expressions(real, name, plain):
    """Every name is made of the expression's own words, and as many expressions compare as when this was written."""
    scenes = read_index_list(real / "index" / f"{name}_val.pth", name)
    texts = [e.text for scene in scenes for e in scene.expressions]
    phrases = [parse(text) for text in texts]
    for text, phrase in zip(texts, phrases, strict=True):
        used = Counter(re.findall(r"\w+", " ".join(phrase.texts())))
        assert not used - Counter(re.findall(r"\w+", normalised(text))), text
    assert abs(sum(p.plain for p in phrases) / len(phrases) - plain) < 0.03
