"""docs/machine-output.md names every key that the verbs print, and no other."""

import re

import numpy as np

from bench.grounding import Prediction
from bench.reporting.table import row
from bench.runs.record import read_record
from bench.settings import PROJECT
from bench.verbs.single import Single

PAGE = (PROJECT / "docs" / "machine-output.md").read_text(encoding="utf-8")


def documented(heading: str) -> set[str]:
    section = PAGE.split(heading)[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def test_rows():
    record = read_record(next((PROJECT / "results" / "runs" / "yolo-clip").glob("*/*/run.json")).parent)
    assert documented("## `bench run`") == set(row(record, "x"))


def test_predict():
    answer = Single("p", "a.png", "t", np.zeros((2, 3, 3), np.uint8), Prediction("0", None))
    assert documented("## `bench predict`") == set(answer.as_json())
