"""The caption source: which boxes get a caption, files of captions, composed ones, and the embedded data."""

import json
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from bench.errors import DataError, SettingsError, UnknownName, WeightsError
from clipvg.pseudo_labels.caption import caption, composed
from clipvg.pseudo_labels.caption_files import read_captions
from clipvg.pseudo_labels.chunks import read
from clipvg.pseudo_labels.predicates import meanings
from clipvg.pseudo_labels.pseudo_q_files import Detection

OBJECTS = {"objects": {"proposer": {"kind": "spoken"}}}
DOG, CAT, DOG2 = (10, 10, 60, 60), (100, 10, 150, 60), (10, 200, 60, 250)


def from_file(tmp_path, *rows, **options):
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"image": i, "caption": c}) for i, c in rows))
    return OBJECTS | {"kind": "file", "file": str(tmp_path / "c.jsonl")} | options


def test_every_box_of_the_class_gets_the_whole_caption(blank_job, spoken, tmp_path):
    spoken({"1": [("dog", DOG, 0.9), ("cat", CAT, 0.8), ("dog", DOG2, 0.7)], "3": [("cat", CAT, 0.9)]})
    options = from_file(tmp_path, ("1.jpg", "A brown dog  next to a cat."), ("3.jpg", "a dog"), ("9.jpg", "a cat"))
    labels = list(caption(blank_job(options)))
    assert [(x.scene.id, x.text, x.box) for x in labels] == [
        ("1", "A brown dog next to a cat.", DOG),
        ("1", "A brown dog next to a cat.", DOG2),
    ]
    assert labels[1].provenance == {
        "source": "caption",
        "detector": "spoken.pt",
        "score": 0.7,
        "caption_model": "c.jsonl",
        "noun": "dog",
        "class": "dog",
        "entities": 2,
    }
    assert len(list(caption(blank_job(options | {"nouns": "any"})))) == 3
    synonyms = {"synonyms": {"cat": ["dog"]}}
    assert [x.scene.id for x in caption(blank_job(options | synonyms))] == ["1", "1", "3"]


def test_at_most_so_many_and_which_is_the_images_own_chance(blank_job, spoken, tmp_path):
    boxes = [("dog", (10 * i, 10, 10 * i + 9, 60), 0.9 - i / 100) for i in range(12)]
    spoken({"1": boxes, "2": boxes})
    options = from_file(tmp_path, ("1.jpg", "many dogs"), ("2.jpg", "many dogs"))
    labels = list(caption(blank_job(options)))
    assert Counter(x.scene.id for x in labels) == {"1": 6, "2": 6}
    first, second = ([x.box for x in labels if x.scene.id == i] for i in "12")
    assert first != second and len(set(first)) == 6
    assert [x.box for x in caption(blank_job(options, ("2.jpg",)))] == second
    assert [x.box for x in caption(blank_job(options, ("2.jpg",), seed=1))] != second


def test_files_of_captions(tmp_path):
    rows = [
        {"image_id": 9, "image_file": "COCO_train2014_000000000009.jpg", "captions": " a dog "},
        {"image_id": 25, "captions": ["a cat", "another"]},
    ]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    torch.save(rows, tmp_path / "unc_caption_data.pth")
    plain = "\n".join(json.dumps(r) for r in ({"image": "b/000000000009.jpg", "caption": "a dog"}, rows[1]))
    (tmp_path / "c.jsonl").write_text(plain)
    for file in ("c.json", "c.jsonl", "unc_caption_data.pth"):
        assert read_captions(tmp_path / file) == {"9": "a dog", "25": "a cat"}


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([1], "row 0: 1; expected an object"),
        ([{"caption": "a"}], "row 0: it names no image; expected one of the keys image, image_file, image_id"),
        ([{"image": "a.jpg"}], "row 0: it has no caption; expected one of the keys caption, captions"),
        ([{"image": "a.jpg", "captions": []}], "row 0: it has no caption"),
        ([{"image": "a.jpg", "caption": 3}], "row 0: the expression should be text"),
        ([{"image": "a.jpg", "caption": " "}], "row 0: the expression is empty"),
        ([{"image": "a.jpg", "caption": "x"}, {"image": "b/a.png", "caption": "y"}], "row 1: image a has .* row 0"),
        ({"a.jpg": "x"}, "expected a list of rows"),
        ([], "it holds no captions"),
    ],
)
def test_wrong_rows_are_named(tmp_path, rows, said):
    (tmp_path / "c.json").write_text(json.dumps(rows))
    torch.save(rows, tmp_path / "c.pth")
    for file in ("c.json", "c.pth"):
        with pytest.raises(DataError, match=rf"{file}.*{said}"):
            read_captions(tmp_path / file)


