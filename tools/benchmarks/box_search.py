"""Measure how much faster best_boxes is on a 30 x 40 score map than by four nested loops, the same box.

    python -m tools.benchmarks.box_search

The loops are the plain ones over an integral image, kept in Python's own floats, which are several times faster to
index than an array. Target: 100 times. Leaves with 1 when missed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipelines.two_stage.segments.score_map import best_boxes

HEIGHT, WIDTH, MAPS, TARGET = 30, 40, 7, 100.0


def loops(grid: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """The box (x1, y1, x2, y2) of the largest sum, every box in turn."""
    height, width = grid.shape
    table = np.zeros((height + 1, width + 1))
    table[1:, 1:] = grid.cumsum(0).cumsum(1)
    integral = table.tolist()
    best, box = float("-inf"), (0, 0, 1, 1)
    for y1 in range(height):
        upper = integral[y1]
        for y2 in range(y1 + 1, height + 1):
            lower = integral[y2]
            for x2 in range(1, width + 1):
                for x1 in range(x2):
                    total = lower[x2] - lower[x1] - upper[x2] + upper[x1]
                    if total > best:
                        best, box = total, (x1, y1, x2, y2)
    return box


def milliseconds(repeats: int, search: Callable[[], object]) -> float:
    """For one map, the median of `repeats` searches of all."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        search()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds) / MAPS


def main() -> int:
    maps = np.random.default_rng(0).normal(-0.1, 1.0, (MAPS, HEIGHT, WIDTH))
    expected = [loops(grid) for grid in maps]
    same = [tuple(box) for box in best_boxes(maps)[0].tolist()] == expected
    slow = milliseconds(3, lambda: [loops(grid) for grid in maps])
    alone = milliseconds(50, lambda: [best_boxes(grid[None]) for grid in maps])
    together = milliseconds(50, lambda: best_boxes(maps))
    print(f"{MAPS} maps of {HEIGHT} x {WIDTH}, same boxes: {same}")
    print(f"four loops {slow:.1f} ms a map; one map at a time {alone:.2f} ms ({slow / alone:.0f} times)")
    print(f"the maps of a scene together {together:.2f} ms a map ({slow / together:.0f} times)")
    return 0 if same and slow / together >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
