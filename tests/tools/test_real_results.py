"""results/real: what was measured on real files is what they give, and what the README says."""

import json
import re

import pytest

from bench.settings import PROJECT
from tools import real_results

REAL = PROJECT / "results" / "real"


def rows(folder) -> dict:
    """(split, pipeline) -> the counts and the data of a row."""
    tables = json.loads((folder / "LEADERBOARD.json").read_text("utf-8"))["tables"]
    return {
        (table["split"], row["pipeline"]): (table["fingerprint"], row["n"], row["hits"], row["ci95"])
        for table in tables
        for row in table["rows"]
    }


def counts(text: str) -> list[str]:
    """The rows of the table of counts and fingerprints."""
    return re.findall(r"^\| `.*\| \w{8} \| \w{8} \|$", text, re.MULTILINE)


@pytest.mark.slow
def test_the_real_files_give_what_is_committed(real, tmp_path):
    text = real_results.make(real, tmp_path, photographs=False)
    measured, committed = rows(tmp_path / "results"), rows(REAL)
    assert len(measured) == len(real_results.IMPORTED) and measured.items() <= committed.items()
    page = (REAL / "README.md").read_text("utf-8")
    assert len(counts(text)) == 14 and counts(text) == counts(page)
    assert "too close to call" in text and "p = 0.31" in text


def test_the_pages_hold_no_path_and_no_file_of_the_data():
    assert sorted(path.name for path in REAL.iterdir()) == [
        *(f"LEADERBOARD.{e}" for e in ("csv", "json", "md")),
        "README.md",
    ]
    text = "".join(path.read_text("utf-8") for path in REAL.iterdir())
    assert not re.search(r"/(work|tmp|home|root|Users)/", text) and "box_xyxy" not in text
