"""Regions by arrays against regions pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.two_stage.segments.segmentation import edges, segmentation_of

sides = st.tuples(st.integers(1, 9), st.integers(1, 9))


def numbered(labels):
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


cuts = sides.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(0, 4))).map(numbered)


def of(labels):
    return segmentation_of((labels.shape[1], labels.shape[0]), [labels])


@pytest.mark.slow
@given(cuts)
def test_the_box_of_a_region_is_the_edges_of_its_outermost_pixels(labels):
    boxes = of(labels).boxes()
    for region, box in enumerate(boxes):
        y, x = np.nonzero(labels == region)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@pytest.mark.slow
@given(cuts)
def test_labels_and_their_masks_are_the_same_regions(labels):
    regions = np.arange(labels.max() + 1)
    masks = labels == regions[:, None, None]
    one, other = of(labels), segmentation_of((labels.shape[1], labels.shape[0]), [masks])
    assert len(one) == len(other)
    assert np.array_equal(one.boxes(), other.boxes())
    for rows, columns in ((1, 1), (3, 2), (12, 5)):
        assert np.allclose(one.coverage(rows, columns), other.coverage(rows, columns))
        assert np.allclose(one.brush(rows, columns), other.brush(rows, columns))
    if len(one):
        assert np.array_equal(one.masks(), masks) and np.array_equal(other.masks(), masks)


@pytest.mark.slow
@given(cuts, st.integers(1, 12), st.integers(1, 12))
def test_every_cell_is_shared_out_whole(labels, rows, columns):
    cut = of(labels)
    if len(cut):
        assert np.allclose(cut.coverage(rows, columns).sum(axis=0), 1)
        assert np.allclose(cut.brush(rows, columns).sum(axis=0), 1)


def test_a_cell_is_the_mean_of_its_pixels():
    labels = numbered(np.random.default_rng(0).integers(0, 3, (11, 17)))
    shares = of(labels).coverage(4, 5)
    y, x = edges(11, 4), edges(17, 5)
    for row in range(4):
        for column in range(5):
            pixels = labels[y[row] : y[row + 1], x[column] : x[column + 1]]
            assert shares[:, row, column] == pytest.approx([(pixels == r).mean() for r in range(3)])


def test_levels_count_alike_and_a_level_of_one_region_not_at_all():
    halves, quarters = np.zeros((4, 8), int), np.arange(8)[None].repeat(4, 0) // 2
    halves[:, 4:] = 1
    cut = segmentation_of((80, 40), [halves, np.zeros((4, 8), int), quarters])
    assert len(cut) == 6 and len(cut.levels) == 2
    assert cut.boxes()[1].tolist() == [40, 0, 80, 40] and cut.boxes()[2].tolist() == [0, 0, 20, 40]
    painted = np.tensordot(np.array([1.0, 0, 1, 0, 0, 0]), cut.brush(1, 8), axes=1)
    assert painted[0].tolist() == [1, 1, 0.5, 0.5, 0, 0, 0, 0]


def test_masks_that_overlap_share_and_what_none_covers_stays_empty():
    masks = np.zeros((2, 2, 4), bool)
    masks[0, :, :2] = masks[1, :, 1:3] = True
    brush = segmentation_of((4, 2), [masks]).brush(2, 4)
    assert brush[:, 0].tolist() == [[1, 0.5, 0, 0], [0, 0.5, 1, 0]]


def test_nothing_to_cut_is_no_region():
    for level in (np.zeros((3, 5), int), np.zeros((0, 3, 5), bool)):
        cut = segmentation_of((50, 30), [level])
        assert len(cut) == 0 and cut.boxes().shape == (0, 4) and cut.coverage(2, 2).shape == (0, 2, 2)
