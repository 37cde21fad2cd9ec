"""outcomes.jsonl: the outcome of every expression under the run's protocol, so that comparing needs no data set.

    {"scene": "581857", "ids": ["0", "1"], "iou": [0.912043, 0.0], "hit": [1, 0],
     "strata": {"length": ["1-5", "11+"], "kind": [null, "relation"]}}

One line a scene in the order of the split; written whole when the run is complete. `iou` is in the protocol's frame, 0
for a miss without a box; `hit` what the protocol counts, which need not be `iou` >= 0.5. `strata` has null where a cut
does not apply.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import RunError
from bench.runs.files import write_atomically
from bench.runs.packed import stored_bytes
from bench.runs.record import RECORD

OUTCOMES = "outcomes.jsonl"


@dataclass(frozen=True, slots=True, eq=False)
class StoredOutcomes:
    """The file as arrays, one entry per expression (N) in the split's order.

    `image` (N,) is the position in `scenes`, `iou` (N,) in [0, 1], `hit` (N,) of bool; `strata` is cut -> N labels.
    """

    ids: tuple[str, ...]
    image: NDArray[np.int64]
    iou: NDArray[np.float64]
    hit: NDArray[np.bool_]
    scenes: tuple[str, ...]
    strata: Mapping[str, tuple[str | None, ...]]

    def per_image(self, values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum (N,) values over each image with expressions -> sums (m,) and numbers of expressions (m,)."""
        image = np.unique(self.image, return_inverse=True)[1]
        sums, counts = np.bincount(image, weights=values.astype(np.float64)), np.bincount(image)
        return sums.astype(np.float64), counts.astype(np.float64)


def write_outcomes(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows (keys as above) beside predictions.jsonl, whole or not at all. Raises RunError."""
    write_atomically(folder / OUTCOMES, "".join(map(_dump, rows)).encode())


def read_outcomes(folder: Path) -> StoredOutcomes:
    """Load the outcomes of a run. Raises RunError for a bad line, and for none with the command that makes them."""
    path = folder / OUTCOMES
    try:
        lines = stored_bytes(folder, path.stem).splitlines()
    except FileNotFoundError:
        if not (folder / RECORD).is_file():
            raise RunError(f"{folder}: is not the folder of a run (it has no {RECORD})") from None
        raise RunError(f"{folder}: has no {OUTCOMES}; make it with: bench score {folder} --keep") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    rows = [_parse(line, path, number) for number, line in enumerate(lines, 1)]
    counts = [len(row["ids"]) for row in rows]
    cuts = dict.fromkeys(chain.from_iterable(row["strata"] for row in rows))
    return StoredOutcomes(
        ids=tuple(chain.from_iterable(row["ids"] for row in rows)),
        image=np.repeat(np.arange(len(rows), dtype=np.int64), np.array(counts, np.int64)),
        iou=np.array(list(chain.from_iterable(row["iou"] for row in rows)), np.float64),
        hit=np.array(list(chain.from_iterable(row["hit"] for row in rows)), np.bool_),
        scenes=tuple(row["scene"] for row in rows),
        strata={
            cut: tuple(
                chain.from_iterable(
                    row["strata"].get(cut) or [None] * count for row, count in zip(rows, counts, strict=True)
                )
            )
            for cut in cuts
        },
    )


def _dump(row: Mapping[str, Any]) -> str:
    iou, hit = [round(max(0.0, float(value)), 6) for value in row["iou"]], [int(hit) for hit in row["hit"]]
    line = {"scene": row["scene"], "ids": row["ids"], "iou": iou, "hit": hit, "strata": row["strata"]}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """Parse a line. The file is data that others may have made: every type and length is checked."""
    try:
        row = json.loads(line)
        ids, iou, hit, strata = row["ids"], row["iou"], row["hit"], row.setdefault("strata", {})
        n = len(ids)
        good = (
            isinstance(row["scene"], str)
            and isinstance(ids, list)
            and all(isinstance(name, str) for name in ids)
            and len(iou) == len(hit) == n
            and all(isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= 1 for value in iou)
            and all(value in (0, 1) for value in hit)
            and all(
                len(labels) == n and all(label is None or isinstance(label, str) for label in labels)
                for labels in strata.values()
            )
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise RunError(
            f"{path}, line {number}: not a row of outcomes (scene, ids, iou and hit of one length); make the file "
            f"anew with: bench score {path.parent} --keep"
        )
    return row  # type: ignore[no-any-return]
