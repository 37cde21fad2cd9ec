"""The folder of `bench label score`: its record, a file of rows for each pair of scorer and source, a drawing.

reliability.json            every pair: rows, mean, shares, histogram, and the hashes of what it was made from
reliability.svg             their histograms
SCORER--SOURCE.jsonl        {"id": "7", "reliability": 0.83, "box_xyxy": [x1, y1, x2, y2] | null}, a line a row
nodes/                      the memo of finished pairs (bench/runs/memo.py), and the answers of a pair that is not
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.grounding import Box
from bench.hashing import sha256_file
from bench.runs.files import write_atomically

RECORD, IMAGE = "reliability.json", "reliability.svg"
Key = tuple[str, str]  # scorer, source
Pair = dict[str, Any]
Row = tuple[float, Box | None]  # reliability, and the scorer's box


def rows_path(out: Path, key: Key) -> Path:
    """Return the path of a pair's rows."""
    return out / f"{'--'.join(key)}.jsonl"


def rows_are_intact(out: Path, pair: Mapping[str, Any]) -> bool:
    """Tell whether a pair's file of rows still has the hash of its entry."""
    path = out / str(pair["file"])
    return path.is_file() and pair["file_sha256"] == sha256_file(path)


def write_rows(out: Path, key: Key, rows: Mapping[str, Row]) -> dict[str, str]:
    """Write the rows of a pair; returns {"file", "file_sha256"} for its entry. Raises RunError."""
    path = rows_path(out, key)
    lines = (
        json.dumps({"id": name, "reliability": iou, "box_xyxy": box}, ensure_ascii=False) + "\n"
        for name, (iou, box) in rows.items()
    )
    write_atomically(path, "".join(lines).encode())
    return {"file": path.name, "file_sha256": sha256_file(path)}


def read_rows(out: Path, key: Key) -> dict[str, Row]:
    """Load the rows of a pair, by expression id."""
    lines = map(json.loads, rows_path(out, key).read_text(encoding="utf-8").splitlines())
    return {row["id"]: (row["reliability"], row["box_xyxy"] and tuple(row["box_xyxy"])) for row in lines}


def write_record(out: Path, record: Mapping[str, Any], image: str) -> None:
    """Write reliability.json, indented, its pairs a line each for their histograms; and the image."""
    head = json.dumps({k: v for k, v in record.items() if k != "pairs"}, indent=2, ensure_ascii=False)
    pairs = ",\n".join(f"    {json.dumps(pair, ensure_ascii=False)}" for pair in record["pairs"])
    whole = head.removesuffix("\n}") + f',\n  "pairs": [\n{pairs}\n  ]\n}}\n'
    write_atomically(out / RECORD, whole.encode())
    write_atomically(out / IMAGE, image.encode())
