"""How things look: the file's words found for detections, CLIP's words within their groups."""

import numpy as np
import pytest
import torch

from bench.boxes import iou_pairwise
from bench.datasets.shapes.layout import COLOURS
from bench.errors import DataError, SettingsError, WeightsError
from clipvg.pseudo_labels.attributes import (
    Attribute,
    AttributeOptions,
    ClipAttributes,
    Described,
    Group,
    chosen,
    open_describer,
    read_vocabulary,
    spoken,
    without,
)
from clipvg.pseudo_labels.detections import DetectionOptions, looked_at
from clipvg.pseudo_labels.pseudo_q_files import Scored

WORDS = ["red", "brick", "tall"]
WALL = (0.0, 0.0, 100.0, 100.0)


def scored(*rows):
    """(name, box, scores of red, brick and tall) each."""
    names, boxes, scores = zip(*rows, strict=True)
    return Scored(names, np.array(boxes, float), np.array(scores, np.float32))


def word_of(rows, name="wall", box=WALL, **options):
    index, score = chosen(rows, [name], np.array([box], float), WORDS, AttributeOptions(**options))
    return (WORDS[index[0]] if index[0] >= 0 else None), pytest.approx(score[0])


def test_a_thing_takes_the_word_of_its_class_that_it_overlaps_most():
    rows = scored(
        ("wall", (0, 0, 100, 60), (0.9, 0.0, 0.1)),
        ("wall", (0, 0, 100, 90), (0.0, 0.1, 0.5)),
        ("door", WALL, (0.0, 0.9, 0.0)),
    )
    assert word_of(rows) == ("tall", 0.5)
    assert word_of(rows, box=(0, 0, 100, 50)) == ("red", 0.9)
    assert word_of(rows, name="window") == (None, 0.0)


@pytest.mark.parametrize(
    ("box", "score", "word"),
    [((0, 0, 100, 50), 0.9, None), ((0, 0, 100, 51), 0.9, "red"), (WALL, 0.3, None), (WALL, 0.31, "red")],
)
def test_the_overlap_and_the_score_must_exceed_their_thresholds(box, score, word):
    assert word_of(scored(("wall", box, (score, 0.0, 0.1))))[0] == word


def test_a_word_in_the_files_class_is_taken_off_it_before_classes_are_compared():
    rows = scored(("brick wall", WALL, (0.1, 0.8, 0.0)))
    assert word_of(rows) == ("brick", 0.8)
    assert word_of(rows, name="brick wall")[0] is None
    assert word_of(scored(("brick wall", WALL, (0.8, 0.1, 0.0))), name="brick wall")[0] == "red"


def test_a_name_loses_whole_words_only_and_never_all():
    assert without("brick wall", "brick") == "wall"
    assert without("colored pencil", "red") == "colored pencil"
    assert without("orange", "orange") == "orange"


def file_options(tmp_path, table, lines="red\nbrick\ntall,high\n"):
    torch.save(table, tmp_path / "attributes.pth")
    (tmp_path / "vocabulary.txt").write_text(lines)
    return {"kind": "file", "files": "attributes.pth", "vocabulary": "vocabulary.txt"}


def test_detections_carry_the_words_of_a_file(blank_job, spoken, tmp_path):
    spoken({n: [("wall", WALL, 0.9), ("dog", (300, 300, 400, 400), 0.5)] for n in "123"})
    table = {"1.jpg": [["wall", [0, 0, 100, 99, 0.4], np.array([0.1, 0.1, 0.7], np.float32)]], "2.jpg": []}
    options = DetectionOptions(proposer={"kind": "spoken"}, attributes=file_options(tmp_path, table))
    first, second, third = looked_at(blank_job(), options, "here")
    assert [(d.attribute, d.attribute_score) for d in first.detections] == [("tall", pytest.approx(0.7)), ("", 0.0)]
    assert [d.attribute for one in (second, third) for d in one.detections] == [""] * 4


@pytest.mark.parametrize(
    ("rows", "lines", "message"),
    [
        ([["wall", [0, 0, 9, 9, 0.4]]], "red\n", "image '1.jpg', row 0: .*a score for each attribute"),
        ([["wall", [0, 0, 9, 9, 0.4], [0.1, 0.2]]], "red\n", "2 attribute scores for a vocabulary of 1 words"),
        ([], "red\n\ntall\n", "line 2 is empty"),
        ([], "\n", "line 1 is empty"),
    ],
)
def test_a_wrong_attribute_file_or_vocabulary_is_named(context, tmp_path, rows, lines, message):
    options = AttributeOptions(**file_options(tmp_path, {"1.jpg": rows}, lines))
    with pytest.raises(DataError, match=message):
        open_describer(options, "here", context())


