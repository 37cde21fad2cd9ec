"""outcomes.jsonl: the outcome of every expression under the run's protocol, so that comparing needs no data set.

    {"scene": "581857", "ids": ["0", "1"], "iou": [0.912043, 0.0], "hit": [1, 0],
     "strata": {"length": ["1-5", "11+"], "kind": [null, "relation"]},
     "masks": [[0.873016, 1100, 1260], null]}

One line a scene in the order of the split; written whole when the run is complete. `iou` is in the protocol's frame, 0
for a miss without a box; `hit` what the protocol counts, which need not be `iou` >= 0.5. `strata` has null where a cut
does not apply. `masks` is there where the run and the split have masks: the IoU, and the pixels of intersection and
union; null for an expression that no mask is compared for.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import RunError
from bench.runs.files import write_atomically
from bench.runs.packed import json_lines, stored_parts
from bench.runs.record import RECORD

OUTCOMES = "outcomes.jsonl"
IOUS = re.compile(rb'"iou":\[[\0,]*\]')  # as a packed file has them: a zero byte for a number
HITS = re.compile(rb'"hit":\[([01,]*)\]')
NO_MASK = (np.nan, np.nan, np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class StoredOutcomes:
    """The file as arrays, one entry per expression (N) in the split's order.

    `image` (N,) is the position in `scenes`, `iou` (N,) in [0, 1], `hit` (N,) of bool; `strata` is cut -> N labels.
    `masks` (N, 3) are IoU, intersection and union, NaN where none is compared; None without any.
    """

    ids: tuple[str, ...]
    image: NDArray[np.int64]
    iou: NDArray[np.float64]
    hit: NDArray[np.bool_]
    scenes: tuple[str, ...]
    strata: Mapping[str, tuple[str | None, ...]]
    masks: NDArray[np.float64] | None = None

    def per_image(self, values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum (N,) values over each image with expressions -> sums (m,) and numbers of expressions (m,)."""
        counts = np.bincount(self.image)
        sums, used = np.bincount(self.image, weights=values.astype(np.float64)), counts > 0
        return sums[used].astype(np.float64), counts[used].astype(np.float64)


