"""LEADERBOARD.md, .csv and .json: every run under results/runs, in one table for each signature.

The same runs give the same bytes: nothing of the moment or of this machine is written, so a check can tell stale files.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from bench.errors import CheckFailed
from bench.reporting.boards import Leaderboard, collect
from bench.reporting.markdown import leaderboard_markdown
from bench.runs.files import make_folder, write_atomically

NAMES = ("LEADERBOARD.md", "LEADERBOARD.csv", "LEADERBOARD.json")
FIELDS = (
    "signature", "split", "protocol", "pipeline", "n", "hits", "acc@0.5", "ci95_low", "ci95_high", "acc@0.7", "acc@0.9",
    "mean_iou", "oracle@0.5", "proposals_per_picture", "no_box", "errors", "duplicates", "missing", "extra",
    "other_picture", "expressions_per_s", "pictures_per_s", "peak_memory_mb", "device", "dtype", "weights",
    "trained_on", "licence", "saw_test_images", "provenance", "date", "commit", "settings_hash", "run_dir",
)  # fmt: skip


def render(found: Leaderboard) -> dict[str, bytes]:
    """File name -> content."""
    whole = json.dumps(as_object(found), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    texts = (leaderboard_markdown(found), _csv(found), whole)
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
    return {"schema_version": 1, "tables": tables, "left_out": left_out}


def _csv(found: Leaderboard) -> str:
    """One line a run, every number as it is."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for board in found.boards:
        for entry in board.rows:
            low, high = entry["ci95"]
            flat = {"ci95_low": low, "ci95_high": high, "weights": json.dumps(entry["weights"], sort_keys=True)}
            writer.writerow({**entry, **flat})
    return out.getvalue()


def _stored(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
