"""Writing pseudo-labels down as JSONL, a row at a time, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.datasets.rows import checked_box, checked_text
from bench.errors import DataError, UsageError
from bench.labelling import PseudoLabel
from bench.runs.files import explained

ADVICE = "free some space or choose another --out"
PLACES = 2  # a box is written to a hundredth of a pixel


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the labels of a source: rows in the file, pictures with at least one, duplicates left out."""

    rows: int
    pictures: int
    duplicates: int


def check_jsonl_name(path: Path) -> None:
    """Raises UsageError for a name that `--labels` would not read back as JSONL, or that is a folder."""
    if path.is_dir():
        raise UsageError(f"--out {path}: that is a folder; name a file in it, for example {path / 'labels.jsonl'}")
    if path.suffix != ".jsonl":
        raise UsageError(f"--out {path}: pseudo-labels are written as .jsonl, for example {path.with_suffix('.jsonl')}")


def write_labels(
    path: Path, labels: Iterable[PseudoLabel], split: str, seen: Callable[[PseudoLabel], None] | None = None
) -> Written:
    """One line of bench/datasets/jsonl.py a label; ids are SOURCE-SPLIT-NUMBER, boxes xyxy to 0.01 pixel.

    A label that repeats picture, text and box is left out and counted. `seen` is told of every label as it comes, for
    a progress line. Where not one label comes, nothing is written. Raises DataError for a label that cannot be a row,
    RunError where the file cannot be written; whatever is raised, here or by the source, `path` is as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    rows = duplicates = 0
    known: set[tuple[str, str, tuple[float, ...]]] = set()
    try:
        with explained(path, ADVICE):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("w", encoding="utf-8", newline="\n")
        with file:
            for label in labels:
                if seen is not None:
                    seen(label)
                row = label_row(label, f"{label.provenance.get('source')}-{split}-{rows}")
                key = (row["image"], row["text"], tuple(row["box_xyxy"]))
                if key in known:
                    duplicates += 1
                    continue
                known.add(key)
                line = _line(row)
                with explained(path, ADVICE):
                    file.write(line)
                rows += 1
            with explained(path, ADVICE):
                file.flush()
                os.fsync(file.fileno())
        if rows:
            with explained(path, ADVICE):
                part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return Written(rows, len({image for image, _, _ in known}), duplicates)


def label_row(label: PseudoLabel, name: str) -> dict[str, Any]:
    """The line's object, `name` as its id. Raises DataError when the box or the text cannot be a row's."""
    scene, source = label.scene, label.provenance.get("source")
    where = f"a label of {source} about {scene.file}"
    box = checked_box(list(map(float, label.box)), where, "xyxy")
    row: dict[str, Any] = {"image": scene.file}
    if scene.width and scene.height:
        row |= {"width": scene.width, "height": scene.height}
    row |= {"text": checked_text(" ".join(label.text.split()), where)}
    row |= {"box_xyxy": checked_box([round(side, PLACES) for side in box], where, "xyxy")}
    return row | {"id": name, "kind": source, "provenance": dict(label.provenance)}


def _line(row: dict[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(
            f"a label of {row['kind']} about {row['image']}: its provenance should be plain JSON ({error})"
        ) from None