def write_outcomes(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows (keys as above) beside predictions.jsonl, whole or not at all. Raises RunError."""
    write_atomically(folder / OUTCOMES, "".join(map(_dump, rows)).encode())


def read_outcomes(folder: Path, alike: dict[bytes, StoredOutcomes] | None = None) -> StoredOutcomes:
    """Load the outcomes of a run. Raises RunError for a bad line, and for none with the command that makes them.

    `alike` collects what was read: packed files that differ from one of it in `iou` and `hit` alone are not parsed
    again, and share its other fields.
    """
    path = folder / OUTCOMES
    try:
        text, millionths = stored_parts(folder, path.stem)
    except FileNotFoundError:
        if not (folder / RECORD).is_file():
            raise RunError(f"{folder}: is not the folder of a run (it has no {RECORD})") from None
        raise RunError(f"{folder}: has no {OUTCOMES}; make it with: bench score {folder} --keep") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    packed = None if alike is None else _columns(text, millionths)
    if packed and alike and packed[0] in alike:
        return replace(alike[packed[0]], iou=packed[1], hit=packed[2])
    outcomes = _read_lines(*json_lines(text, millionths), path)
    if packed and alike is not None and b"\0" not in IOUS.sub(b"", text):  # no id or label has one of the numbers
        alike[packed[0]] = outcomes
    return outcomes


def _columns(text: bytes, millionths: Sequence[int]) -> tuple[bytes, NDArray[np.float64], NDArray[np.bool_]] | None:
    """Take iou (N,) and hit (N,) out of a packed file, with a hash of all the rest; None where it is not so simple."""
    # 1. Between the lists of hits lies what files on the same expressions share.
    rest = HITS.split(text)
    lists = rest[1::2]
    marks = np.frombuffer(b",".join(filter(None, lists)), np.uint8)
    hit = marks[::2] == ord("1")
    # 2. The numbers with a point are the IoUs.
    iou = np.array(millionths, np.float64) / 1e6
    if len(hit) != len(iou) or not ((iou >= 0) & (iou <= 1)).all():
        return None
    if (marks[::2] == ord(",")).any() or (marks[1::2] != ord(",")).any():
        return None
    digest = hashlib.sha256(b'"hit":[]'.join(rest[::2]))  # which cannot lie within one of them
    digest.update(repr([len(each) for each in lists]).encode())
    return digest.digest(), iou, hit


def _read_lines(lines: Iterable[bytes], loads: Callable[[bytes], Any], path: Path) -> StoredOutcomes:
    """Parse a text into columns, line by line, so that no more than one line is there as objects."""
    ids: list[str] = []
    iou, hit, counts, scenes = array("d"), array("b"), array("q"), []
    strata: dict[str, list[str | None]] = {}
    masks: list[Sequence[float]] = []
    labels: dict[str | None, str | None] = {}  # each label once, however often it comes
    for number, line in enumerate(lines, 1):
        row = _parse(line, loads, path, number)
        done, n = len(ids), len(row["ids"])
        ids += row["ids"]
        iou.extend(row["iou"])
        hit.extend(map(int, row["hit"]))
        counts.append(n)
        scenes.append(row["scene"])
        for cut, own in row["strata"].items():
            column = strata.setdefault(cut, [])
            column += [None] * (done - len(column))  # of rows without this cut
            column += [labels.setdefault(label, label) for label in own]
        if "masks" in row:
            masks += [NO_MASK] * (done - len(masks))
            masks += [NO_MASK if mask is None else mask for mask in row["masks"]]
    return StoredOutcomes(
        ids=tuple(ids),
        image=np.repeat(np.arange(len(scenes), dtype=np.int64), np.array(counts)),
        iou=np.array(iou),
        hit=np.array(hit, np.bool_),
        scenes=tuple(scenes),
        strata={cut: (*column, *[None] * (len(ids) - len(column))) for cut, column in strata.items()},
        masks=np.array([*masks, *[NO_MASK] * (len(ids) - len(masks))], np.float64) if masks else None,
    )


def _dump(row: Mapping[str, Any]) -> str:
    iou, hit = [round(max(0.0, float(value)), 6) for value in row["iou"]], [int(hit) for hit in row["hit"]]
    line = {"scene": row["scene"], "ids": row["ids"], "iou": iou, "hit": hit, "strata": row["strata"]}
    if row.get("masks"):
        line["masks"] = [mask and [round(mask[0], 6), *map(int, mask[1:])] for mask in row["masks"]]
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _parse(line: bytes, loads: Callable[[bytes], Any], path: Path, number: int) -> dict[str, Any]:
    """Parse a line. The file is data that others may have made: every type and length is checked."""
    try:
        row = loads(line)
        ids, iou, hit, strata = row["ids"], row["iou"], row["hit"], row.setdefault("strata", {})
        masks = row.get("masks", [None] * len(ids))
        n = len(ids)
        good = (
            isinstance(row["scene"], str)
            and isinstance(ids, list)
            and len(iou) == len(hit) == n
            and {*map(type, ids)} <= {str}
            and {*map(type, iou)} <= {float, int}
            and {*hit} <= {0, 1}
            and all(0 <= value <= 1 for value in iou)
            and {*map(len, strata.values())} <= {n}
            and {*map(type, chain.from_iterable(strata.values()))} <= {str, type(None)}
            and len(masks) == n
            and all(mask is None or _is_mask(*mask) for mask in masks)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise RunError(
            f"{path}, line {number}: not a row of outcomes (scene, ids, iou and hit of one length); make the file "
            f"anew with: bench score {path.parent} --keep"
        )
    return row  # type: ignore[no-any-return]


def _is_mask(iou: Any, shared: Any, union: Any) -> bool:
    """Whether these are an IoU and two numbers of pixels."""
    return type(iou) in (float, int) and 0 <= iou <= 1 and type(shared) is type(union) is int and 0 <= shared <= union