def test_wrong_files_are_named_and_not_executed(tmp_path, capsys):
    (tmp_path / "c.json").write_text("[")
    (tmp_path / "c.jsonl").write_text('{"image": "a", "caption": "b"}\n{')
    torch.save([Harmful()], tmp_path / "c.pth")
    for file, said in (("c.json", "not JSON"), ("c.jsonl", "line 2"), ("c.pth", "nothing in it was executed")):
        with pytest.raises(DataError, match=said):
            read_captions(tmp_path / file)
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(DataError, match="cannot be read"):
        read_captions(tmp_path / "none.json")


def things(*said):
    return [Detection(name, box, 0.9, attribute) for attribute, name, box in said]


LEFT_ON_TOP = meanings(["left of", "right of", "above", "below"])
RED, BLUE, GREEN = ("red", "star", (0, 0, 50, 50)), ("blue", "star", (100, 0, 110, 50)), ("", "heart", (0, 90, 9, 99))


def test_composed_sentences():
    said = {composed(things(RED, BLUE, GREEN), LEFT_ON_TOP, random.Random(i)) for i in range(60)}
    assert "a red star left of a blue star and above a heart" in said
    assert "a red star above a heart and left of a blue star" in said
    assert any(text.startswith("a heart below a red star") for text in said)
    alone = composed(things(RED), LEFT_ON_TOP, random.Random(0))
    assert alone == "a red star" and composed([], LEFT_ON_TOP, random.Random(0)) == ""
    two = things(("", "cross", (0, 0, 50, 50)), ("", "cross", (0, 60, 50, 110)), ("", "orange", (100, 0, 150, 110)))
    assert {composed(two, LEFT_ON_TOP, random.Random(i)) for i in range(20)} == {
        "two crosses left of an orange",
        "an orange right of two crosses",
    }
    one_way = things(RED, ("", "heart", (100, 0, 150, 50)), ("", "moon", (200, 0, 250, 50)))
    said = {composed(one_way, LEFT_ON_TOP, random.Random(i)) for i in range(60)}
    assert "a red star left of a heart and a moon" in said
    assert {composed(things(RED, BLUE), {}, random.Random(i)) for i in range(20)} >= {"a red star and a blue star"}
    assert composed(things(RED, BLUE, GREEN), LEFT_ON_TOP, random.Random(0), others=0).count("star") <= 1


def test_composed_captions_are_about_the_large_more_often():
    heads = Counter(composed(things(RED, BLUE), {}, random.Random(i)).split(" and ")[0] for i in range(300))
    assert heads["a red star"] > 3 * heads["a blue star"] > 0


def test_what_is_composed_is_read_again():
    for i in range(20):
        text = composed(things(RED, BLUE, GREEN), meanings(["to the left of", "on top of", "above"]), random.Random(i))
        assert read(text).entities == 3 and read(text).head == 0


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"kind": "file"}, SettingsError, 'kind = "file" needs `file`'),
        ({"kind": "file", "file": "none.json"}, DataError, r"\[label.x\]: file: there is no file 'none.json'"),
        ({"kind": "files"}, SettingsError, "kind"),
        ({"kind": "detections", "predicates": ["riding"]}, UnknownName, "riding"),
        ({"model": "nobody/nothing"}, WeightsError, "caption model: nobody/nothing is not in"),
        ({"per_images": 3}, SettingsError, "did you mean 'per_image'"),
    ],
)
def test_wrong_options_are_named(blank_job, spoken, options, kind, said):
    spoken({})
    with pytest.raises(kind, match=said):
        caption(blank_job(OBJECTS | options))


def test_a_file_about_other_images(blank_job, spoken, tmp_path):
    spoken({})
    with pytest.raises(DataError, match=r"c.jsonl: has nothing about any of the 3 images"):
        caption(blank_job(from_file(tmp_path, ("8.jpg", "a dog"))))


def test_on_the_embedded_data(shapes_job):
    """One caption an image, about the class of each box that got it, and the same one by one."""
    labels = list(caption(shapes_job("caption", 10)))
    by_image = Counter(label.scene.id for label in labels)
    assert len(by_image) >= 9 and max(by_image.values()) <= 6
    assert len({(x.scene.id, x.text) for x in labels}) == len(by_image)
    for label in labels:
        said = label.provenance
        assert said["class"] in said["noun"] and said["noun"] in label.text and 1 <= said["entities"] <= 3
    job = shapes_job("caption", 10)
    alone = [label for scene in job.scenes for label in caption(replace(job, scenes=[scene]))]
    assert [(x.text, x.scene.id) for x in alone] == [(x.text, x.scene.id) for x in labels]
