"""The files of the official scorer: the rows that are kept, and every row with its IoU (CLIP-VG's own code).

    DS_train_pseudo_refine_0_0.pth ... _0_9.pth   rows whose IoU is above 0.0 ... 0.9, in the layout of index lists
    DS_train_pseudo_refine_1_0.pth                rows whose IoU is exactly 1
    DS_train_pseudo_bad_label_0_0.pth, _0_4.pth   rows whose IoU is 0, or under 0.4, with the IoU as a last column
    DS_train_pseudo_iou_result.pth                seven columns: image file, placeholder, box, phrase, the row's box
                                                  and the scorer's as tensors, IoU

DS is the official folder's name; phrases are lower-cased; a box stands as it was in the list. The two tensors are
centre, width and height in 0..1 of the square that the image is padded to: written here, that square is exactly
centred, the row's box is not cut to whole pixels, and a tensor is NaN where there is no box.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.boxes import box_xyxy_to_cxcywh
from bench.datasets.readers.rows import checked_file, checked_text, is_number
from bench.datasets.torch_files import as_text, load_index_list, load_torch
from bench.errors import DataError, short
from bench.grounding import Box, Scene
from bench.hashing import sha256_file
from bench.labelling.label_files import list_format, pseudo_row, save_list, threshold_name
from bench.reporting.reliability_chart import reliability_chart
from bench.reporting.reliability_table import summary
from bench.runs.files import make_folder
from bench.runs.provenance import redacted
from bench.runs.reliability import write_record

THRESHOLDS = tuple(n / 10 for n in range(10))
BAD = 0.4
IOU_RESULT = "_train_pseudo_iou_result.pth"
COLUMNS = 7
CLOSE = 1e-6  # float32 may say 1.0000001

Float = NDArray[np.float64]
Scores = Mapping[str, tuple[float, Box | None]]  # row id -> IoU, and the scorer's box
Sizes = Mapping[str, tuple[int, int]]  # scene id -> width, height
# A row as a list has it: its id, its scene, the box in the data set's format, the same as xyxy pixels, the phrase.
ListRow = tuple[str, Scene, tuple[float, ...], Box, str]
# A row of an iou_result file: image file, box in the data set's format, phrase, the row's box and the scorer's (cxcywh
# in 0..1 of the padded square, None for NaN), IoU.
IouRow = tuple[str, tuple[float, ...], str, Box | None, Box | None, float]


def check_lists(dataset: str) -> None:
    """Raise UsageError for a data set without official lists."""
    list_format(dataset)


def lists_are_written(folder: Path) -> bool:
    """Whether a pair's lists are all in its folder: the one looked for is the last to be written."""
    return any(folder.glob(f"*{IOU_RESULT}"))


def list_rows(path: Path, scenes: Sequence[Scene], dataset: str) -> list[ListRow]:
    """Return the rows of a label file whose scenes are `scenes`, phrases lower-cased.

    Of an index list the boxes are its very numbers, in its order; rows of a JSONL go image by image, boxes in the data
    set's format. Raises UsageError for a data set without official lists.
    """
    _, form, _ = list_format(dataset)
    rows: list[ListRow] = []
    cells = load_index_list(path) if path.suffix == ".pth" else None
    for scene in scenes:
        for e in scene.expressions:
            if cells is None:
                box = pseudo_row(scene.file, e.box, e.text, form, columns=3)[1]
            else:
                row = cells[int(e.id)]
                box = row[1] if len(row) == 3 else row[2]
            rows.append((e.id, scene, _numbers(box), e.box, e.text.lower()))
    return rows if cells is None else sorted(rows, key=lambda row: int(row[0]))


def write_reliability_lists(
    folder: Path, dataset: str, rows: Sequence[ListRow], scores: Scores, sizes: Sizes
) -> list[Path]:
    """Write every file of the official scorer under `folder`; returns them in the order of the table above.

    `sizes` are those of images whose scene has none. Raises RunError where a file cannot be written.
    """
    stem, _, columns = list_format(dataset)
    make_folder(folder)

    # 1. The rows that are kept, in the layout of the data set's lists; boxes are in their own format already.
    ious = [scores[row][0] for row, *_ in rows]
    kept = [pseudo_row(scene.file, box, phrase, "xyxy", columns) for _, scene, box, _, phrase in rows]
    files = {
        f"refine_{threshold_name(h)}": [row for row, r in zip(kept, ious, strict=True) if r > h] for h in THRESHOLDS
    }
    files["refine_1_0"] = [row for row, r in zip(kept, ious, strict=True) if r == 1]
    # 2. The bad ones, always of five columns and the IoU.
    rated = [[*pseudo_row(scene.file, box, phrase, "xyxy"), scores[row][0]] for row, scene, box, _, phrase in rows]
    files["bad_label_0_0"] = [row for row in rated if row[-1] == 0]
    files["bad_label_0_4"] = [row for row in rated if row[-1] < BAD]
    # 3. All of them.
    files["iou_result"] = _iou_result(rows, scores, sizes)
    written = {folder / f"{stem}_train_pseudo_{name}.pth": lines for name, lines in files.items()}
    for path, lines in written.items():
        save_list(path, lines)
    return list(written)


