"""The relation source: from detections by geometry and by CLIP, from files, on the embedded data."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.datasets.shapes.layout import make_layout
from bench.errors import DataError, SettingsError, UnknownName
from clipvg.pseudo_labels.predicates import SeenPredicates, Shown, close_pairs
from clipvg.pseudo_labels.relation import relation

DOG, CAT, BALL = (10, 10, 60, 60), (100, 10, 150, 60), (10, 200, 60, 250)
OBJECTS = {"objects": {"proposer": {"kind": "spoken"}}}
GEOMETRY = OBJECTS | {"geometry": ["left of", "right of", "above", "below"], "looked": []}


def texts(labels):
    return [label.text for label in labels]


def test_by_geometry(blank_job, spoken):
    spoken({"1": [("dog", DOG, 0.9), ("cat", CAT, 0.5)], "3": [("dog", DOG, 0.9)]})
    labels = list(relation(blank_job(GEOMETRY)))
    assert [(x.scene.id, x.text, x.box) for x in labels] == [
        ("1", "dog left of cat", DOG),
        ("1", "cat right of dog", CAT),
    ]
    assert labels[1].provenance == {
        "source": "relation",
        "detector": "spoken.pt",
        "score": 0.45,
        "subject": "cat",
        "predicate": "right of",
        "object": "dog",
        "object_box": list(DOG),
        "scores": [0.5, 1.0, 0.9],
        "predicate_by": "geometry",
        "entities": 2,
    }
    json.dumps(labels[0].provenance)


def test_the_least_sure_thing_decides(blank_job, spoken):
    spoken({"1": [("dog", DOG, 0.9), ("cat", CAT, 0.5), ("ball", BALL, 0.2)]})
    assert all("ball" not in text for text in texts(relation(blank_job(GEOMETRY))))
    assert any("ball" in text for text in texts(relation(blank_job(GEOMETRY | {"min_score": 0.19}))))


def test_ambiguous_words_stay_unless_unique(blank_job, spoken):
    spoken({"1": [("dog", DOG, 0.9), ("dog", BALL, 0.9), ("cat", (300, 10, 350, 60), 0.9)]})
    options = GEOMETRY | {"geometry": ["left of"]}
    assert texts(relation(blank_job(options))) == ["dog left of cat"] * 2
    assert texts(relation(blank_job(options | {"unique": True}))) == []


def test_chance_words_it_the_same_whoever_else_is_asked(blank_job, spoken):
    spoken({str(i): [("dog", DOG, 0.9), ("cat", CAT, 0.5)] for i in range(40)})
    options = GEOMETRY | {"geometry": ["left of", "to the left of"]}
    files = tuple(f"{i}.jpg" for i in range(40))
    said = texts(relation(blank_job(options, files)))
    assert {*said} == {"dog left of cat", "dog to the left of cat"}
    assert texts(relation(blank_job(options, files[30:]))) == said[30:]
    assert texts(relation(blank_job(options, files, seed=1))) != said


class Encoder:
    """A CLIP that sees in a crop what is written in it: the brightness of a pixel names the text it likes."""

    image_size, device, scale = 4, torch.device("cpu"), 20.0

    def __init__(self, likes):
        self.likes, self.shown, self.calls = likes, [], 0

    def encode_images(self, views):
        self.calls += 1
        self.shown += list(views)
        return torch.stack([self.encode_texts([self.likes])[0]] * len(views))

    def encode_texts(self, words):
        torch.manual_seed(0)
        table = torch.eye(64)
        return torch.stack([table[sum(map(ord, word)) % 64] for word in words])


def test_clip_says_what_and_who_does_it_to_whom():
    encoder = Encoder("cat likes dog!")
    seen = SeenPredicates(["likes", "eats"], "{}!", encoder)
    image = np.zeros((100, 200, 3), np.uint8)
    pairs = np.array([[0, 1]])
    names, boxes = ("dog", "cat"), np.array([DOG, CAT], float)
    one, none, two = seen.score(
        [
            Shown(image, names, boxes, pairs),
            Shown(image, (), np.zeros((0, 4)), np.zeros((0, 2), int)),
            Shown(image, names[::-1], boxes[::-1], pairs),
        ]
    )
    assert one.shape == (1, 2, 2) and none.shape == (0, 2, 2)
    assert one.sum() == pytest.approx(1)
    # "dog likes cat" has the same letters: the stand-in cannot tell them apart either, and halves its trust.
    assert one[0, :, 0] == pytest.approx([0.5, 0.5], abs=1e-6)
    assert two[0, :, 0] == pytest.approx([0.5, 0.5], abs=1e-6)
    assert encoder.calls == 1 and len(encoder.shown) == 2


def test_direction_of_a_pair(monkeypatch, blank_job, spoken):
    """Whichever of the two is first in the list, the one that CLIP sees riding is the subject."""

    class Told(Encoder):
        def encode_texts(self, words):
            return torch.stack([torch.eye(2)[0 if word == "a man riding horse" else 1] for word in words])

    monkeypatch.setattr("clipvg.pseudo_labels.relation.ClipEncoder", lambda *_: Told("a man riding horse"))
    options = OBJECTS | {"geometry": [], "looked": ["riding", "on"], "prompt": "a {}"}
    man, horse = ("man", (50, 10, 90, 90), 0.9), ("horse", (20, 60, 140, 160), 0.8)
    spoken({"1": [man, horse], "2": [("horse", horse[1], 0.9), ("man", man[1], 0.8)]})
    labels = list(relation(blank_job(options)))
    assert [(x.text, x.box, x.provenance["predicate_by"]) for x in labels] == [("man riding horse", man[1], "clip")] * 2


def test_crops_hold_both():
    encoder = Encoder("x")
    image = np.zeros((300, 200, 3), np.uint8)
    image[10:60, 10:60, 0], image[10:60, 100:150, 1], image[70:, :, 2] = 255, 255, 255
    boxes = np.array([BALL, CAT, DOG], float)
    names = ("ball", "cat", "dog")
    SeenPredicates(["likes"], "{}", encoder).score([Shown(image, names, boxes, np.array([[1, 2]]))])
    red, green, blue = encoder.shown[0].unbind()  # (4, 4) each
    assert red[:, 0].min() > 0.7 and red[:, 2:].max() < 0.3
    assert green[:, 3].min() > 0.7 and green[:, :2].max() < 0.3
    assert blue.max() < 0.3


def test_the_pairs_worth_looking_at():
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
    """Boxes are clipped to the image, whose size only the image knows; other images are counted."""
    (label,) = relation(blank_job(graph(tmp_path)))
    assert (label.text, label.box) == ("man on horse", (10, 10, 640, 90))
    assert label.provenance["detector"] == "g.jsonl" and label.provenance["predicate_by"] == "file"
    assert "has nothing about 2 of 3 images" in caplog.text
    job = blank_job(graph(tmp_path))
    known = replace(job, scenes=[replace(job.scenes[0], width=100, height=50)])
    assert [x.box for x in relation(known)] == [(10, 10, 100, 50)]


def test_files_that_do_not_fit(blank_job, tmp_path, caplog):
    with pytest.raises(DataError, match=r"g.jsonl: has nothing about any of the 3 images, such as 1.jpg; it names 8"):
        list(relation(blank_job(graph(tmp_path, image="8.jpg"))))
    with pytest.raises(DataError, match=r"g.jsonl: line 1: triplet 0: the box 10, 10, 700, 90 .* lies outside"):
        list(relation(blank_job(graph(tmp_path), size=(5, 5))))
    with pytest.raises(DataError, match=r"\[label.x\]: graph: there is no file 'none.json'"):
        list(relation(blank_job({"graph": "none.json"})))
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
    ("options", "said", "kind"),
    [
        (GEOMETRY | {"geomtry": 1}, "did you mean 'geometry'", SettingsError),
        (GEOMETRY | {"geometry": ["riding"]}, "riding", UnknownName),
        (GEOMETRY | {"phrase": "no place"}, "phrase", SettingsError),
        ({"looked": []}, r"\[label.x\].objects: nothing finds the objects", SettingsError),
    ],
)
def test_wrong_options_are_named(blank_job, options, said, kind):
    with pytest.raises(kind, match=said):
        relation(blank_job(options))


def test_on_the_embedded_data(shapes_job):
    """Boxes are things, phrases say the class of the thing in the box, and the same comes out one by one."""
    labels = list(relation(shapes_job("relation", 8)))
    assert 40 <= len(labels) <= 80
    right = 0
    for label in labels:
        things = make_layout(2026, "val", int(label.scene.id[-6:])).things
        shape = label.provenance["subject"].split()[-1]
        centre = [(label.box[0] + label.box[2]) * 4, (label.box[1] + label.box[3]) * 4]
        right += any(np.hypot(*np.subtract(thing.centre, centre)) < 40 and thing.shape == shape for thing in things)
        assert label.text.startswith("the ") and label.provenance["detector"] == "tiny-yolo.safetensors"
    assert right >= 0.95 * len(labels)
    job = shapes_job("relation", 8)
    alone = [label for scene in job.scenes for label in relation(replace(job, scenes=[scene]))]
    assert [(x.text, x.scene.id) for x in alone] == [(x.text, x.scene.id) for x in labels]
