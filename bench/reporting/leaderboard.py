"""LEADERBOARD.md, .csv and .json: every run under results/runs, in one table for each signature.

The same runs give the same bytes: nothing of the moment or of this machine is written, so a check can tell stale files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.errors import CheckFailed
from bench.reporting.boards import Leaderboard, collect
from bench.reporting.exports.spreadsheet import leaderboard_csv
from bench.reporting.markdown import leaderboard_markdown
from bench.runs.files import make_folder, write_atomically

NAMES = ("LEADERBOARD.md", "LEADERBOARD.csv", "LEADERBOARD.json")
SCHEMA = 2


def render(found: Leaderboard) -> dict[str, bytes]:
    """File name -> content."""
    whole = json.dumps(as_object(found), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    texts = (leaderboard_markdown(found), leaderboard_csv(found.boards), whole)
    return {name: text.encode() for name, text in zip(NAMES, texts, strict=True)}


def write(results: Path) -> Leaderboard:
    """Writes the three files into `results` and returns what they hold. Raises RunError when they cannot be written."""
    found = collect(results)
    make_folder(results)
    for name, content in render(found).items():
        write_atomically(results / name, content)
    return found


def check(results: Path) -> Leaderboard:
    """Raises CheckFailed, naming the files, when they are not what the runs give; writes nothing."""
    found = collect(results)
    stale = [name for name, content in render(found).items() if _stored(results / name) != content]
    if stale:
        raise CheckFailed(f"stale in {results}: {', '.join(stale)}; run `bench leaderboard` and commit what it writes")
    return found


def as_object(found: Leaderboard) -> dict[str, Any]:
    """What LEADERBOARD.json holds: every number with full precision, strata included."""
    tables = [
        {
            "signature": board.signature,
            "split": board.split,
            "protocol": board.protocol,
            "fingerprint": board.fingerprint,
            "expressions": board.expressions,
            "pictures": board.pictures,
            "rows": list(board.rows),
        }
        for board in found.boards
    ]
    left_out = [{"run": entry.run, "reason": entry.reason} for entry in found.left_out]
    return {"schema_version": SCHEMA, "tables": tables, "left_out": left_out}


def _stored(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
