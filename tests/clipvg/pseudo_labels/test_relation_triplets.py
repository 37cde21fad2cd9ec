"""Which triplets become phrases, and triplets from files."""

import json

import pytest
import torch

from bench.errors import DataError, UnknownName
from clipvg.pseudo_labels.scene_graph_files import Triplet, choose, read_phrases, read_triplets

MAN, OTHER, HORSE = (0, 0, 50, 100), (200, 0, 250, 100), (0, 50, 100, 150)


def triplet(words="man on horse", box=MAN, scores=(0.9, 0.9, 0.9), other=HORSE):
    subject, predicate, target = words.split()
    return Triplet(subject, predicate, target, box, other, scores)


SCORES = [(0.2, 1, 1), (1, 0.2, 1), (1, 1, 0.2), (0.3, 0.9, 0.3), (0.21, 0.9, 1)]


def test_all_three_scores_must_be_above_and_their_product_ranks():
    rows = [triplet(f"man p{i} horse", scores=scores) for i, scores in enumerate(SCORES)]
    assert [t.predicate for t in choose(rows, 0.2, 10)] == ["p4", "p3"]
    rows = [triplet(f"man p{i} horse", scores=(0.5 + i / 40, 0.9, 0.9)) for i in range(15)]
    assert [t.predicate for t in choose(rows, 0.2, 10)] == [f"p{i}" for i in range(14, 4, -1)]
    first = [triplet("a p b"), triplet("a q b")]
    assert choose([*first, triplet("a p b", OTHER)], 0.2, 2) == first  # of equals the first


def test_the_same_words_about_the_same_box_count_once():
    rows = [triplet(), triplet(other=(9, 9, 99, 99)), triplet(box=OTHER)]
    assert [t.subject_box for t in choose(rows, 0.2, 10)] == [MAN, OTHER]


def test_unique_leaves_out_what_fits_another():
    nearly = (0, 0, 50, 90)  # the same man, detected twice
    rows = [triplet(), triplet(box=OTHER), triplet("man near horse"), triplet("man near horse", nearly)]
    assert [t.predicate for t in choose(rows, 0.2, 10, unique=True)] == ["near", "near"]
    unsure = [triplet(), triplet(box=OTHER, scores=(0.1, 1, 1))]
    assert [t.subject_box for t in choose(unsure, 0.2, 10, unique=True)] == [MAN]


def test_phrases():
    assert triplet().phrase("{subject} {predicate} {object}") == "man on horse"
    assert triplet().phrase("the {subject}  {predicate} the {object}") == "the man on the horse"
    assert Triplet("{object}", "on", "x", MAN, None).phrase("{subject} {predicate} {object}") == "{object} on x"
    assert "object_box" not in triplet(other=None).provenance()


ROW = {"subject": "Man", "predicate": "on", "object": "horse", "subject_box": [0, 0, 50, 100]}


def test_files_of_triplets(tmp_path):
    entries = [
        {"image": "COCO_train2014_000000000009.jpg", "triplets": [ROW | {"scores": [0.5, 0.4, 1]}]},
        {"image": 9, "triplets": [ROW | {"object_box": [1, 2, 3, 4]}]},
        {"image": "b.png", "triplets": []},
    ]
    (tmp_path / "g.json").write_text(json.dumps(entries))
    (tmp_path / "g.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, entries)))
    for file, place in (("g.json", "entry 1: triplet 0"), ("g.jsonl", "line 3: triplet 0")):
        graphs = read_triplets(tmp_path / file)
        assert list(graphs) == ["9", "b"]
        first, second = [t for _, t in graphs["9"]]
        assert first == Triplet("man", "on", "horse", (0, 0, 50, 100), None, (0.5, 0.4, 1.0))
        assert second.object_box == (1, 2, 3, 4) and second.scores == (1, 1, 1)
        assert graphs["9"][1][0] == f"{tmp_path / file}: {place}"


@pytest.mark.parametrize(
    ("entry", "message"),
    [([1], r"g.json: entry 0: \[1\]; expected an object"),
     ({"image": "a", "triplets": [], "boxes": 1}, "entry 0.*expected an object with the keys"),
     ({"image": True, "triplets": []}, "entry 0: 'image' should be text"),
     ({"image": "a", "triplets": [3]}, "entry 0: triplet 0: 3"),
     ({"image": "a", "triplets": [ROW, ROW | {"score": 1}]}, "triplet 1: the key 'score' is not known"),
     ({"image": "a", "triplets": [{k: v for k, v in ROW.items() if k != "object"}]}, "'object' is missing"),
     ({"image": "a", "triplets": [ROW | {"subject": " "}]}, "triplet 0: subject: the expression is empty"),
     ({"image": "a", "triplets": [ROW | {"subject_box": [0, 0, 0, 9]}]}, "subject_box: the box"),
     ({"image": "a", "triplets": [ROW | {"object_box": [1, 2, 3]}]}, "object_box: a box should be 4 numbers"),
     ({"image": "a", "triplets": [ROW | {"scores": [1, 2, 0]}]}, "scores is .*expected three numbers from 0 to 1"),
     ({"image": "a", "triplets": [ROW | {"scores": [1, True, 0]}]}, "expected three numbers")],
)  # fmt: skip
def test_wrong_entries_are_named(tmp_path, entry, message):
    (tmp_path / "g.json").write_text(json.dumps([entry]))
    with pytest.raises(DataError, match=message):
        read_triplets(tmp_path / "g.json")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [("g.json", "[1, ", "not JSON"), ("g.jsonl", "{}\n{", "line 1"), ("g.json", "{}", "expected a list"),
     ("g.json", "[]", "holds no images"), ("g.jsonl", "[" * 100_000, "not JSON"), ("none.json", "", "cannot be read")],
)  # fmt: skip
def test_wrong_files_are_named(tmp_path, file, text, message):
    if text:
        (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_triplets(tmp_path / file)


def test_finished_lists_are_read_as_they_are(tmp_path):
    x = "useless placeholder"
    rows = [["COCO_train2014_000000000009.jpg", x, [1.5, 2, 30, 40], "man on horse", x]]
    torch.save(rows, tmp_path / "unc_train_pseudo_split_0.pth")
    (expression,) = read_phrases(tmp_path / "unc_train_pseudo_split_0.pth", "refcoco")["9"]
    assert (expression.text, expression.box) == ("man on horse", (1.5, 2, 31.5, 42))
    with pytest.raises(UnknownName, match="data set"):
        read_phrases(tmp_path / "unc_train_pseudo_split_0.pth", "somewhere")
