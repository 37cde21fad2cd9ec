"""Attributes of detections: a file's words matched to detections, CLIP's words within their groups."""

import numpy as np
import pytest
import torch

from bench.datasets.shapes.layout import COLOURS
from bench.errors import DataError, SettingsError, WeightsError
from clipvg.pseudo_labels.attributes import (
    AttributeOptions,
    Group,
    clip_attributes,
    likeliest_words,
    match_attributes,
    open_attributes,
    prompt_text,
    read_vocabulary,
    without,
)
from clipvg.pseudo_labels.detection_files import Detection, ImageDetections
from clipvg.pseudo_labels.detections import DetectionOptions, detect
from pipelines.two_stage.clip.encoder import ClipEncoder

WORDS = ["red", "brick", "tall"]
WALL = (0.0, 0.0, 100.0, 100.0)


def word_of(rows, name="wall", box=WALL):
    """The word and score for one detection; rows of (name, box, scores of red, brick and tall)."""
    names, boxes, scores = zip(*rows, strict=True)
    scored = (names, np.array(boxes, float), np.array(scores, np.float32))
    index, score = match_attributes(scored, [name], np.array([box], float), WORDS, AttributeOptions())
    return (WORDS[index[0]] if index[0] >= 0 else None), pytest.approx(score[0])


def test_a_detection_takes_the_word_of_its_class_that_it_overlaps_most():
    rows = [
        ("wall", (0, 0, 100, 60), (0.9, 0.0, 0.1)),
        ("wall", (0, 0, 100, 90), (0.0, 0.1, 0.5)),
        ("door", WALL, (0.0, 0.9, 0.0)),
    ]
    assert word_of(rows) == ("tall", 0.5)
    assert word_of(rows, box=(0, 0, 100, 50)) == ("red", 0.9)
    assert word_of(rows, name="window") == (None, 0.0)


@pytest.mark.parametrize(
    ("box", "score", "word"),
    [((0, 0, 100, 50), 0.9, None), ((0, 0, 100, 51), 0.9, "red"), (WALL, 0.3, None), (WALL, 0.31, "red")],
)
def test_the_overlap_and_the_score_must_exceed_their_thresholds(box, score, word):
    assert word_of([("wall", box, (score, 0.0, 0.1))])[0] == word


def test_an_attribute_in_the_files_class_is_removed_before_classes_are_compared():
    rows = [("brick wall", WALL, (0.1, 0.8, 0.0))]
    assert word_of(rows) == ("brick", 0.8)
    assert word_of(rows, name="brick wall")[0] is None
    assert word_of([("brick wall", WALL, (0.8, 0.1, 0.0))], name="brick wall")[0] == "red"
    assert without("brick wall", "brick") == "wall"
    assert without("colored pencil", "red") == "colored pencil"
    assert without("orange", "orange") == "orange"


def file_options(tmp_path, table, lines="red\nbrick\ntall,high\n"):
    torch.save(table, tmp_path / "attributes.pth")
    (tmp_path / "vocabulary.txt").write_text(lines)
    return {"kind": "file", "files": "attributes.pth", "vocabulary": "vocabulary.txt"}


def test_detections_carry_the_words_of_a_file(blank_job, propose, tmp_path):
    propose({n: [("wall", WALL, 0.9), ("dog", (300, 300, 400, 400), 0.5)] for n in "123"})
    table = {"1.jpg": [["wall", [0, 0, 100, 99, 0.4], np.array([0.1, 0.1, 0.7], np.float32)]], "2.jpg": []}
    options = DetectionOptions(proposer={"kind": "fixed"}, attributes=file_options(tmp_path, table))
    first, second, third = detect(blank_job(), options, "here")
    assert [(d.attribute, d.attribute_score) for d in first.detections] == [("tall", pytest.approx(0.7)), ("", 0.0)]
    assert [d.attribute for one in (second, third) for d in one.detections] == [""] * 4


