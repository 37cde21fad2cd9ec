"""The relation source: from detections by geometry and by CLIP, from files, on the embedded data."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.datasets.shapes.layout import make_layout
from bench.errors import DataError, SettingsError, UnknownName
from clipvg.pseudo_labels.predicates import close_pairs, score_pairs
from clipvg.pseudo_labels.relation import relation

DOG, CAT, BALL = (10, 10, 60, 60), (100, 10, 150, 60), (10, 200, 60, 250)
OBJECTS = {"objects": {"proposer": {"kind": "fixed"}}}
GEOMETRY = OBJECTS | {"geometry": ["left of", "right of", "above", "below"], "looked": []}


def texts(labels):
    return [label.text for label in labels]


def test_by_geometry(blank_job, propose):
    propose({"1": [("dog", DOG, 0.9), ("cat", CAT, 0.5)], "3": [("dog", DOG, 0.9)]})
    labels = list(relation(blank_job(GEOMETRY)))
    assert [(x.scene.id, x.text, x.box) for x in labels] == [
        ("1", "dog left of cat", DOG),
        ("1", "cat right of dog", CAT),
    ]
    assert json.loads(json.dumps(labels[1].provenance)) == {
        "source": "relation",
        "detector": "fixed.pt",
        "score": 0.45,
        "subject": "cat",
        "predicate": "right of",
        "object": "dog",
        "object_box": list(DOG),
        "scores": [0.5, 1.0, 0.9],
        "predicate_by": "geometry",
        "entities": 2,
    }


def test_the_least_sure_decides_and_ambiguous_words_stay_unless_unique(blank_job, propose):
    propose({"1": [("dog", DOG, 0.9), ("cat", CAT, 0.5), ("ball", BALL, 0.2)]})
    assert all("ball" not in text for text in texts(relation(blank_job(GEOMETRY))))
    assert any("ball" in text for text in texts(relation(blank_job(GEOMETRY | {"min_score": 0.19}))))
    propose({"1": [("dog", DOG, 0.9), ("dog", BALL, 0.9), ("cat", (300, 10, 350, 60), 0.9)]})
    options = GEOMETRY | {"geometry": ["left of"]}
    assert texts(relation(blank_job(options))) == ["dog left of cat"] * 2
    assert texts(relation(blank_job(options | {"unique": True}))) == []


def test_each_image_draws_its_wordings_for_itself(blank_job, propose):
    propose({str(i): [("dog", DOG, 0.9), ("cat", CAT, 0.5)] for i in range(40)})
    options = GEOMETRY | {"geometry": ["left of", "to the left of"]}
    files = tuple(f"{i}.jpg" for i in range(40))
    every = texts(relation(blank_job(options, files)))
    assert {*every} == {"dog left of cat", "dog to the left of cat"}
    assert texts(relation(blank_job(options, files[30:]))) == every[30:]
    assert texts(relation(blank_job(options, files, seed=1))) != every


class Encoder:
    """A CLIP for which every crop shows one text; `crops` are the views it encoded, in `calls` calls."""

    image_size, device, scale = 4, torch.device("cpu"), 20.0

    def __init__(self, text):
        self.text, self.crops, self.calls = text, [], 0

    def encode_images(self, views):
        self.calls += 1
        self.crops += list(views)
        return self.encode_texts([self.text] * len(views))

    def encode_texts(self, texts):
        return torch.stack([torch.eye(2)[0 if text == self.text else 1] for text in texts])


def test_clip_scores_both_directions_of_each_pair_in_one_call():
    encoder, image = Encoder("cat likes dog!"), np.zeros((100, 200, 3), np.uint8)
    names, boxes, pairs = ("dog", "cat"), np.array([DOG, CAT], float), np.array([[0, 1]])
    nothing = (image, (), np.zeros((0, 4)), np.zeros((0, 2), int))
    batch = [(image, names, boxes, pairs), nothing, (image, names[::-1], boxes[::-1], pairs)]
    one, none, two = score_pairs(batch, ["likes", "eats"], "{}!", encoder)
    assert one.shape == (1, 2, 2) and none.shape == (0, 2, 2)
    assert one.sum() == pytest.approx(1)
    assert min(one[0, 1, 0], two[0, 0, 0]) > 0.99, "the cat is second of one pair, and first of the other"
    assert encoder.calls == 1 and len(encoder.crops) == 2
    assert [scores.shape for scores in score_pairs([nothing], ["likes"], "{}", encoder)] == [(0, 2, 1)]


def test_direction_of_a_pair(monkeypatch, blank_job, propose):
    """Whichever of the two is first in the list, the one that rides by CLIP is the subject."""
    monkeypatch.setattr("clipvg.pseudo_labels.relation.ClipEncoder", lambda *_: Encoder("a man riding horse"))
    options = OBJECTS | {"geometry": [], "looked": ["riding", "on"], "prompt": "a {}"}
    man, horse = ("man", (50, 10, 90, 90), 0.9), ("horse", (20, 60, 140, 160), 0.8)
    propose({"1": [man, horse], "2": [("horse", horse[1], 0.9), ("man", man[1], 0.8)]})
    labels = list(relation(blank_job(options)))
    assert [(x.text, x.box, x.provenance["predicate_by"]) for x in labels] == [("man riding horse", man[1], "clip")] * 2


def test_crops_show_both():
    encoder, image = Encoder("x"), np.zeros((300, 200, 3), np.uint8)
    image[10:60, 10:60, 0], image[10:60, 100:150, 1], image[70:, :, 2] = 255, 255, 255
    boxes = np.array([BALL, CAT, DOG], float)
    score_pairs([(image, ("ball", "cat", "dog"), boxes, np.array([[1, 2]]))], ["likes"], "{}", encoder)
    red, green, blue = encoder.crops[0].unbind()  # (4, 4) each
    assert red[:, 0].min() > 0.7 and red[:, 2:].max() < 0.3
    assert green[:, 3].min() > 0.7 and green[:, :2].max() < 0.3
    assert blue.max() < 0.3


def test_close_pairs():
    boxes = np.array([DOG, (20, 20, 40, 40), (70, 10, 120, 60), (400, 400, 420, 420)], float)
    pairs = close_pairs(boxes, [0.9, 0.9, 0.5, 1.0], 10)
    assert pairs[0].tolist() == [0, 1]  # one in the other is close
    assert [0, 2] in pairs.tolist() and all(3 not in pair for pair in pairs.tolist())
    assert len(close_pairs(boxes, [0.9] * 4, 1)) == 1
    assert close_pairs(boxes[:1], [0.9], 5).shape == (0, 2) and close_pairs(boxes[:0], [], 5).shape == (0, 2)


def graph(tmp_path, **image):
    row = {"subject": "man", "predicate": "on", "object": "horse", "subject_box": [10, 10, 700, 90]}
    entry = {"image": "1.jpg", "triplets": [row, row | {"predicate": "near", "scores": [0.9, 0.1, 0.9]}]}
    (tmp_path / "g.jsonl").write_text(json.dumps(entry | image))
    return {"graph": str(tmp_path / "g.jsonl")}


def test_from_a_scene_graph(blank_job, tmp_path, caplog):
    """Boxes are clipped to the image, whose size only the image has; other images are counted."""
    job = blank_job(graph(tmp_path))
    (label,) = relation(job)
    assert (label.text, label.box) == ("man on horse", (10, 10, 640, 90))
    assert label.provenance["detector"] == "g.jsonl" and label.provenance["predicate_by"] == "file"
    assert "has nothing about 2 of 3 images" in caplog.text
    annotated = replace(job, scenes=[replace(job.scenes[0], width=100, height=50)])
    assert [x.box for x in relation(annotated)] == [(10, 10, 100, 50)]


def test_files_that_do_not_fit(blank_job, tmp_path, caplog):
    with pytest.raises(DataError, match=r"g.jsonl: has nothing about any of the 3 images, such as 1.jpg; it names 8"):
        list(relation(blank_job(graph(tmp_path, image="8.jpg"))))
    with pytest.raises(DataError, match=r"g.jsonl: line 1: triplet 0: the box 10, 10, 700, 90 .* lies outside"):
        list(relation(blank_job(graph(tmp_path), size=(5, 5))))
    assert list(relation(blank_job(graph(tmp_path), bad=["1.jpg"]))) == []
    assert "1.jpg: broken" in caplog.text


def test_from_a_finished_list(blank_job, tmp_path):
    x = "useless placeholder"
    torch.save([["2.jpg", x, [1, 2, 30, 40], "Man on horse", x]], tmp_path / "unc_pseudo.pth")
    job = blank_job({"graph": str(tmp_path / "{dataset}_pseudo.pth")})
    job = replace(job, context=replace(job.context, dataset="unc"))
    (label,) = relation(job)
    assert (label.scene.id, label.text, label.box) == ("2", "Man on horse", (1, 2, 31, 42))


@pytest.mark.parametrize(
    ("options", "message", "kind"),
    [(GEOMETRY | {"geomtry": 1}, "did you mean 'geometry'", SettingsError),
     (GEOMETRY | {"geometry": ["riding"]}, "riding", UnknownName),
     (GEOMETRY | {"phrase": "no place"}, "phrase", SettingsError),
     ({"looked": []}, r"\[label.x\].objects: nothing detects the objects", SettingsError),
     ({"graph": "none.json"}, r"\[label.x\]: graph: there is no file 'none.json'", DataError)],
)  # fmt: skip
def test_wrong_options_are_named(blank_job, options, message, kind):
    with pytest.raises(kind, match=message):
        relation(blank_job(options))


@pytest.mark.slow
def test_on_the_embedded_data(shapes_job):
    """Boxes are objects, phrases name the class of the object in the box, and the same comes out one by one."""
    job = shapes_job("relation", 8)
    labels = list(relation(job))
    assert 40 <= len(labels) <= 80
    right = 0
    for label in labels:
        objects = make_layout(2026, "val", int(label.scene.id[-6:])).objects
        shape = label.provenance["subject"].split()[-1]
        centre = [(label.box[0] + label.box[2]) * 4, (label.box[1] + label.box[3]) * 4]
        right += any(np.hypot(*np.subtract(each.centre, centre)) < 40 and each.shape == shape for each in objects)
        assert label.text.startswith("the ") and label.provenance["detector"] == "tiny-yolo.safetensors"
    assert right >= 0.95 * len(labels)
    alone = [label for scene in job.scenes for label in relation(replace(job, scenes=[scene]))]
    assert [(x.text, x.scene.id) for x in alone] == [(x.text, x.scene.id) for x in labels]
