"""Scene graphs that were found elsewhere, by RelTR for example: triplets of each picture, or phrases made of them.

    graphs.jsonl   {"image": "COCO_train2014_000000581857.jpg", "triplets": [TRIPLET, ...]}      a line for each picture
    graphs.json    a list of the same

    TRIPLET        {"subject": "man", "predicate": "on", "object": "horse",
                    "subject_box": [x1, y1, x2, y2], "object_box": [x1, y1, x2, y2], "scores": [0.9, 0.8, 0.9]}

    *_train_pseudo_split_0.pth     an index list of finished phrases, as CLIP-VG's authors hand theirs out

Boxes of triplets are corners in pixels of the original picture. `object_box` may be left out, and `scores` (of subject,
predicate and object, in that order) where all three are sure. A picture may stand in several lines, and is found by its
name without folders: 581857 and COCO_train2014_000000581857.jpg are one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.datasets.fingerprint import picture_key
from bench.datasets.index_lists import read_index_list
from bench.datasets.rows import checked_box, checked_text
from bench.errors import DataError
from bench.grounding import Expression
from clipvg.pseudo_labels.triplets import Triplet

EXPECTED = (
    '{"image": "a.jpg", "triplets": [{"subject": "man", "predicate": "on", "object": "horse", "subject_box": [...]}]}'
)
KEYS = {"subject", "predicate", "object", "subject_box", "object_box", "scores"}


def read_triplets(path: Path) -> dict[str, list[tuple[str, Triplet]]]:
    """Picture key -> its triplets in the order of the file, each with where it stands for a message.

    Raises DataError naming the file, the line or entry, the triplet, and what was expected.
    """
    out: dict[str, list[tuple[str, Triplet]]] = {}
    for where, entry in _entries(path):
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("triplets"), list)
            or set(entry) - {"image", "triplets"}
        ):
            raise DataError(
                f"{where}: {_short(entry)}; expected an object with the keys image and triplets: {EXPECTED}"
            )
        image = entry.get("image")
        if isinstance(image, bool) or not isinstance(image, (str, int)) or not str(image).strip():
            raise DataError(f"{where}: the image is {_short(image)}; expected a file's name or a COCO number")
        found = out.setdefault(picture_key(str(image)), [])
        for number, triplet in enumerate(entry["triplets"]):
            place = f"{where}: triplet {number}"
            found.append((place, _triplet(triplet, place)))
    if not out:
        raise DataError(f"{path}: it holds no pictures; expected {EXPECTED}")
    return out


def read_phrases(path: Path, dataset: str) -> dict[str, list[Expression]]:
    """Picture key -> the finished phrases of an index list with their subjects' boxes, xyxy pixels.

    Raises UnknownName for a data set whose lists are not known, UnsafePickle, DataError.
    """
    out: dict[str, list[Expression]] = {}
    for scene in read_index_list(path, dataset):
        out.setdefault(picture_key(scene.file), []).extend(scene.expressions)
    return out


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if path.suffix == ".jsonl":
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                where = f"{path}: line {number}"
                yield where, _parsed(line, where)
        return
    held = _parsed(data, str(path))
    if not isinstance(held, list):
        raise DataError(f"{path}: holds {_short(held)}; expected a list of {EXPECTED}")
    for number, entry in enumerate(held):
        yield f"{path}: entry {number}", entry


def _parsed(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON in UTF-8 ({error}); is it cut?") from None


def _triplet(held: Any, where: str) -> Triplet:
    if not isinstance(held, dict):
        raise DataError(f"{where}: {_short(held)}; expected an object with the keys {', '.join(sorted(KEYS))}")
    if unknown := sorted(set(held) - KEYS):
        raise DataError(f"{where}: the key {unknown[0]!r} is not known; known: {', '.join(sorted(KEYS))}")
    if lacking := sorted(KEYS - {"object_box", "scores"} - set(held)):
        raise DataError(f"{where}: the key {lacking[0]!r} is missing")
    words = [checked_text(held[key], f"{where}: {key}").lower() for key in ("subject", "predicate", "object")]
    other = held.get("object_box")
    return Triplet(
        words[0],
        words[1],
        words[2],
        checked_box(held["subject_box"], f"{where}: subject_box", "xyxy"),
        None if other is None else checked_box(other, f"{where}: object_box", "xyxy"),
        _scores(held.get("scores", [1.0, 1.0, 1.0]), where),
    )


def _scores(held: Any, where: str) -> tuple[float, float, float]:
    good = isinstance(held, list) and len(held) == 3 and not any(isinstance(v, bool) for v in held)
    if not good or not all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in held):
        raise DataError(
            f"{where}: scores is {_short(held)}; expected three numbers from 0 to 1: of subject, predicate, object"
        )
    subject, predicate, other = (float(v) for v in held)
    return subject, predicate, other


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
