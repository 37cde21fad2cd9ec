"""Pseudo-labels written down: as JSONL, a row at a time, and as the official lists of CLIP-VG, one file a source.

    STEM/STEM_train_pseudo.pth                                   what is trained on
    STEM/train_separate/1_STEM_train_pseudo_template_0_5.pth     one source; the leading number is the order of merging,
    STEM/train_separate/2_STEM_train_pseudo_relation_0_5.pth     the last one the reliability threshold it was kept at

Rows of a list are Python lists of five columns, of which two say 'useless placeholder', or three for Flickr30k. Boxes
are in the data set's own format: x, y, width, height of the COCO sets and corners of ReferIt and Flickr30k.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from bench.datasets.load import find_dataset
from bench.datasets.pickles import load_index_list
from bench.datasets.readers.index_lists import FORMATS, PLACEHOLDER, SEPARATED
from bench.datasets.readers.jsonl import read_jsonl, read_provenance
from bench.datasets.readers.rows import BoxFormat, checked_box, checked_file, checked_text
from bench.errors import DataError, UsageError
from bench.grounding import Scene
from bench.labelling import PseudoLabel
from bench.runs.files import Appender, explained, make_folder, temporary_name, write_atomically
from bench.runs.lock import locked

ADVICE = "free some space or choose another --out"
PLACES = 2  # a box is written to a hundredth of a pixel


def check_jsonl_name(path: Path) -> None:
    """Raise UsageError for a name that `--labels` would not read back as JSONL, or that is a folder."""
    if path.is_dir():
        raise UsageError(f"--out {path}: that is a folder; name a file in it, for example {path / 'labels.jsonl'}")
    if path.suffix != ".jsonl":
        raise UsageError(f"--out {path}: pseudo-labels are written as .jsonl, for example {path.with_suffix('.jsonl')}")


def write_labels(
    path: Path, labels: Iterable[PseudoLabel], split: str, on_label: Callable[[PseudoLabel], None] = lambda label: None
) -> tuple[int, int, int]:
    """Write labels as JSONL; returns the numbers of rows, of images with a row, and of duplicates left out.

    Ids are SOURCE-SPLIT-NUMBER, boxes xyxy to 0.01 pixel. A label that repeats image, text and box is a duplicate.
    `on_label` is called with every label as it comes. Where not one label comes, nothing is written. Raises DataError
    for a label that cannot be a row, RunError where the file cannot be written; whatever is raised, here or by the
    source, `path` is as it was.
    """
    part = temporary_name(path, "part")
    rows = duplicates = 0
    known: set[tuple[str, str, tuple[float, ...]]] = set()
    try:
        with explained(path, ADVICE):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("w", encoding="utf-8", newline="\n")
        with file:
            for label in labels:
                on_label(label)
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
    return rows, len({image for image, _, _ in known}), duplicates


@contextmanager
def continued(
    out: Path, key: str, scenes: Sequence[Scene]
) -> Iterator[tuple[int, Callable[[Iterable[PseudoLabel]], Iterator[PseudoLabel]]]]:
    """Yield the place of the scene to continue with, and what puts the labels stored before in front of new ones.

    New labels are stored as they come, in a hidden file beside `out`: a line with `key`, a hash of all that labels
    depend on, then a line a label. It is removed when the block ends well. Raises RunError where another process makes
    labels for `out`.
    """
    path = out.with_name(f".{out.name}.resume")
    make_folder(out.parent)
    with locked(out.with_name(f".{out.name}.lock"), "this file of labels", fresh=False):
        start, size = _stored_until(path, key, scenes)
        yield start, lambda new: chain(_stored(path, size, scenes), _storing(path, key, size, new))
        path.unlink(missing_ok=True)


def _stored_until(path: Path, key: str, scenes: Sequence[Scene]) -> tuple[int, int]:
    """Return the scene to continue with, and the bytes of the labels before it; (0, 0) to begin anew.

    It is the last scene that has a label, for it may lack some: a source has something about the first of its scenes
    then, as it would about all of them, where its files know only a part.
    """
    places = {scene.id: place for place, scene in enumerate(scenes)}
    start = size = at = 0
    with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:  # up to what is damaged
        for line in file:
            row = json.loads(line)
            if at == 0 and row["key"] != key:
                break
            if at and ((place := places[row["scene"]]) > start or not size):
                start, size = place, at
            at += len(line)
    return start, size


def _stored(path: Path, size: int, scenes: Sequence[Scene]) -> Iterator[PseudoLabel]:
    """Yield the labels in the first `size` bytes of a file."""
    if not size:
        return
    by_id = {scene.id: scene for scene in scenes}
    with path.open("rb") as file:
        file.readline()  # the key
        while file.tell() < size:
            row = json.loads(file.readline())
            x1, y1, x2, y2 = row["box_xyxy"]
            yield PseudoLabel(by_id[row["scene"]], row["text"], (x1, y1, x2, y2), row["provenance"])


def _storing(path: Path, key: str, size: int, labels: Iterable[PseudoLabel]) -> Iterator[PseudoLabel]:
    """Yield labels, and store each after the first `size` bytes of a file once it was taken. Raises RunError."""
    with ExitStack() as closing:
        file: Appender | None = None
        for label in labels:
            yield label
            if file is None:  # a command that makes no label leaves no file
                with explained(path), suppress(FileNotFoundError):
                    os.truncate(path, size)
                file = closing.enter_context(Appender(path))
                file.write("" if size else json.dumps({"key": key}) + "\n")
            box = list(map(float, label.box))
            row = {"scene": label.scene.id, "text": label.text, "box_xyxy": box, "provenance": label.provenance}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def label_row(label: PseudoLabel, name: str) -> dict[str, Any]:
    """Make the line's object, `name` as its id. Raises DataError when the box or the text cannot be a row's."""
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


ORDER = ("template", "relation", "caption")  # merged in this order; sources of another name come after, by name


def list_format(dataset: str) -> tuple[str, BoxFormat, int]:
    """Return the stem of the data set's list names, how its boxes are written, and the columns of a row.

    Raises UsageError where no lists are known.
    """
    if dataset not in FORMATS:
        whose = "your own data" if dataset == "file" else dataset
        raise UsageError(
            f"{whose}: official lists hold boxes as their data set does, and of this one nothing is known (known: "
            f"{', '.join(FORMATS)}); --split says whose images they are"
        )
    known = find_dataset(dataset)
    return getattr(known, "stem", dataset), FORMATS[dataset], getattr(known, "list_columns", 5)


def export_lists(files: Sequence[Path], out: Path, dataset: str, threshold: float = 0.5) -> list[Path]:
    """Write JSONL files as lists under `out`, one a source and one of all that lie there; returns their paths.

    `threshold` goes into the names and nowhere else: rows are as they are in the files. Raises UsageError for a data
    set without lists, DataError for a row that says no source and an image in a folder, which no list can name.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"--threshold {threshold:g}: a reliability is 0 to 1")
    stem, form, columns = list_format(dataset)
    by_source: dict[str, list[list[Any]]] = {}
    for path in files:
        for source, row in _rows(path, form, columns):
            by_source.setdefault(source, []).append(row)
    folder = out / stem / "train_separate"
    make_folder(folder)
    others = sorted(set(by_source) - set(ORDER))
    written = []
    for number, source in enumerate((*ORDER, *others), 1):
        if source in by_source:
            path = folder / f"{number}_{stem}_train_pseudo_{source}_{threshold_name(threshold)}.pth"
            save_list(path, by_source[source])
            written.append(path)
    single = out / stem / f"{stem}_train_pseudo.pth"
    save_list(single, merge_separated(folder))
    return [*written, single]


