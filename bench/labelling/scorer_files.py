"""The files of the official scorer: the rows that are kept, and every row with its IoU (CLIP-VG's own code).

    DS_train_pseudo_refine_0_0.pth ... _0_9.pth   rows whose IoU is above 0.0 ... 0.9, in the layout of index lists
    DS_train_pseudo_refine_1_0.pth                rows whose IoU is exactly 1
    DS_train_pseudo_bad_label_0_0.pth, _0_4.pth   rows whose IoU is 0, or under 0.4, with the IoU as a last column
    DS_train_pseudo_iou_result.pth                seven columns: image file, placeholder, box, phrase, the row's box
                                                  and the scorer's as tensors, IoU

DS is the official folder's name; phrases are lower-cased; a box stands as the list held it. The two tensors are centre,
width and height in 0..1 of the square that the image is padded to: written here, that square is exactly centred, the
row's box is not cut to whole pixels, and a tensor is NaN where there is no box.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.boxes import box_xyxy_to_cxcywh
from bench.datasets.pickles import as_text, load_index_list
from bench.datasets.readers.index_lists import PLACEHOLDER
from bench.datasets.readers.rows import checked_file, checked_text
from bench.errors import DataError, UnsafePickle, first_line
from bench.grounding import Box, Scene
from bench.labelling.label_files import list_format, pseudo_row, save_list, threshold_name
from bench.runs.files import make_folder

THRESHOLDS = tuple(n / 10 for n in range(10))
THREE_COLUMNS = {"flickr"}
BAD = 0.4
IOU_RESULT = "_train_pseudo_iou_result.pth"
COLUMNS = 7
CLOSE = 1e-6  # float32 may say 1.0000001

Float = NDArray[np.float64]
Found = Mapping[str, tuple[float, Box | None]]
Sizes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ListRow:
    """A row as an official list has it: `held` is the box in the data set's format, `box` the same as xyxy pixels."""

    id: str
    scene: Scene
    held: tuple[float, ...]
    box: Box
    phrase: str


@dataclass(frozen=True, slots=True)
class IouRow:
    """A row of an iou_result file; `truth` and `prediction` are cxcywh in 0..1 of the padded square, None for NaN."""

    file: str
    held: tuple[float, ...]
    phrase: str
    truth: Box | None
    prediction: Box | None
    iou: float


def list_rows(path: Path, scenes: Sequence[Scene], dataset: str) -> list[ListRow]:
    """Return the rows of a label file whose scenes are `scenes`, phrases lower-cased.

    Of an index list the boxes are its very numbers, in its order; rows of a JSONL go image by image, boxes in the data
    set's format. Raises UsageError for a data set without official lists.
    """
    _, form = list_format(dataset)
    rows = []
    cells = load_index_list(path) if path.suffix == ".pth" else None
    for scene in scenes:
        for e in scene.expressions:
            if cells is None:
                held = pseudo_row(scene.file, e.box, e.text, form, three=True)[1]
            else:
                row = cells[int(e.id)]
                held = row[1] if len(row) == 3 else row[2]
            rows.append(ListRow(e.id, scene, _numbers(held), e.box, e.text.lower()))
    return rows if cells is None else sorted(rows, key=lambda row: int(row.id))


def write_reliability_lists(
    folder: Path, dataset: str, rows: Sequence[ListRow], found: Found, sizes: Sizes
) -> list[Path]:
    """Write every file of the official scorer under `folder`; returns them in the order of the table above.

    `found` is row id -> IoU and the scorer's box (xyxy pixels, or None); `sizes`, by scene id, are those of images
    whose scene has none. Raises RunError where a file cannot be written.
    """
    stem, _ = list_format(dataset)
    make_folder(folder)
    rated = [(row, found[row.id][0]) for row in rows]
    three = stem in THREE_COLUMNS
    kept = {f"refine_{threshold_name(h)}": [_list_row(row, three) for row, r in rated if r > h] for h in THRESHOLDS}
    kept["refine_1_0"] = [_list_row(row, three) for row, r in rated if r == 1]
    bad = {
        "bad_label_0_0": [[*_list_row(row), r] for row, r in rated if r == 0],
        "bad_label_0_4": [[*_list_row(row), r] for row, r in rated if r < BAD],
    }
    files = {**kept, **bad, "iou_result": _iou_result(rows, found, sizes)}
    written = {folder / f"{stem}_train_pseudo_{name}.pth": held for name, held in files.items()}
    for path, held in written.items():
        save_list(path, held)
    return list(written)


