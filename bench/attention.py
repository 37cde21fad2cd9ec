"""What a network looked at, for drawings: attention maps, and the points that it sampled in stages.

An attention map is how much it attended to each cell of a grid over the image, in 64 levels, a letter each.
"""

from __future__ import annotations

import string
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"  # level 0 to level 63


class AttentionMap(NamedTuple):
    """A grid of `rows` x `columns` cells over the whole image; `cells` has a letter for each, row by row.

    Levels are shares of the largest cell's.
    """

    rows: int
    columns: int
    cells: str

    @classmethod
    def of(cls, weights: NDArray[Any]) -> AttentionMap:
        """Make a map of weights (rows, columns), at least 0; one that is not finite counts as 0."""
        known = np.nan_to_num(np.asarray(weights, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        levels = np.rint(known / max(float(known.max(initial=0.0)), 1e-12) * (len(LETTERS) - 1)).astype(int)
        rows, columns = known.shape
        return cls(rows, columns, "".join(LETTERS[level] for level in levels.ravel().tolist()))

    @classmethod
    def stored(cls, values: Any) -> AttentionMap:
        """Make a map of what a file has: rows, columns, cells. Raises ValueError."""
        rows, columns, cells = values
        if not (isinstance(cells, str) and len(cells) == rows * columns and set(cells) <= set(LETTERS)):
            raise ValueError(f"an attention map of {rows} x {columns} cells has as many letters of base64")
        return cls(int(rows), int(columns), cells)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Return the levels as shares of the largest, (rows, columns)."""
        levels = [LETTERS.index(letter) for letter in self.cells]
        return np.array(levels, np.float64).reshape(self.rows, self.columns) / (len(LETTERS) - 1)


class Stage(NamedTuple):
    """One stage of a network that predicts in stages: its box, and the points (P, 2) it sampled, x and y, in pixels."""

    box: tuple[float, float, float, float]
    points: NDArray[np.float64]
