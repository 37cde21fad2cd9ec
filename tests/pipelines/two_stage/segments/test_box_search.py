"""The vectorised search against the four nested loops it replaces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.two_stage.segments import score_map
from pipelines.two_stage.segments.score_map import best_boxes

sides = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
whole = sides.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(-3, 3)))
real = sides.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-10, 10)))


def exhaustive(grid):
    """Every box of an (H, W) map in the order of the tie rule; the first of the largest sum."""
    height, width = grid.shape
    if height > width:
        (x1, y1, x2, y2), total = exhaustive(grid.T)
        return (y1, x1, y2, x2), total
    best, box = -np.inf, None
    for y1 in range(height):
        for y2 in range(y1 + 1, height + 1):
            for x2 in range(1, width + 1):
                for x1 in range(x2):
                    total = grid[y1:y2, x1:x2].sum()
                    if total > best:
                        best, box = total, (x1, y1, x2, y2)
    return box, best


@pytest.mark.slow
@given(whole)
def test_the_same_box_as_the_exhaustive_search_ties_included(maps):
    boxes, sums = best_boxes(maps)
    for box, total, grid in zip(boxes, sums, maps, strict=True):
        expected, best = exhaustive(grid)
        assert tuple(box) == expected and total == best


@pytest.mark.slow
@given(real)
def test_the_same_sum_as_the_exhaustive_search(maps):
    boxes, sums = best_boxes(maps)
    for (x1, y1, x2, y2), total, grid in zip(boxes, sums, maps, strict=True):
        assert np.isclose(total, exhaustive(grid)[1], atol=1e-9)
        assert np.isclose(total, grid[y1:y2, x1:x2].sum(), atol=1e-9)


def test_maps_together_are_maps_alone(monkeypatch):
    maps = np.random.default_rng(0).normal(size=(9, 12, 30))
    together = best_boxes(maps)
    alone = [best_boxes(maps[i : i + 1]) for i in range(9)]
    monkeypatch.setattr(score_map, "NUMBERS", 9 * 5 * 12 * 31)  # five first rows of this size at a time
    in_parts = best_boxes(maps)
    for i in (0, 1):
        assert np.array_equal(together[i], np.concatenate([one[i] for one in alone]))
        assert np.array_equal(together[i], in_parts[i])


def test_nothing_to_gain_is_the_largest_cell_and_no_map_is_no_box():
    grid = np.full((1, 4, 5), -1.0)
    grid[0, 2, 3] = -0.5
    boxes, sums = best_boxes(grid)
    assert boxes.tolist() == [[3, 2, 4, 3]] and sums.tolist() == [-0.5]
    assert best_boxes(np.zeros((0, 4, 5)))[0].shape == (0, 4)