def read_iou_result(path: Path) -> list[IouRow]:
    """The rows of an official iou_result file, in its order; nothing in it is executed.

    Raises UnsafePickle for a pickle that asks for more than containers and tensors, DataError naming file and row.
    """
    rows = _loaded(path)
    if not isinstance(rows, (list, tuple)) or not rows:
        kind = "no rows" if isinstance(rows, (list, tuple)) else f"a {type(rows).__name__}"
        raise DataError(
            f"{path}: an iou_result file holds a list of rows with {COLUMNS} columns, and this holds {kind}"
        )
    return [_iou_row(row, f"{path}: row {number}") for number, row in enumerate(rows)]


def _list_row(row: ListRow, three: bool = False) -> list[object]:
    return pseudo_row(row.scene.file, row.held, row.phrase, "xyxy", three)  # `held` is in the list's own format


def _iou_result(rows: Sequence[ListRow], found: Found, sizes: Sizes) -> list[list[object]]:
    import torch

    shown = [_size(row.scene, sizes) for row in rows]
    said = [found[row.id] for row in rows]
    nothing = (math.nan,) * 4
    # Views of one tensor each: a file with a storage a row would be many times as large.
    truths, predictions = (
        torch.from_numpy(_on_square(boxes, shown).astype(np.float32))
        for boxes in ([row.box for row in rows], [box or nothing for _, box in said])
    )
    return [
        [row.scene.file, PLACEHOLDER, list(row.held), row.phrase, truth, prediction, r]
        for row, truth, prediction, (r, _) in zip(rows, truths, predictions, said, strict=True)
    ]


def _size(scene: Scene, sizes: Sizes) -> tuple[float, float]:
    if scene.width and scene.height:
        return scene.width, scene.height
    return sizes.get(scene.id, (math.nan, math.nan))


def _on_square(boxes: Sequence[Box], sizes: Sequence[tuple[float, float]]) -> Float:
    """(N, 4) xyxy pixels in images of these sizes -> cxcywh in 0..1 of the square around each image."""
    size = np.array(sizes, np.float64).reshape(-1, 2)
    side = size.max(axis=1, keepdims=True)
    shift = np.tile((side - size) / 2, 2)
    return box_xyxy_to_cxcywh((np.array(boxes, np.float64).reshape(-1, 4) + shift) / side)


def _numbers(cell: object) -> tuple[float, ...]:
    return tuple(float(v) for v in np.asarray(cell, np.float64).tolist())


def _loaded(path: Path) -> object:
    import torch

    try:
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except pickle.UnpicklingError as error:
        raise UnsafePickle(
            f"{path}: no torch-saved list of plain rows and tensors; nothing in it was executed ({first_line(error)})"
        ) from None
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: a broken or cut file ({first_line(error)}); fetch it again") from None


def _iou_row(row: object, where: str) -> IouRow:
    if not isinstance(row, (list, tuple)) or len(row) != COLUMNS:
        columns = f"{len(row)} columns" if isinstance(row, (list, tuple)) else f"a {type(row).__name__}"
        raise DataError(f"{where}: an iou_result file has {COLUMNS} columns, and here is {columns}")
    file, _, held, phrase, truth, prediction, iou = row
    if isinstance(iou, bool) or not isinstance(iou, (int, float)) or not -CLOSE <= iou <= 1 + CLOSE:
        raise DataError(f"{where}: the IoU in the last column should be a number from 0 to 1, not {iou!r:.60}")
    return IouRow(
        file=checked_file(file, where),
        held=_four(held, where, "the box"),
        phrase=checked_text(as_text(phrase), where),
        truth=_or_none(_four(truth, where, "the row's box")),
        prediction=_or_none(_four(prediction, where, "the scorer's box")),
        iou=min(max(float(iou), 0.0), 1.0),
    )


def _four(cell: object, where: str, what: str) -> Box:
    given = cell.tolist() if hasattr(cell, "tolist") else cell
    if (
        not isinstance(given, (list, tuple))
        or len(given) != 4
        or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in given)
    ):
        raise DataError(f"{where}: {what} should be 4 numbers, not {given!r:.60}")
    x, y, a, b = (float(v) for v in given)
    return (x, y, a, b)


def _or_none(box: Box) -> Box | None:
    return box if all(map(math.isfinite, box)) else None
