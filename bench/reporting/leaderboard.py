"""LEADERBOARD.md, .csv and .json: every run under results/runs, in one table for each signature.

The same runs give the same bytes: nothing of the moment or of this machine is written, so a check can tell stale files.

In the CSV every number is as it is. A spreadsheet takes a cell that begins with =, +, -, @, a tab or a carriage return
for a formula and may run it, and names are data of strangers: text cells that begin so get a ' before them, which a
spreadsheet hides. LEADERBOARD.json holds every name exactly as it is.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import CheckFailed
from bench.reporting import table
from bench.reporting.boards import Board, Leaderboard, collect
from bench.reporting.markdown import leaderboard_markdown
from bench.runs.files import make_folder, write_atomically

NAMES = ("LEADERBOARD.md", "LEADERBOARD.csv", "LEADERBOARD.json")
SCHEMA = 2
FIELDS = (
    "signature", "split", "protocol", "pipeline", "rank_best", "rank_worst", "n", "hits", "acc@0.5", "ci95_low",
    "ci95_high", "acc@0.7", "acc@0.9", "mean_iou", "oracle@0.5", "proposals_per_image", "no_box", "errors",
    "duplicates", "missing", "extra", "other_image", "speed_expressions_per_s", "speed_low", "speed_high",
    "speed_batch_size", "p50_ms", "p90_ms", "p99_ms", "joules_per_expression", "speed_noisy", "peak_gb", "peak_gb_of",
    "parameters", "training_data", "published", "published_difference", "published_source", "expressions_per_s",
    "images_per_s", "peak_memory_mb", "device", "dtype", "weights", "trained_on", "licence", "saw_test_images",
    "provenance", "submitted", "date", "commit", "settings_hash", "older_runs", "run_dir",
)  # fmt: skip
FLATTENED = ("rank", "ci95", "speed", "latency_ms")  # columns that have other fields in the CSV
FORMULA = ("=", "+", "-", "@", "\t", "\r")


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


def _stored(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def as_object(found: Leaderboard) -> dict[str, Any]:
    """What LEADERBOARD.json holds: every number with full precision, strata included."""
    keys = ("signature", "split", "protocol", "fingerprint", "expressions", "images", "rows")
    tables = [{key: getattr(board, key) for key in keys} for board in found.boards]
    left_out = [asdict(entry) for entry in found.left_out]
    return {"schema_version": SCHEMA, "tables": tables, "left_out": left_out}


def leaderboard_csv(boards: Iterable[Board]) -> str:
    """The whole of LEADERBOARD.csv."""
    out = io.StringIO()
    added = [column for column in table.COLUMNS if column.name not in FIELDS + FLATTENED]
    writer = csv.DictWriter(out, (*FIELDS, *(column.name for column in added)), lineterminator="\n")
    writer.writeheader()
    for board in boards:
        for entry in board.rows:
            values = {column.name: column.raw(entry) for column in added} | _flat(entry)
            for field, value in values.items():
                if isinstance(value, str) and value.startswith(FORMULA):
                    values[field] = f"'{value}"
            writer.writerow(values)
    return out.getvalue()


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The row without what is nested; `published` is the first published accuracy, in percent like its difference."""
    low, high = entry["ci95"]
    best, worst = entry["rank"] or (None, None)
    flat = {field: entry[field] for field in FIELDS if field in entry and field not in ("published", "weights")}
    flat |= {"ci95_low": low, "ci95_high": high, "rank_best": best, "rank_worst": worst}
    flat |= {"weights": json.dumps(entry["weights"], sort_keys=True), "older_runs": len(entry["history"])}
    if measured := entry["speed"]:
        rate = measured["expressions_per_s"]
        flat |= {"speed_expressions_per_s": rate["median"], "speed_low": rate["low"], "speed_high": rate["high"]}
        flat |= {"speed_batch_size": measured["batch_size"], "speed_noisy": "; ".join(measured["noisy"])}
        flat |= {key: measured[key] for key in ("p50_ms", "p90_ms", "p99_ms", "joules_per_expression")}
    if found := [said for said in entry["published"] if said["metric"] == "acc@0.5"]:
        flat |= {"published": found[0]["value"], "published_difference": found[0]["difference"]}
        flat["published_source"] = found[0]["source"]
    return flat
