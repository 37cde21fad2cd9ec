"""The files of somebody else's run: what is no regular file of ours, of our types and sizes, is refused."""

import json
import os
import shutil

import pytest
from submissions import refused, rewritten, take

from bench.errors import CheckFailed
from bench.leaderboard import submitted_files
from bench.runs.packed import pack


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value", "reason"), [
    ("box", [0, 0, float("nan"), 1], "not four finite numbers"),
    ("box", [0, 0, "9", 1], "not four finite numbers"),
    ("box", [0, 0, True, 1], "not four finite numbers"),
    ("box", [0, 0, 1], "not a row of predictions"),
    ("score", float("inf"), "no finite number"),
    ("box", [0, 0, 1, 10**400], "not four finite numbers"),
    ("score", "high", "no finite number"),
    ("score", 10**400, "no finite number"),
    ("id", ["e0"], "no text"),
    ("id", "", "no text"),
    ("id", "e" * 5000, "no text"),
    ("note", {"a": 1}, "no text"),
])  # fmt: skip
def test_answers_of_other_types(theirs, key, value, reason):
    def change(rows):
        rows[2]["predictions"][0][key] = value

    message = refused(rewritten(theirs(), change), reason)
    assert "predictions.jsonl, line 3" in message and ".tmp" not in message


@pytest.mark.slow
@pytest.mark.parametrize(("content", "reason"), [
    (b'{"scene": "p0"', "cut short"),
    (b"\xff\xfe\n", "predictions.jsonl"),
    (b"[" * 100_000 + b"\n", "predictions.jsonl"),
    (b'{"scene": {}, "predictions": []}\n', "no text"),
    (b'{"scene": "p0", "predictions": [], "size": [0, 10]}\n', "size is not positive"),
    (b'{"scene": "p0", "predictions": [], "proposals": [[0, 0, 1, NaN]]}\n', "four finite numbers"),
    (b'{"scene": "p0", "predictions": [], "size": [1e999, 1]}\n', "not a row of predictions"),
    (b"", "scenes without a line: 6"),
])  # fmt: skip
def test_files_that_are_no_predictions(theirs, content, reason):
    folder = theirs()
    (folder / "predictions.jsonl").write_bytes(content)
    refused(folder, reason)


@pytest.mark.slow
def test_records_that_are_no_records(theirs):
    for content in (b"{", b"[" * 100_000, b"null", b"\xff", b""):
        folder = theirs()
        (folder / "run.json").write_bytes(content)
        refused(folder, "not a run record")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.json", "predictions.jsonl"])
def test_links_and_pipes_are_not_opened(theirs, world, name):
    folder = theirs()
    outside = world / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    refused(folder, f"{name} is a link")
    (folder / name).unlink()
    refused(folder, f"{name} is not there")
    os.mkfifo(folder / name)
    refused(folder, f"{name} is no regular file")
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, name)


def test_files_larger_than_any(theirs, monkeypatch):
    monkeypatch.setattr(submitted_files, "MOST", {"run.json": 100, "predictions.jsonl": 2**20})
    refused(theirs(), "run.json is larger than 0 MB")


def test_a_packed_run_is_taken_by_its_hash(theirs):
    taken = take(theirs(packed=True))
    source = json.loads((taken / "submission.json").read_text())
    assert set(source["sha256"]) == {"run.json", "predictions.jsonl", "predictions.packed"}
    refused_again = theirs()
    with pytest.raises(CheckFailed, match="it is here already"):  # the same boxes in the other form
        take(refused_again)


@pytest.mark.parametrize(("content", "reason"), [
    (b"x", "its SHA-256 is not the one in run.json"),
    (pack(b"{}"), "its SHA-256 is not the one in run.json"),
])  # fmt: skip
def test_packed_files_that_are_not_the_runs(theirs, content, reason):
    folder = theirs(packed=True)
    (folder / "predictions.packed").write_bytes(content)
    refused(folder, reason)


def test_packed_files_that_are_none_or_larger_than_any(theirs, monkeypatch):
    folder = theirs(packed=True)
    monkeypatch.setitem(submitted_files.MOST, "predictions.jsonl", 100)
    refused(folder, "predictions.packed: not a packed file: it is cut short, or larger than any")