def test_files_need_a_vocabulary_and_both_must_be_there(context, tmp_path):
    with pytest.raises(SettingsError, match=r"here: name the attribute `files`, and as `vocabulary`"):
        open_describer(AttributeOptions(kind="file", files="a.pth"), "here", context())
    with pytest.raises(WeightsError, match=r"'v.txt' are not there"):
        open_describer(AttributeOptions(kind="file", files="a.pth", vocabulary="v.txt"), "here", context())
    (tmp_path / "v.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"v.txt: cannot be read as text"):
        read_vocabulary(tmp_path / "v.txt")
    assert open_describer(AttributeOptions(), "here", context()) is None


COLOUR = Group(words=("", "red", "blue"))
TEXTURE = Group(words=("plain", "striped"), silent=("plain",), threshold=0.6)


def say(colour, texture, most=2):
    (said,) = spoken([np.array([texture]), np.array([colour])], (TEXTURE, COLOUR), most)
    return said


def test_each_group_gives_at_most_one_word_and_says_it_only_when_sure():
    assert say((0.1, 0.7, 0.2), (0.1, 0.9)) == Attribute("striped red", 0.7)
    assert say((0.1, 0.7, 0.2), (0.45, 0.55)) == Attribute("red", 0.7)
    assert say((0.1, 0.5, 0.4), (0.1, 0.9)) == Attribute("striped", 0.9)  # 0.5 is not above the threshold
    assert say((0.2, 0.4, 0.4), (0.4, 0.6)) == Attribute("", 0.0)


def test_silent_words_win_and_are_not_said():
    assert say((0.1, 0.1, 0.8), (0.95, 0.05)) == Attribute("blue", 0.8)
    assert say((0.9, 0.1, 0.0), (0.95, 0.05)) == Attribute()


def test_of_several_words_the_likeliest_are_said_in_the_order_of_the_groups():
    assert say((0.0, 0.0, 1.0), (0.1, 0.9), most=1) == Attribute("blue", 1.0)
    assert say((0.0, 0.3, 0.7), (0.1, 0.9), most=1) == Attribute("striped", 0.9)
    assert say((0.0, 0.3, 0.7), (0.1, 0.9), most=2) == Attribute("striped blue", 0.7)


def test_a_silent_word_that_is_no_word_of_the_group_is_refused(context):
    options = AttributeOptions(kind="clip", groups=[{"words": ["red", "blue"], "silent": ["green"]}])
    with pytest.raises(SettingsError, match=r"here.groups: silent 'green' is not among the words"):
        open_describer(options, "here", context())


@pytest.fixture
def describer(shapes_job):
    job = shapes_job("template", 6)
    options = DetectionOptions(**job.options["objects"])
    return ClipAttributes(options.attributes, "here", job.context), job


def asked(job, count=6):
    """The true things of the first scenes."""
    out = []
    for scene in job.scenes[:count]:
        boxes = np.array([each.box for each in scene.objects], float)
        out.append(Described(scene.id, job.images.load(scene), [each.category for each in scene.objects], boxes))
    return out


def test_clip_sees_colours_and_textures(describer):
    look, job = describer
    said = [attribute.words.split() for of in look.describe(asked(job)) for attribute in of]
    true = [each.description.split() for scene in job.scenes for each in scene.objects]
    assert len(said) == len(true) > 25
    colours = [set(words) & set(COLOURS) == {of[1]} for words, of in zip(said, true, strict=True)]
    textures = [set(words) - set(COLOURS) <= {of[0]} for words, of in zip(said, true, strict=True)]
    assert np.mean(colours) > 0.9 and np.mean(textures) > 0.85
    assert any(len(words) == 2 for words in said) and not any("plain" in words for words in said)


def test_a_thing_looks_the_same_whatever_is_beside_it(describer):
    look, job = describer
    batch = asked(job)
    together = [attribute for of in look.describe(batch) for attribute in of]
    alone = [
        look.describe([one._replace(names=[name], boxes=one.boxes[i : i + 1])])[0][0]
        for one in batch
        for i, name in enumerate(one.names)
    ]
    assert [a.words for a in together] == [a.words for a in alone]
    assert [a.score for a in together] == pytest.approx([a.score for a in alone], abs=1e-4)


def test_crops_of_a_batch_share_one_call_and_nothing_needs_none(describer, monkeypatch):
    look, job = describer
    calls, encode = [], look.encoder.encode_images
    monkeypatch.setattr(look.encoder, "encode_images", lambda views: calls.append(len(views)) or encode(views))
    batch = asked(job)
    empty = batch[0]._replace(names=[], boxes=np.zeros((0, 4)))
    assert [len(of) for of in look.describe([batch[0], empty, batch[1]])] == [
        len(batch[0].names),
        0,
        len(batch[1].names),
    ]
    assert look.describe([empty]) == [[]]
    assert calls == [len(batch[0].names) + len(batch[1].names)]


def test_the_empty_word_stands_for_the_name_alone(describer):
    look, _ = describer
    assert look._text("", "star") == "star" and look._text("red", "star") == "red star"


def test_the_shipped_table_finds_and_describes_what_is_there(shapes_job):
    job = shapes_job("template", 8)
    right = []
    for one in looked_at(job, DetectionOptions(**job.options["objects"]), "here"):
        things = one.scene.objects
        overlap = iou_pairwise([d.box for d in one.detections], [each.box for each in things])
        for d, k in zip(one.detections, overlap.argmax(axis=1), strict=True):
            right.append({d.name, *d.attribute.split()} <= set(things[k].description.split()))
    assert len(right) > 30 and np.mean(right) > 0.85
