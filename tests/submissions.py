"""Handing in a run in tests: taken, or refused with its reasons and nothing left behind."""

import json
from pathlib import Path

import pytest

from bench.errors import CheckFailed
from bench.leaderboard.submission import submit
from bench.runs.record import read_record
from bench.runs.store import write_continued
from bench.settings import load_settings

SIZE = {"width": 100, "height": 80}
SPLIT = "file:mine"


def unpacked(folder):
    """Leave the files of a run as JSON Lines, as version 0.1 wrote them."""
    record = read_record(folder)
    write_continued(folder, record, record)
    return folder


def take(folder):
    return submit(folder, Path("results"), load_settings(), "file:mine.jsonl")


def refused(folder, *reasons):
    """It is refused with all of these reasons, and nothing is left behind."""
    with pytest.raises(CheckFailed) as error:
        take(folder)
    message = str(error.value)
    assert all(reason in message for reason in reasons), message
    assert not [path for path in Path("results").rglob("*") if path.name != "runs"]
    return message


def rewritten(folder, change):
    """predictions.jsonl with its rows changed."""
    path = folder / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows) or rows))
    return folder