def merge_separated(folder: Path) -> list[list[Any]]:
    """Load the rows of a folder's separated lists, one after the other by their leading numbers.

    Raises DataError when two lists have the same number (one source at two thresholds, it may be), or none is there.
    """
    numbered: dict[int, Path] = {}
    for path in sorted(folder.glob("*.pth")):
        match = SEPARATED.fullmatch(path.name)
        if match is None:
            continue
        other = numbered.setdefault(int(match[1]), path)
        if other != path:
            raise DataError(
                f"{folder}: {other.name} and {path.name} both come at place {match[1]}; move away the one "
                "that is not meant"
            )
    if not numbered:
        raise DataError(f"{folder}: no list in it has a name like 1_unc_train_pseudo_template_0_5.pth")
    return [list(row) for _, path in sorted(numbered.items()) for row in load_index_list(path)]


def save_list(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Write a list as the official code loads it, whole or not at all. Raises RunError."""
    import torch

    data = io.BytesIO()
    torch.save([list(row) for row in rows], data)
    write_atomically(path, data.getvalue())


def pseudo_row(file: str, box: Sequence[float], text: str, form: BoxFormat, columns: int = 5) -> list[Any]:
    """Make one row of a list from an xyxy box; of three columns as in Flickr30k's, or of five."""
    values = list(box) if form == "xyxy" else [box[0], box[1], _side(box[0], box[2]), _side(box[1], box[3])]
    return [file, values, text] if columns == 3 else [file, PLACEHOLDER, values, text, PLACEHOLDER]


def _rows(path: Path, form: BoxFormat, columns: int) -> list[tuple[str, list[Any]]]:
    if path.suffix != ".jsonl":
        raise UsageError(f"{path}: lists are made from pseudo-labels in .jsonl, as `bench label` writes them")
    provenance = read_provenance(path)
    return [
        (
            _source(expression.id, provenance, path),
            pseudo_row(checked_file(scene.file, str(path)), expression.box, expression.text, form, columns),
        )
        for scene in read_jsonl(path)
        for expression in scene.expressions
    ]


def _source(row: str, provenance: Mapping[str, Mapping[str, Any]], path: Path) -> str:
    source = provenance.get(row, {}).get("source")
    if not isinstance(source, str) or not re.fullmatch(r"[\w.+-]+", source):
        raise DataError(
            f"{path}: row {row} does not say which source it comes from, after which a list is called; its "
            'provenance should, {"source": "template"}'
        )
    return source


def _side(low: float, high: float) -> float:
    """Return the width w for which low + w is `high` to the last bit, where a float is; else one bit off."""
    side = high - low
    near = (side, math.nextafter(side, 0.0), math.nextafter(side, math.inf))
    return next((w for w in near if low + w == high), side)


def threshold_name(threshold: float) -> str:
    """Write a threshold as file names do: 0.5 -> "0_5", 1 -> "1_0"."""
    text = f"{threshold:.6f}".rstrip("0")
    return (text + "0" if text.endswith(".") else text).replace(".", "_")
