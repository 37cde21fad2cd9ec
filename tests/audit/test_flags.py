"""Files of flags, and reviews that are matched with a split: by id, by object, by box, each with its text."""

import json

import pytest

from bench.audit.flags import labels, read_flags, read_review, write_flags
from bench.datasets.load import load_split
from bench.errors import BenchError, DataError, UsageError
from bench.settings import load_settings

ROWS = [
    {"id": "17", "image": "a.jpg", "text": "the man", "box_xyxy": [0, 0, 20, 20], "ref_id": "r1"},
    {"id": "18", "image": "a.jpg", "text": "the dog", "box_xyxy": [30, 30, 50, 60], "ref_id": "r2"},
    {"id": "19", "image": "b.jpg", "text": "The  Dog", "box_xyxy": [30, 30, 50, 60], "ref_id": "r3"},
]


@pytest.fixture
def split(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row | {"width": 90, "height": 80}) + "\n" for row in ROWS))
    return load_split(f"file:{path}", load_settings(None, {}))


def test_flags_come_back(split, tmp_path):
    write_flags(tmp_path / "f.json", split, {"18": "doubtful", "17": "ok"}, "me")
    flags = read_flags(tmp_path / "f.json")
    assert labels(flags, split) == ["ok", "doubtful", None] and len(flags.digest) == 64


@pytest.mark.parametrize(("change", "message"), [
    ({"format": "x"}, "no file of flags"),
    ({"version": 2}, "this program reads 1"),
    ({"flags": [1]}, "expression id -> flag"),
    ({"flags": {"17": "bad"}}, "expected ok or doubtful"),
    ({"split": 3}, "`split` and `fingerprint`"),
    ({"fingerprint": "0" * 64}, "with fingerprint 00000000"),
    ({"flags": {"99": "ok"}}, "1 flags are of ids that"),
])  # fmt: skip
def test_other_files_are_refused(split, tmp_path, change, message):
    write_flags(tmp_path / "f.json", split, {"18": "doubtful"}, "me")
    value = json.loads((tmp_path / "f.json").read_text()) | change
    (tmp_path / "f.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=message):
        labels(read_flags(tmp_path / "f.json"), split)


@pytest.mark.parametrize(("row", "how"), [
    ({"sent_id": 17, "caption": "The man"}, ("id", {"17"})),
    ({"sent_id": 17, "caption": "another text"}, ("", set())),
    ({"sent_id": 5, "ann_id": "r2", "sent": "the dog"}, ("target", {"18"})),
    ({"bbox": [30, 30, 20, 30], "text": "the dog", "file_name": "x/b.jpg"}, ("box", {"19"})),
    ({"bbox": [30, 30, 20, 30], "text": "the dog"}, ("", set())),  # two images have it
    ({"bbox": [30, 30, 20, 40], "text": "the dog", "file_name": "b.jpg"}, ("", set())),
    ({"bbox": [0.4, 0.4, 20, 20], "text": "the man"}, ("box", {"17"})),
    ({"bbox": ["x", 0, 1, 2], "text": "the man"}, ("", set())),
])  # fmt: skip
def test_a_row_is_matched_by_one_of_three_ways(split, tmp_path, row, how):
    path = tmp_path / "review.json"
    path.write_text(json.dumps([row | {"state": "wrong"}]))
    made = read_review(path, split, "state=wrong,unclear")
    found = {"id": made.by_id, "target": made.by_target, "box": made.by_box, "": made.unmatched}
    assert (made.rows, found[how[0]], made.flags) == (1, 1, dict.fromkeys(how[1], "doubtful"))


def test_one_doubt_is_enough_and_other_values_are_ok(split, tmp_path):
    path = tmp_path / "review.jsonl"
    rows = [{"id": "17", "text": "the man", "state": s} for s in ("wrong", "good")] + [
        {"id": "18", "text": "the dog", "state": True}
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_review(path, split, "state=wrong").flags == {"17": "doubtful", "18": "ok"}


@pytest.mark.parametrize("given", ["", "state", "flag=1"])
def test_an_unknown_schema_is_printed(split, tmp_path, given):
    (tmp_path / "r.json").write_text(json.dumps({"rows": [{"id": "17", "text": "the man", "state": "wrong"}]}))
    with pytest.raises(UsageError, match=r"its rows have id \('17'\), text \('the man'\), state \('wrong'\)"):
        read_review(tmp_path / "r.json", split, given)


@pytest.mark.parametrize("text", ["", "{", "3", "[]", "[1]", '{"a": 1}', "[" * 5000])
def test_what_is_no_review_is_refused(split, tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(BenchError, match=r"r\.json"):
        read_review(tmp_path / "r.json", split, "a=b")
