"""Masks: encoding, polygons, what comes from files, and areas against a slow loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from bench.errors import DataError
from bench.masks import areas, box_of, checked_mask, decode, encode, overlaps, refuse_broken, segmentation_box

SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]


@st.composite
def pairs(draw):
    """Up to a few hundred pairs of masks of one size, None among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    density = draw(st.sampled_from((0.0, 0.02, 0.5, 1.0)))
    both = rng.random((draw(st.sampled_from((1, 7, 300))), 2, height, width)) < density
    return [[None if rng.random() < 0.1 else m for m in pair] for pair in both]


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_areas_equal_a_slow_loop(pairs):
    predicted, truths = zip(*[[None if m is None else encode(m) for m in pair] for pair in pairs], strict=True)
    shared, union = overlaps(predicted, truths)
    for n, (one, other) in enumerate(pairs):
        raw = [None if m is None else coco.encode(np.asfortranarray(m, np.uint8)) for m in (one, other)]
        here = [0 if m is None else int(coco.area(m)) for m in raw]
        both = int(coco.area(coco.merge(raw, intersect=True))) if None not in raw else 0
        assert (shared[n], union[n]) == (both, sum(here) - both)
        if one is not None:
            np.testing.assert_array_equal(decode(predicted[n]), one)


def test_polygons_are_rasterised_as_coco_does_and_united():
    mask = checked_mask([SQUARE, [0, 0, 1, 0, 1, 1, 0, 1], [3, 3, 4, 4]], "row 1", 8, 6)
    whole = coco.merge(coco.frPyObjects([SQUARE, [0, 0, 1, 0, 1, 1, 0, 1]], 6, 8))
    assert mask == {"size": [6, 8], "counts": whole["counts"].decode()}
    assert checked_mask(SQUARE, "row 1", 8, 6) == checked_mask([SQUARE], "row 1", 8, 6)
    assert box_of(checked_mask([SQUARE], "", 8, 6)) == (2, 1, 6, 4) == segmentation_box([SQUARE], "", 8, 6)
    # Without any area, and without the size of the image.
    assert checked_mask([[1, 1, 5, 5]], "", 8, 6) is None and checked_mask([SQUARE], "", None, None) is None


def test_run_lengths_in_any_form_are_one_mask():
    inside = np.zeros((3, 4), bool)
    inside[1:, 2] = True
    mask = encode(inside)
    counts = [7, 2, 3]
    for form in (mask, {"size": [3, 4], "counts": mask["counts"].encode()}, [{"size": [3, 4], "counts": counts}]):
        assert checked_mask(form, "row 1", 4, 3) == mask
    assert box_of(mask) == (2, 1, 3, 3) and areas([mask]).tolist() == [2] and box_of(encode(inside & False)) is None


@pytest.mark.parametrize(("segmentation", "says"), [
    ({"size": [3, 4], "counts": "P"}, "row 1: a mask's counts are neither numbers nor a compressed mask"),
    ({"size": [3, 4], "counts": [7, 2]}, "row 1: a mask's counts should add up to 3 x 4 pixels"),
    ({"size": [3, "4"], "counts": "0"}, r"row 1: a mask's size should be \[height, width\]"),
    ([{"size": [4, 3], "counts": [12]}], "row 1: its mask is .* its image 3 x 4"),
    ("M0 0", "row 1: its segmentation is neither polygons nor run-length masks"),
    ([[1, 2, 3]], "row 1: a polygon should be x, y"),
    ([[1, 2, 1e9, 2, 3, 3]], "row 1: a polygon has a corner more than 100,000 pixels away"),
])  # fmt: skip
def test_a_broken_segmentation_is_named(segmentation, says):
    with pytest.raises(DataError, match=says):
        checked_mask(segmentation, "row 1", 4, 3)


@pytest.mark.parametrize("mask", [
    {"size": [3, 4], "counts": "0o"}, {"size": [3, 4], "counts": b"0"}, {"size": [3], "counts": "0"},
    {"size": [3, 4], "counts": "0b`0"}, {"counts": "0"},
])  # fmt: skip
def test_what_would_lead_pycocotools_astray_is_refused(mask):
    with pytest.raises(DataError, match=r"^mask 0: "):
        refuse_broken([mask], lambda at: f"mask {at}")


def test_what_a_mask_leaves_out_at_its_end_is_outside():
    """Files may have it so; pycocotools would take what lies in memory."""
    mask = checked_mask({"size": [3, 4], "counts": "72"}, "row 1", 4, 3)
    assert decode(mask).sum() == 2 and decode(mask)[1:, 2].all() and areas([mask]) == [2]
    with pytest.raises(DataError, match="row 1: a polygon should be"):
        checked_mask([[10**400] * 6], "row 1", 4, 3)
