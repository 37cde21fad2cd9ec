"""The folder of `bench label score`: its record, a file of rows for each pair of scorer and source, a drawing.

    reliability.json            every pair: rows, mean, shares, histogram, and the hashes of what it was made from
    reliability.svg             their histograms
    SCORER--SOURCE.jsonl      {"id": "7", "reliability": 0.83, "box_xyxy": [x1, y1, x2, y2] | null}, a line a row

A pair is done when its entry names the label file and settings in force and its rows hash as they were written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.grounding import Box
from bench.hashing import sha256_file
from bench.old_names import current
from bench.runs.files import make_folder, write_atomically

RECORD, IMAGE = "reliability.json", "reliability.svg"
Key = tuple[str, str]  # scorer, source
Pair = dict[str, Any]
Row = tuple[float, Box | None]  # reliability, and the scorer's box


def rows_path(out: Path, key: Key) -> Path:
    """Where the rows of a pair lie."""
    return out / f"{'--'.join(key)}.jsonl"


def open_folder(out: Path) -> dict[Key, Pair]:
    """Make the folder, and read the entries of an earlier call, by pair. Raises RunError for a broken record."""
    make_folder(out)
    try:
        record = current(json.loads((out / RECORD).read_text(encoding="utf-8")))
        return {(pair["scorer"], pair["source"]): pair for pair in record["pairs"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{out / RECORD}: cannot be read ({error}); remove it or choose another --out") from None


def is_done(out: Path, key: Key, pair: Mapping[str, Any], labels_sha256: str, settings: str) -> bool:
    """Whether `pair` was made from that label file under those settings, and its rows are still what it says."""
    path = rows_path(out, key)
    same = (pair.get("labels_sha256"), pair.get("settings")) == (labels_sha256, settings)
    return same and path.is_file() and pair.get("file_sha256") == sha256_file(path)


def write_rows(out: Path, key: Key, rows: Mapping[str, Row]) -> dict[str, str]:
    """Writes the rows of a pair; {"file", "file_sha256"} for its entry. Raises RunError."""
    path = rows_path(out, key)
    lines = (
        json.dumps({"id": name, "reliability": iou, "box_xyxy": box}, ensure_ascii=False) + "\n"
        for name, (iou, box) in rows.items()
    )
    write_atomically(path, "".join(lines).encode())
    return {"file": path.name, "file_sha256": sha256_file(path)}


def read_rows(out: Path, key: Key) -> dict[str, Row]:
    """The rows of a pair, by expression id, as they were written."""
    lines = map(json.loads, rows_path(out, key).read_text(encoding="utf-8").splitlines())
    return {row["id"]: (row["reliability"], row["box_xyxy"] and tuple(row["box_xyxy"])) for row in lines}


def write_record(out: Path, record: Mapping[str, Any], image: str) -> None:
    """reliability.json, indented, but its pairs a line each for the sake of their histograms; and the image."""
    head = json.dumps({k: v for k, v in record.items() if k != "pairs"}, indent=2, ensure_ascii=False)
    pairs = ",\n".join(f"    {json.dumps(pair, ensure_ascii=False)}" for pair in record["pairs"])
    whole = head.removesuffix("\n}") + f',\n  "pairs": [\n{pairs}\n  ]\n}}\n'
    write_atomically(out / RECORD, whole.encode())
    write_atomically(out / IMAGE, image.encode())