@pytest.mark.parametrize(
    ("rows", "lines", "message"),
    [([["wall", [0, 0, 9, 9, 0.4]]], "red\n", "image '1.jpg', row 0: .*a score for each attribute"),
     ([["wall", [0, 0, 9, 9, 0.4], [0.1, 0.2]]], "red\n", "2 attribute scores for a vocabulary of 1 words"),
     ([], "red\n\ntall\n", "line 2 is empty"), ([], "\n", "line 1 is empty")],
)  # fmt: skip
def test_a_wrong_attribute_file_or_vocabulary_is_named(context, tmp_path, rows, lines, message):
    options = AttributeOptions(**file_options(tmp_path, {"1.jpg": rows}, lines))
    with pytest.raises(DataError, match=message):
        open_attributes(options, "here", context())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "file", "files": "a.pth"}, SettingsError, r"here: name the attribute `files`, and as `vocabulary`"),
        ({"kind": "file", "files": "a.pth", "vocabulary": "v.txt"}, WeightsError, r"v\.txt are not there"),
        (
            {"kind": "clip", "groups": [{"words": ["red", "blue"], "silent": ["green"]}]},
            SettingsError,
            r"here.groups: silent 'green' is not among the words",
        ),
    ],
)
def test_wrong_options_are_named(context, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        open_attributes(AttributeOptions(**options), "here", context())
    assert open_attributes(AttributeOptions(), "here", context()) is None
    (tmp_path / "v.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"v.txt: cannot be read as text"):
        read_vocabulary(tmp_path / "v.txt")


COLOUR = Group(words=("", "red", "blue"))
TEXTURE = Group(words=("plain", "striped"), silent=("plain",), threshold=0.6)


@pytest.mark.parametrize(
    ("colour", "texture", "most", "attribute"),
    [pytest.param((0.1, 0.7, 0.2), (0.1, 0.9), 2, ("striped red", 0.7), id="a word of each group"),
     pytest.param((0.1, 0.7, 0.2), (0.45, 0.55), 2, ("red", 0.7), id="only when sure"),
     pytest.param((0.1, 0.5, 0.4), (0.1, 0.9), 2, ("striped", 0.9), id="0.5 is not above the threshold"),
     pytest.param((0.2, 0.4, 0.4), (0.4, 0.6), 2, ("", 0.0), id="nothing sure"),
     pytest.param((0.1, 0.1, 0.8), (0.95, 0.05), 2, ("blue", 0.8), id="silent words win and are not used"),
     pytest.param((0.9, 0.1, 0.0), (0.95, 0.05), 2, ("", 0.0), id="the empty word is silent"),
     pytest.param((0.0, 0.0, 1.0), (0.1, 0.9), 1, ("blue", 1.0), id="the likeliest"),
     pytest.param((0.0, 0.3, 0.7), (0.1, 0.9), 1, ("striped", 0.9), id="the likeliest, of the other group"),
     pytest.param((0.0, 0.3, 0.7), (0.1, 0.9), 2, ("striped blue", 0.7), id="in the order of the groups")],
)  # fmt: skip
def test_each_group_gives_at_most_one_word(colour, texture, most, attribute):
    assert likeliest_words([np.array([texture]), np.array([colour])], (TEXTURE, COLOUR), most) == [attribute]


@pytest.fixture
def describe(shapes_job):
    """What describes the shapes, and six images with their true objects as detections."""
    job = shapes_job("template", 6)
    options = DetectionOptions(**job.options["objects"])
    images = []
    for scene in job.scenes:
        objects = [Detection(each.category, each.box, 1.0) for each in scene.objects]
        images.append(ImageDetections(scene, job.images.load(scene), objects, ""))
    return clip_attributes(options.attributes, "here", job.context), images


@pytest.mark.slow
def test_clip_tells_colours_and_textures(describe):
    describe, images = describe
    words = [attribute.split() for of in describe(images) for attribute, _ in of]
    true = [each.description.split() for image in images for each in image.scene.objects]
    assert len(words) == len(true) > 25
    colours = [set(some) & set(COLOURS) == {of[1]} for some, of in zip(words, true, strict=True)]
    textures = [set(some) - set(COLOURS) <= {of[0]} for some, of in zip(words, true, strict=True)]
    assert np.mean(colours) > 0.9 and np.mean(textures) > 0.85
    assert any(len(some) == 2 for some in words) and not any("plain" in some for some in words)
    assert prompt_text("{attribute} {name}", "", "star") == "star"


@pytest.mark.slow
def test_crops_of_a_batch_share_one_call_and_do_not_matter_to_each_other(describe, monkeypatch):
    describe, images = describe
    calls, encode = [], ClipEncoder.encode_images
    monkeypatch.setattr(ClipEncoder, "encode_images", lambda self, v: calls.append(len(v)) or encode(self, v))

    def image(scene, objects):
        return ImageDetections(scene.scene, scene.image, objects, "")

    counts = [len(one.detections) for one in images]
    together = describe([images[0], image(images[0], []), *images[1:]])
    assert [len(of) for of in together] == [counts[0], 0, *counts[1:]] and calls == [sum(counts)]
    assert describe([image(images[0], [])]) == [[]] and calls == [sum(counts)], "nothing needs no call"
    alone = [describe([image(one, [each])])[0][0] for one in images for each in one.detections]
    together = [attribute for of in together for attribute in of]
    assert [words for words, _ in together] == [words for words, _ in alone]
    assert [score for _, score in together] == pytest.approx([score for _, score in alone], abs=1e-4)
