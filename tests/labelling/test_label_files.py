"""Pseudo-labels written down, as JSONL and as official lists, and read back by the readers that others use."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.datasets.readers.index_lists import read_index_list, source_of_list
from bench.datasets.readers.jsonl import read_jsonl, read_provenance
from bench.errors import DataError, RunError, UsageError
from bench.grounding import Scene
from bench.labelling import PseudoLabel
from bench.labelling.label_files import (
    check_jsonl_name,
    export_lists,
    list_format,
    merge_separated,
    pseudo_row,
    save_list,
    write_labels,
)

SCENE = Scene("1", "COCO_train2014_000000000001.jpg", 640, 480, ())
OTHER = Scene("2", "COCO_train2014_000000000002.jpg", None, None, ())
BOX = (10.125, 20.5, 110.75, 220.0)


def label(text="Red dog", box=BOX, scene=SCENE, source="template", **provenance):
    return PseudoLabel(scene, text, box, {"source": source, "detector": "d.pt", "score": 0.5, **provenance})


def written(path, *labels, split="refcoco-train"):
    return write_labels(path, iter(labels), split)


# --- JSONL ------------------------------------------------------------------------------------------------------------


def test_a_row_says_all_and_is_read_back(tmp_path):
    path = tmp_path / "new" / "t.jsonl"
    box = tuple(np.array(BOX, np.float32))  # numpy's numbers will do
    done = written(path, label(" Red \n dog ", box), label("cat", (1.23456, 2, 3, 4.9999), OTHER, entities=1))
    assert done == (2, 2, 0)
    first, second = read_jsonl(path)
    assert (first.file, first.width, first.height) == (SCENE.file, 640, 480)
    assert (second.file, second.width, second.height) == (OTHER.file, None, None)
    (e,) = first.expressions
    assert (e.id, e.text, e.kind) == ("template-refcoco-train-0", "Red dog", "template")
    assert e.box == (10.12, 20.5, 110.75, 220.0) and second.expressions[0].box == (1.23, 2, 3, 5)
    assert read_provenance(path)["template-refcoco-train-1"] == {
        "source": "template", "detector": "d.pt", "score": 0.5, "entities": 1,
    }  # fmt: skip


def test_duplicates_are_dropped_and_the_same_text_on_other_boxes_stays(tmp_path):
    path = tmp_path / "t.jsonl"
    near = (10.1201, *BOX[1:])  # the same to a hundredth of a pixel
    counted = []
    labels = [label(), label(box=near), label(box=(0, 0, 5, 5)), label("other"), label(scene=OTHER), label()]
    done = write_labels(path, iter(labels), "s", counted.append)
    assert done == (4, 2, 2) and counted == labels
    ids = [e.id for scene in read_jsonl(path) for e in scene.expressions]
    assert sorted(ids) == [f"template-s-{n}" for n in range(4)]


def test_nothing_half_written(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("as it was")

    def broken(error):
        yield label()
        raise error

    bad = iter([label(), label(box=(5, 5, 5, 9))])
    for labels, error, message in (
        (broken(DataError("the detector's file is torn")), DataError, "torn"),
        (broken(ConnectionError("no network")), ConnectionError, "no network"),  # and not an error of the disk
        (bad, DataError, "width 0"),
    ):
        with pytest.raises(error, match=message):
            write_labels(path, labels, "s")
    assert write_labels(path, iter(()), "s")[0] == 0
    assert path.read_text() == "as it was" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("bad", "message"), (
    (label("  "), "the expression is empty"),
    (label(box=(0, 0, math.nan, 5)), "NaN"),
    (label(box=(0, 0, 0.001, 5)), "width 0"),  # nothing is left of it at a hundredth of a pixel
    (label(score=np.float32(0.5)), "plain JSON"),
    (label(score=math.inf), "plain JSON"),
))  # fmt: skip
def test_labels_that_cannot_be_rows(tmp_path, bad, message):
    with pytest.raises(DataError, match=message) as error:
        written(tmp_path / "t.jsonl", bad)
    assert SCENE.file in str(error.value) and not list(tmp_path.iterdir())


def test_names_and_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path, message in ((Path("labels.pth"), r"labels\.jsonl"), (tmp_path, "a folder")):
        with pytest.raises(UsageError, match=message):
            check_jsonl_name(path)
    with pytest.raises(RunError, match="cannot be written"):
        written(tmp_path / "file" / "t.jsonl", label())


# --- official lists ---------------------------------------------------------------------------------------------------


def rows_of(path, dataset):
    return [(s.file, e.text, e.box) for s in read_index_list(path, dataset) for e in s.expressions]


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "stem", "form"), (
    ("refcoco", "unc", "xywh"), ("refcoco+", "unc+", "xywh"), ("refcocog", "gref_umd", "xywh"),
    ("refcocog-google", "gref", "xywh"), ("referit", "referit", "xyxy"), ("flickr30k", "flickr", "xyxy"),
    ("shapes", "shapes", "xywh"),
))  # fmt: skip
def test_lists_are_as_the_data_set_has_them(tmp_path, dataset, stem, form):
    assert list_format(dataset)[:2] == (stem, form)
    written(tmp_path / "t.jsonl", label(), label("cat", scene=OTHER))
    separated, single = export_lists([tmp_path / "t.jsonl"], tmp_path / "lists", dataset)
    assert separated == tmp_path / "lists" / stem / "train_separate" / f"1_{stem}_train_pseudo_template_0_5.pth"
    assert single == tmp_path / "lists" / stem / f"{stem}_train_pseudo.pth"
    rows = torch.load(separated, weights_only=True)
    box = [10.12, 20.5, 110.75, 220.0] if form == "xyxy" else [10.12, 20.5, 110.75 - 10.12, 199.5]
    if dataset == "flickr30k":
        assert rows[0] == [SCENE.file, box, "Red dog"]
    else:
        assert rows[0] == [SCENE.file, "useless placeholder", pytest.approx(box), "Red dog", "useless placeholder"]
    assert all(type(row) is list and type(row[-2 if len(row) == 3 else 2]) is list for row in rows)
    wanted = [(s.file, e.text, e.box) for s in read_jsonl(tmp_path / "t.jsonl") for e in s.expressions]
    assert rows_of(separated, dataset) == rows_of(single, dataset) == wanted


@pytest.mark.slow
def test_boxes_come_back_to_the_last_bit_but_one(tmp_path):
    rng = random.Random(0)
    labels = []
    for n in range(3000):
        x, y = round(rng.uniform(0, 600), 2), round(rng.uniform(0, 400), 2)
        box = (x, y, round(x + rng.uniform(0.1, 400), 2), round(y + rng.uniform(0.1, 400), 2))
        labels.append(label(f"object {n}", box))
    written(tmp_path / "t.jsonl", *labels)
    separated, _ = export_lists([tmp_path / "t.jsonl"], tmp_path, "refcoco")
    back, wanted = np.array([box for _, _, box in rows_of(separated, "refcoco")]), np.array([x.box for x in labels])
    # A few right sides are the sum of no two floats of which one is the left side: those are one bit off.
    off = back != wanted
    assert off.mean() < 0.05 and not off[:, :2].any()
    assert np.all(np.abs(back - wanted) <= np.spacing(wanted))


def test_sources_are_separated_and_merged_in_their_order(tmp_path):
    for source, text in (("caption", "c"), ("relation", "r"), ("template", "t"), ("own", "o")):
        written(tmp_path / f"{source}.jsonl", label(text, source=source))
    files = [tmp_path / f"{source}.jsonl" for source in ("caption", "own", "template")]
    made = export_lists(files, tmp_path / "lists", "refcoco+", 0.35)
    assert [path.name for path in made] == [
        "1_unc+_train_pseudo_template_0_35.pth", "3_unc+_train_pseudo_caption_0_35.pth",
        "4_unc+_train_pseudo_own_0_35.pth", "unc+_train_pseudo.pth",
    ]  # fmt: skip
    assert [text for _, text, _ in rows_of(made[-1], "refcoco+")] == ["t", "c", "o"]
    # What is added later is merged with what lies there.
    again = export_lists([tmp_path / "relation.jsonl"], tmp_path / "lists", "refcoco+", 0.35)
    assert [text for _, text, _ in rows_of(again[-1], "refcoco+")] == ["t", "r", "c", "o"]
    assert source_of_list(made[1].name) == "caption" and source_of_list(made[-1].name) is None


def test_merging_goes_by_the_number_and_not_by_the_alphabet(tmp_path):
    for number, text in ((10, "last"), (2, "second"), (1, "first")):
        save_list(
            tmp_path / f"{number}_unc_train_pseudo_s{number}_0_5.pth", [pseudo_row("a.jpg", (0, 0, 5, 5), text, "xywh")]
        )
    (tmp_path / "unc_train_pseudo.pth").write_text("not one of them")
    assert [row[3] for row in merge_separated(tmp_path)] == ["first", "second", "last"]
    save_list(tmp_path / "2_unc_train_pseudo_s2_0_6.pth", [])
    with pytest.raises(DataError, match=r"s2_0_5\.pth and .*s2_0_6\.pth both come at place 2"):
        merge_separated(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no list in it"):
        merge_separated(tmp_path / "empty")


def test_what_no_list_can_hold(tmp_path):
    good, nameless, folders = (tmp_path / f"{name}.jsonl" for name in "tnf")
    written(good, label())
    nameless.write_text('{"image": "a.jpg", "text": "a", "box_xyxy": [0, 0, 1, 1], "id": "r7"}\n')
    written(folders, label(scene=Scene("1", "street/1.jpg", None, None, ())))
    for path, dataset, threshold, error, message in (
        (good, "file", 0.5, UsageError, "--split says whose"),
        (good, "refcoco", 5, UsageError, "0 to 1"),
        (tmp_path / "x.pth", "refcoco", 0.5, UsageError, r"in \.jsonl"),
        (nameless, "refcoco", 0.5, DataError, "row r7 does not say which source"),
        (folders, "refcoco", 0.5, DataError, "without folders"),
    ):
        with pytest.raises(error, match=message):
            export_lists([path], tmp_path, dataset, threshold)
    assert not (tmp_path / "unc").exists()
