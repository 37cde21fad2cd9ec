"""The caption source: which boxes get a caption, files of captions, composed ones, and the embedded data."""

import json
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from bench.errors import DataError, SettingsError, UnknownName, WeightsError
from clipvg.pseudo_labels.caption import caption, compose
from clipvg.pseudo_labels.chunks import entities, parse_caption
from clipvg.pseudo_labels.detection_files import Detection
from clipvg.pseudo_labels.given_files import read_captions
from clipvg.pseudo_labels.predicates import meanings

OBJECTS = {"objects": {"proposer": {"kind": "fixed"}}}
DOG, CAT, DOG2 = (10, 10, 60, 60), (100, 10, 150, 60), (10, 200, 60, 250)


def from_file(tmp_path, *rows, **options):
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"image": i, "caption": c}) for i, c in rows))
    return OBJECTS | {"kind": "file", "file": str(tmp_path / "c.jsonl")} | options


def test_every_box_of_the_class_gets_the_whole_caption(blank_job, propose, tmp_path):
    propose({"1": [("dog", DOG, 0.9), ("cat", CAT, 0.8), ("dog", DOG2, 0.7)], "3": [("cat", CAT, 0.9)]})
    options = from_file(tmp_path, ("1.jpg", "A brown dog  next to a cat."), ("3.jpg", "a dog"), ("9.jpg", "a cat"))
    labels = list(caption(blank_job(options)))
    assert [(x.scene.id, x.text, x.box) for x in labels] == [
        ("1", "A brown dog next to a cat.", DOG),
        ("1", "A brown dog next to a cat.", DOG2),
    ]
    assert labels[1].provenance == {
        "source": "caption",
        "detector": "fixed.pt",
        "score": 0.7,
        "caption_model": "c.jsonl",
        "noun": "dog",
        "class": "dog",
        "entities": 2,
    }
    assert len(list(caption(blank_job(options | {"nouns": "any"})))) == 3
    synonyms = {"synonyms": {"cat": ["dog"]}}
    assert [x.scene.id for x in caption(blank_job(options | synonyms))] == ["1", "1", "3"]


def test_at_most_so_many_and_each_image_draws_for_itself(blank_job, propose, tmp_path):
    boxes = [("dog", (10 * i, 10, 10 * i + 9, 60), 0.9 - i / 100) for i in range(12)]
    propose({"1": boxes, "2": boxes})
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
    ("rows", "message"),
    [([1], "row 0: 1; expected an object"),
     ([{"caption": "a"}], "row 0: it names no image; expected one of the keys image, image_file, image_id"),
     ([{"image": "a.jpg"}], "row 0: it has no caption; expected one of the keys caption, captions"),
     ([{"image": "a.jpg", "captions": []}], "row 0: it has no caption"),
     ([{"image": "a.jpg", "caption": 3}], "row 0: the expression should be text"),
     ([{"image": "a.jpg", "caption": " "}], "row 0: the expression is empty"),
     ([{"image": "a.jpg", "caption": "x"}, {"image": "b/a.png", "caption": "y"}], "row 1: image a has .* row 0"),
     ({"a.jpg": "x"}, "expected a list of rows"), ([], "it holds no captions")],
)  # fmt: skip
def test_wrong_rows_are_named(tmp_path, rows, message):
    (tmp_path / "c.json").write_text(json.dumps(rows))
    torch.save(rows, tmp_path / "c.pth")
    for file in ("c.json", "c.pth"):
        with pytest.raises(DataError, match=rf"{file}.*{message}"):
            read_captions(tmp_path / file)


def test_wrong_files_are_named_and_not_executed(tmp_path, capsys):
    torch.save([Harmful()], tmp_path / "c.pth")
    with pytest.raises(DataError, match="nothing in it was executed"):
        read_captions(tmp_path / "c.pth")
    assert "executed" not in capsys.readouterr().out


def detections(*rows):
    return [Detection(name, box, 0.9, attribute) for attribute, name, box in rows]


FOUR = meanings(["left of", "right of", "above", "below"])
RED, BLUE, GREEN = ("red", "star", (0, 0, 50, 50)), ("blue", "star", (100, 0, 110, 50)), ("", "heart", (0, 90, 9, 99))


def sentences(*rows, predicates=FOUR, count=60, **options):
    return Counter(compose(detections(*rows), predicates, random.Random(i), **options) for i in range(count))


@pytest.mark.slow
def test_composed_sentences():
    texts = sentences(RED, BLUE, GREEN).keys()
    assert {
        "a red star left of a blue star and above a heart",
        "a red star above a heart and left of a blue star",
    } < texts
    assert any(text.startswith("a heart below a red star") for text in texts)
    assert sentences(RED).keys() == {"a red star"} and sentences().keys() == {""}
    two = sentences(("", "cross", (0, 0, 50, 50)), ("", "cross", (0, 60, 50, 110)), ("", "orange", (100, 0, 150, 110)))
    assert two.keys() == {"two crosses left of an orange", "an orange right of two crosses"}
    one_way = sentences(RED, ("", "heart", (100, 0, 150, 50)), ("", "moon", (200, 0, 250, 50)))
    assert "a red star left of a heart and a moon" in one_way
    assert "a red star and a blue star" in sentences(RED, BLUE, predicates={})
    assert sentences(RED, BLUE, GREEN, others=0).keys() == {"a red star", "a blue star", "a heart"}
    # The large are what captions are about more often; what is composed is parsed again.
    heads = sentences(("red", "star", (0, 0, 50, 50)), BLUE, predicates={}, count=300)
    assert heads["a red star and a blue star"] > 3 * heads["a blue star and a red star"] > 0
    for text in sentences(RED, BLUE, GREEN, predicates=meanings(["to the left of", "on top of", "above"])):
        chunks, head = parse_caption(text)
        assert entities(chunks) == 3 and head == 0


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [({"kind": "file"}, SettingsError, 'kind = "file" needs `file`'),
     ({"kind": "file", "file": "none.json"}, DataError, r"\[label.x\]: file: there is no file 'none.json'"),
     ({"kind": "files"}, SettingsError, "kind"),
     ({"kind": "detections", "predicates": ["riding"]}, UnknownName, "riding"),
     ({"model": "nobody/nothing"}, WeightsError, r"(?s)nobody/nothing are not there.*hf download nobody/"),
     ({"per_images": 3}, SettingsError, "did you mean 'per_image'")],
)  # fmt: skip
def test_wrong_options_are_named(blank_job, propose, options, kind, message):
    propose({})
    with pytest.raises(kind, match=message):
        caption(blank_job(OBJECTS | options))


@pytest.mark.slow
def test_on_the_embedded_data(shapes_job):
    """One caption an image, about the class of each box that got it, and the same one by one."""
    job = shapes_job("caption", 10)
    labels = list(caption(job))
    by_image = Counter(label.scene.id for label in labels)
    assert len(by_image) >= 9 and max(by_image.values()) <= 6
    assert len({(x.scene.id, x.text) for x in labels}) == len(by_image)
    for label in labels:
        row = label.provenance
        assert row["class"] in row["noun"] and row["noun"] in label.text and 1 <= row["entities"] <= 3
    alone = [label for scene in job.scenes for label in caption(replace(job, scenes=[scene]))]
    assert [(x.text, x.scene.id) for x in alone] == [(x.text, x.scene.id) for x in labels]
