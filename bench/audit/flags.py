"""Flags: what a person says of labels, by the id of the expression; and other people's reviews read as such.

    {"format": "bench-flags", "version": 1, "split": "refcoco-val", "fingerprint": "1a2b...", "source": "audit.html",
     "flags": {"17": "ok", "23": "doubtful"}}

An expression without a flag is `unknown`. A flag never changes a number that is stored: `bench score RUN --flags`
prints the stored one and, under a protocol of its own, the one without doubtful labels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from bench.boxes import box_xywh_to_xyxy
from bench.datasets.annotations import Annotations, annotations_of
from bench.datasets.split import Split
from bench.errors import DataError, UsageError, short
from bench.hashing import sha256_file
from bench.inputs import is_number, load_json, load_text, parsed_json
from bench.runs.files import write_atomically

FORMAT, VERSION = "bench-flags", 1
Flag = Literal["ok", "doubtful"]
IDS = ("sent_id", "sentence_id", "id")
TARGETS = ("ann_id", "annotation_id", "ref_id", "question_id")
TEXTS = ("caption", "sent", "sentence", "expression", "text", "phrase")
IMAGES = ("file_name", "image", "image_file", "img_path")
NEAR = 1.5  # pixels by which two files may round the same box apart


@dataclass(frozen=True, slots=True)
class Flags:
    """Flags of a split's expressions, by id; `digest` is the file's sha256."""

    split: str
    fingerprint: str
    flags: Mapping[str, Flag]
    digest: str


def read_flags(path: Path) -> Flags:
    """Load a file of flags. Raises DataError, naming the entry that is none."""
    value = load_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise DataError(
            f'{path}: is no file of flags: expected {{"format": "{FORMAT}", ...}}, as `bench audit` saves it'
        )
    if value.get("version") != VERSION:
        raise DataError(f"{path}: version {short(value.get('version'))} of flags; this program reads {VERSION}")
    flags = value.get("flags")
    if not isinstance(flags, dict) or not all(isinstance(value.get(key), str) for key in ("split", "fingerprint")):
        raise DataError(f"{path}: expected `split` and `fingerprint`, texts, and `flags`, expression id -> flag")
    for name, flag in flags.items():
        if flag not in get_args(Flag):
            raise DataError(f"{path}: flag {short(flag)} of expression {short(name)}; expected ok or doubtful")
    return Flags(value["split"], value["fingerprint"], flags, sha256_file(path))


def write_flags(path: Path, split: Split, flags: Mapping[str, Flag], source: str) -> None:
    """Write flags of a split's expressions, whole or not at all. Raises RunError."""
    value = {"format": FORMAT, "version": VERSION, "split": split.name, "fingerprint": split.fingerprint,
             "source": source, "flags": dict(flags)}  # fmt: skip
    write_atomically(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def labels(flags: Flags, split: Split) -> list[Flag | None]:
    """Return the flag of each expression in the split's order. Raises DataError for flags of another split."""
    known = annotations_of(split.scenes).position
    if flags.fingerprint != split.fingerprint:
        raise DataError(
            f"the flags are of {flags.split} with fingerprint {flags.fingerprint[:8]}, the run's split is {split.name} "
            f"with {split.fingerprint[:8]}; make flags for it with bench audit, or bench data review"
        )
    if strange := [name for name in flags.flags if name not in known]:
        raise DataError(
            f"{len(strange):,} flags are of ids that {split.name} does not have, such as {short(strange[0])}"
        )
    return [flags.flags.get(name) for name in known]


@dataclass(frozen=True, slots=True)
class Review:
    """Somebody's review matched with a split: flags by id, and how many rows each way of matching fits."""

    flags: dict[str, Flag]
    rows: int
    by_id: int
    by_target: int
    by_box: int

    @property
    def unmatched(self) -> int:
        return self.rows - self.by_id - self.by_target - self.by_box


def read_review(path: Path, split: Split, doubtful: str, xywh: bool = True) -> Review:
    """Match a file of reviewed expressions with a split: by id and text, else target and text, else box and text.

    `doubtful` is KEY=VALUE[,VALUE]: rows with that value are doubtful, other rows ok. Boxes ("bbox") are x, y, width,
    height, unless not `xywh`. Raises DataError for a file that is none, and UsageError, naming the keys it has, where
    the key is missing.
    """
    rows = _rows(path)
    key, given, values = doubtful.partition("=")
    if not given or not all(key in row for row in rows):
        raise UsageError(f"{path}: --doubtful KEY=VALUE names a key of its rows and what a wrong label has there; "
                         f"{_schema(rows)}")  # fmt: skip
    wrong = set(values.split(","))
    known = annotations_of(split.scenes)
    ids = list(known.position)
    by_text: dict[str, list[int]] = {}
    for place, text in enumerate(known.texts):
        by_text.setdefault(_plain(text), []).append(place)
    ref_ids = {e.id: e.ref_id for scene in split.scenes for e in scene.expressions}
    counts, flags = Counter[str](), dict[str, Flag]()
    for row in rows:
        flag: Flag = "doubtful" if str(row[key]) in wrong else "ok"
        places = by_text.get(_plain(_first(row, TEXTS)), [])
        how, matches = _match(row, places, ids, ref_ids, known, xywh)
        counts[how] += 1
        for place in matches:
            flags[ids[place]] = "doubtful" if flags.get(ids[place]) == "doubtful" else flag
    return Review(flags, len(rows), counts["id"], counts["target"], counts["box"])


def _match(
    row: Mapping[str, Any], places: Sequence[int], ids: Sequence[str], ref_ids: Mapping[str, str | None],
    known: Annotations, xywh: bool,
) -> tuple[str, list[int]]:  # fmt: skip
    """Find a row among the expressions at `places`, which have its text -> how, and where."""
    # 1. By the sentence's id. An id alone may be another file's numbering, hence the text too.
    own = {str(row[key]) for key in IDS if key in row}
    if matches := [place for place in places if ids[place] in own]:
        return "id", matches
    # 2. By the id of the object.
    target = {str(row[key]) for key in TARGETS if key in row}
    if matches := [place for place in places if ref_ids[ids[place]] in target]:
        return "target", matches
    # 3. By the box, on the same image where the row names one: a box and a text alone rarely meet twice.
    box, name = row.get("bbox", row.get("box")), _first(row, IMAGES)
    if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
        corners = box_xywh_to_xyxy(box) if xywh else np.array(box, np.float64)
        near = [place for place in places if np.abs(known.boxes[place] - corners).max() <= NEAR]
        files = {place: Path(known.files[known.image[place]]).name for place in near}
        matches = [place for place in near if not name or files[place] == Path(name).name]
        if len(matches) == 1 or (name and matches):
            return "box", matches
    return "", []


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines, a JSON list, or an object with one list, of objects."""
    text = load_text(path)
    if path.suffix == ".jsonl":
        lines: Iterable[Any] = (
            parsed_json(line, f"{path}:{n}") for n, line in enumerate(text.splitlines(), 1) if line.strip()
        )
    else:
        lines = parsed_json(text, str(path))
        if isinstance(lines, dict):
            lines = next((value for value in lines.values() if isinstance(value, list)), [])
    rows = list(lines) if isinstance(lines, Iterable) else []
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a list of objects, one an expression, or JSON lines")
    return rows


def _schema(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the keys of rows with examples, for a message."""
    keys = {key: value for row in rows for key, value in row.items()}
    return "its rows have " + ", ".join(f"{key} ({short(value)})" for key, value in list(keys.items())[:20])


def _first(row: Mapping[str, Any], keys: Iterable[str]) -> str:
    return next((str(row[key]) for key in keys if isinstance(row.get(key), str)), "")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
