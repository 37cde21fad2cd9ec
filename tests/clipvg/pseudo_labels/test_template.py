"""The template source: word lists, every template, the choice of objects, and whole jobs."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.datasets.shapes.rng import Rng
from bench.errors import DataError, SettingsError
from bench.settings import merged
from clipvg.pseudo_labels.detection_files import Detection
from clipvg.pseudo_labels.template import (
    TemplateOptions,
    draw,
    most_confident,
    noun,
    phrases,
    read_words,
    referents,
    template,
)

SIZE, WORDS, PUBLISHED = (640, 480), read_words(), TemplateOptions()
EVERYTHING = TemplateOptions(per_image=1000, top_n=1000)


def obj(name, x=100.0, y=100.0, confidence=0.9, half=50.0, **more):
    return Detection(name, (x - half, y - half, x + half, y + half), confidence, **more)


def drawn(detections, options=EVERYTHING):
    """The text and box of each phrase drawn for an image."""
    chosen = most_confident(*referents(detections, SIZE, options, WORDS), options.top_n)
    return [(phrase["text"], d.box) for d, phrase in draw(chosen, options, Rng("test"))]


def test_people_garments_and_objects_are_told_apart():
    names = ("man", "person", "helmet", "tie", "jeans", "boots", "dog", "wall", "elephant")
    assert [WORDS.get(name, "objects") for name in names] == [
        "people", "people", "hat", "shirt", "pants", "shoes", "objects", "objects", "objects",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [("people = [", "no word lists that can be read"), ('trousers = ["jeans"]', "the list 'trousers' is not known"),
     ('people = "man"', "people should be a list"), ('people = ["man", 3]', "people should be a list"),
     ('hat = ["scarf"]\nshirt = ["Scarf"]', "'Scarf' is in hat and in shirt")],
)  # fmt: skip
def test_word_lists_of_ones_own_are_checked(tmp_path, text, message):
    (tmp_path / "words.toml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_words(tmp_path / "words.toml")


@pytest.mark.parametrize(
    ("arguments", "start", "texts"),
    [
        (("red car", ()), 0, ["red car"]),
        (("red car", ("left",)), 0, ["red car", "red car left", "red car on the left", "left red car"]),
        (("car", ("behind",)), 1, ["car behind", "car in the behind", "behind car"]),
        (("car", ("top",)), 1, ["car top", "top car"]),
        (("man", (), ("red hat",)), 0, ["man", "man red hat", "red hat man"]),
        (
            ("man", ("left",), ("hat",)),
            6,
            [
                "man hat left", "man left hat", "hat man left", "hat left man", "left man hat", "left hat man",
                "man hat on the left", "man on the left hat", "hat man on the left",
            ],
        ),
    ],
)  # fmt: skip
def test_every_template(arguments, start, texts):
    assert [phrase["text"] for phrase in phrases(*arguments)][start:] == texts


def test_a_phrase_comes_with_what_it_was_made_of():
    assert {p["template"] for p in phrases("car", ("middle",))} == {"n", "n r", "n in the r", "r n"}
    every = list(phrases("man", ("left", "top"), ("hat", "coat")))
    assert len(every) == 1 + 3 + 2 + 2 * 2 + 2 * 9 + 2 * 6
    by_text = {p["text"]: tuple(p.values())[1:] for p in phrases("man", ("front",), ("hat",))}
    assert by_text["man in the front hat"] == ("n in the r a", "front", "hat")
    assert by_text["man"] == ("n", "", "") and by_text["hat man"] == ("a n", "", "hat")


@pytest.mark.parametrize(
    ("name", "attribute", "text"),
    [("Dog", "", "dog"), ("star", "striped red", "striped red star"), ("brick wall", "brick", "brick wall"),
     ("orange", "orange", "orange"), ("red brick wall", "brick", "brick red wall")],
)  # fmt: skip
def test_attributes_go_before_the_class_and_no_word_comes_twice(name, attribute, text):
    assert noun(obj(name, attribute=attribute)) == text


def test_small_and_overlapping_people_and_objects_are_dropped_within_their_group():
    tiny = obj("tie", 300, 200, half=5)
    image = [obj("person", 300, 240, half=200), tiny, obj("dog", 50, 50, half=20), obj("cat", 560, 60)]
    assert Counter(text for text, _ in drawn(image)) == Counter(["person", "person tie", "tie person", "cat"])
    same = [obj("man", confidence=0.5), obj("woman", confidence=0.9), obj("dog", confidence=0.4)]
    assert [text for text, _ in drawn(same)] == ["woman", "dog"]


def test_garments_are_given_to_who_wears_them():
    left, right = Detection("man", (0, 0, 200, 400), 0.9), Detection("woman", (400, 0, 600, 400), 0.8)
    hat = Detection("hat", (60, 0, 140, 60), 0.7, "red", 0.9)
    low_hat, skirt = Detection("cap", (460, 300, 540, 360), 0.7), Detection("skirt", (420, 250, 580, 390), 0.6)
    people, _ = referents([left, right, hat, low_hat, skirt], SIZE, PUBLISHED, WORDS)
    assert {person.name: garments for person, _, garments in people} == {"man": ("red hat",), "woman": ("skirt",)}


def test_places_are_among_those_of_the_same_class():
    image = [obj("dog", 100), obj("dog", 500), obj("cat", 320), obj("cow", 300, 350, half=70)]
    by = {d.box: spatial for group in referents(image, SIZE, PUBLISHED, WORDS) for d, spatial, _ in group}
    assert [by[d.box] for d in image] == [("left",), ("right",), (), ()]


def test_the_most_confident_few_are_chosen_people_first():
    image = [obj("dog", 60), obj("man", 200, confidence=0.3), obj("cat", 340), obj("cow", 480, confidence=0.95)]
    names = [d.name for d, _, _ in most_confident(*referents(image, SIZE, PUBLISHED, WORDS), 3)]
    assert names == ["man", "cow", "dog"]
    assert [t for t, _ in drawn([obj("dog", 100), obj("cat", 500)], PUBLISHED)] == ["dog", "cat"], "few: all, in order"


def test_the_same_phrase_for_the_same_box_is_drawn_twice_only_officially():
    wearer = Detection("man", (0, 0, 200, 400), 0.9)
    shoes = [Detection("shoe", (x, 380, x + 40, 400), 0.5) for x in (20, 120)]
    for official in (False, True):
        options = EVERYTHING.model_copy(update={"official": official})
        assert Counter(t for t, _ in drawn([wearer, *shoes], options))["man shoe"] == 1 + official


NAMES = st.sampled_from(["man", "woman", "dog", "car", "hat", "shirt", "pants", "shoes"])
SPOTS = st.tuples(NAMES, st.integers(40, 600), st.integers(40, 440), st.integers(5, 150))
IMAGES = st.lists(SPOTS, max_size=12)


def detections(rows):
    """No two equally confident, so that "the most confident" means something."""
    return [
        Detection(name, (max(0, x - s), max(0, y - s), min(640, x + s), min(480, y + s)), 0.9 - i / 20)
        for i, (name, x, y, s) in enumerate(rows)
    ]


@pytest.mark.slow
@given(IMAGES, st.integers(1, 8), st.integers(1, 6))
def test_at_most_so_many_phrases_none_empty_every_box_a_detection_of_its_class(rows, per_image, top_n):
    image = detections(rows)
    options = TemplateOptions(per_image=per_image, top_n=top_n)
    made = drawn(image, options)
    assert len(made) <= per_image and len({box for _, box in made}) <= top_n and len(set(made)) == len(made)
    for text, box in made:
        assert text.strip() == text != ""
        assert any(d.box == box and d.name in text.split() for d in image)


ROWS = {
    "1": [("dog", (0, 0, 200, 200), 0.9), ("dog", (400, 200, 600, 400), 0.8), ("car", (220, 0, 390, 150), 0.7)],
    "2": [("person", (100, 20, 300, 420), 0.9), ("tie", (180, 120, 220, 220), 0.6)],
    "3": [],
}


def rows_of(job):
    return [(label.scene.id, label.text, label.box, dict(label.provenance)) for label in template(job)]


def test_a_job_gives_phrases_with_their_making(blank_job, propose):
    propose(ROWS)
    made = rows_of(blank_job())
    assert [scene for scene, *_ in made] == ["1"] * 6 + ["2"] * 3
    for _, text, box, provenance in made:
        assert provenance["source"] == "template" and provenance["detector"] == "fixed.pt"
        (row,) = [r for r in ROWS["1"] + ROWS["2"] if r[1] == box]
        assert (provenance["class"], provenance["score"]) == (row[0], row[2])
        assert provenance["noun"] in text and provenance["spatial"] in text and provenance["garment"] in text
        assert provenance["entities"] == (2 if provenance["garment"] else 1)
    assert [text for _, text, *_ in made[6:]] == ["person", "person tie", "tie person"]
    assert made[7][3]["template"] == "n a" and made[7][3]["garment"] == "tie"


def test_an_image_gets_the_same_phrases_whatever_goes_before_it(blank_job, propose):
    propose(dict.fromkeys("123", ROWS["1"]))
    whole = rows_of(blank_job())
    job = blank_job()
    assert rows_of(replace(job, scenes=job.scenes[2:])) == [r for r in whole if r[0] == "3"]
    batched = {"objects": {"proposer": {"kind": "fixed"}, "batch_size": 1}}
    assert rows_of(blank_job(batched)) == whole
    assert rows_of(blank_job()) == whole
    texts = [[r[1] for r in whole if r[0] == n] for n in "123"]
    assert texts[0] != texts[1]  # each image draws for itself
    assert rows_of(blank_job(seed=1)) != whole


def test_options_and_files_are_checked_before_the_first_image(blank_job, tmp_path):
    with pytest.raises(SettingsError, match=r"\[label.x\]: unknown key 'topn'; did you mean 'top_n'"):
        template(blank_job({"topn": 3}))
    with pytest.raises(SettingsError, match=r"\[label.x\].objects: nothing detects the objects"):
        template(blank_job({"top_n": 3}))
    (tmp_path / "mine.toml").write_text('people = ["dog"]')
    torch.save({"1.jpg": [["dog", [0, 0, 200, 400, 0.9]], ["hat", [50, 0, 100, 40, 0.8]]]}, tmp_path / "some.pth")
    options = {"objects": {"detections": "some.pth"}, "words": "mine.toml", "smallest": 0.0}
    assert [label.text for label in template(blank_job(options, files=["1.jpg"]))] == ["dog", "hat"]


@pytest.mark.slow
def test_the_shipped_table_labels_shapes(shapes_job):
    job = shapes_job("template", 10)
    made = list(template(job))
    assert 45 < len(made) <= 60 and all(label.provenance["detector"] == "tiny-yolo.safetensors" for label in made)
    right = []
    for label in made:
        true = {each.box: set(each.description.split()) for each in label.scene.objects}
        nearest = min(true, key=lambda box: sum(abs(a - b) for a, b in zip(box, label.box, strict=True)))
        right.append(set(label.provenance["noun"].split()) <= true[nearest])
    assert sum(right) > 0.85 * len(right)
    assert len({label.provenance["template"] for label in made}) >= 5
    single = list(template(replace(job, options=merged(job.options, {"objects": {"batch_size": 1}}))))
    assert [(label.scene.id, label.text) for label in single] == [(label.scene.id, label.text) for label in made]
    for one, other in zip(made, single, strict=True):
        assert one.box == pytest.approx(other.box, abs=0.01)