def show_official(path: Path, out: Path) -> dict[str, Any]:
    """Draw and tabulate an official iou_result file, without any scorer; returns the record. Raises DataError."""
    rows = read_iou_result(path)
    make_folder(out)
    source = path.name.removesuffix(IOU_RESULT).removesuffix(".pth")
    pair = {"scorer": "its scorer", "source": source, "kind": ""} | summary([iou for *_, iou in rows])
    pair["no_box"] = sum(prediction is None for *_, prediction, _ in rows)
    official = {"file": path.name, "sha256": sha256_file(path)}
    record = {"command": " ".join(redacted()), "from": official, "pairs": [pair]}
    return store_record(out, record, f"Reliability, {path.name}")


def store_record(out: Path, record: dict[str, Any], title: str) -> dict[str, Any]:
    """Write a record and the histograms of its pairs; returns the record."""
    write_record(out, record, reliability_chart(title, record["pairs"]))
    return record


def read_iou_result(path: Path) -> list[IouRow]:
    """Load the rows of an official iou_result file, in its order; nothing in it is executed.

    Raises UnsafePickle for a pickle that asks for more than containers and tensors, DataError naming file and row.
    """
    rows = load_torch(path)
    if not isinstance(rows, (list, tuple)) or not rows:
        kind = "no rows" if isinstance(rows, (list, tuple)) else f"a {type(rows).__name__}"
        raise DataError(
            f"{path}: an iou_result file holds a list of rows with {COLUMNS} columns, and this holds {kind}"
        )
    return [_iou_row(row, f"{path}: row {number}") for number, row in enumerate(rows)]


def _iou_result(rows: Sequence[ListRow], scores: Scores, sizes: Sizes) -> list[list[object]]:
    import torch

    unknown, nothing = (math.nan, math.nan), (math.nan,) * 4
    images = [
        (scene.width, scene.height) if scene.width and scene.height else sizes.get(scene.id, unknown)
        for _, scene, *_ in rows
    ]
    # Views of one tensor each: a file with a storage a row would be many times as large.
    truths, predictions = (
        torch.from_numpy(_on_square(boxes, images).astype(np.float32))
        for boxes in ([box for *_, box, _ in rows], [scores[row[0]][1] or nothing for row in rows])
    )
    return [
        [*pseudo_row(scene.file, box, phrase, "xyxy")[:4], truth, prediction, scores[row][0]]
        for (row, scene, box, _, phrase), truth, prediction in zip(rows, truths, predictions, strict=True)
    ]


def _on_square(boxes: Sequence[Box], sizes: Sequence[tuple[float, float]]) -> Float:
    """Turn (N, 4) xyxy pixels in images of these sizes into cxcywh in 0..1 of the square around each image."""
    size = np.array(sizes, np.float64).reshape(-1, 2)
    side = size.max(axis=1, keepdims=True)
    shift = np.tile((side - size) / 2, 2)
    return box_xyxy_to_cxcywh((np.array(boxes, np.float64).reshape(-1, 4) + shift) / side)


def _numbers(cell: object) -> tuple[float, ...]:
    return tuple(float(v) for v in np.asarray(cell, np.float64).tolist())


def _iou_row(row: object, where: str) -> IouRow:
    if not isinstance(row, (list, tuple)) or len(row) != COLUMNS:
        columns = f"{len(row)} columns" if isinstance(row, (list, tuple)) else f"a {type(row).__name__}"
        raise DataError(f"{where}: an iou_result file has {COLUMNS} columns, and here is {columns}")
    file, _, box, phrase, truth, prediction, iou = row
    if not is_number(iou) or not -CLOSE <= iou <= 1 + CLOSE:
        raise DataError(f"{where}: the IoU in the last column should be a number from 0 to 1, not {short(iou)}")
    return (
        checked_file(file, where),
        _four(box, where, "the box"),
        checked_text(as_text(phrase), where),
        _or_none(_four(truth, where, "the row's box")),
        _or_none(_four(prediction, where, "the scorer's box")),
        min(max(float(iou), 0.0), 1.0),
    )


def _four(cell: object, where: str, what: str) -> Box:
    shape = getattr(cell, "shape", None)
    # A view of one number may have any shape.
    given = cell.tolist() if hasattr(cell, "tolist") and shape == (4,) else cell
    if not isinstance(given, (list, tuple)) or len(given) != 4 or not all(map(is_number, given)):
        raise DataError(f"{where}: {what} should be 4 numbers, not {short(given)}")
    x, y, a, b = (float(v) for v in given)
    return (x, y, a, b)


def _or_none(box: Box) -> Box | None:
    return box if all(map(math.isfinite, box)) else None
