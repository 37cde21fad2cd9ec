"""Geometry: the two IoUs agree with each other, with torchvision and with plain arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import boxes as b

side = st.floats(-50, 700, allow_nan=False)
box = st.tuples(side, side, side, side)
real = st.tuples(st.floats(0, 500), st.floats(0, 500), st.floats(0.5, 300), st.floats(0.5, 300)).map(
    lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3])
)


@given(real)
def test_conversions_undo_each_other(xyxy):
    assert np.allclose(b.box_xywh_to_xyxy(b.box_xyxy_to_xywh(xyxy)), xyxy)
    assert np.allclose(b.box_cxcywh_to_xyxy(b.box_xyxy_to_cxcywh(xyxy)), xyxy)


@given(box, box)
def test_iou_is_symmetric_and_between_zero_and_one(p, q):
    iou = float(b.iou_elementwise(p, q))
    assert 0 <= iou <= 1 and iou == pytest.approx(float(b.iou_elementwise(q, p)))


@pytest.mark.slow
@given(st.lists(real, min_size=1, max_size=6))
def test_agrees_with_torchvision(ps):
    ops, torch = pytest.importorskip("torchvision.ops"), pytest.importorskip("torch")
    t = torch.tensor(ps, dtype=torch.float64)
    assert np.allclose(b.iou_pairwise(ps, ps[:1]), ops.box_iou(t, t[:1]).numpy(), atol=1e-9)
    ours = b.giou_elementwise(np.array(ps), np.array(ps[::-1]))
    assert np.allclose(ours, ops.generalized_box_iou(t, t.flip(0)).diagonal().numpy(), atol=1e-9)


@given(box, real)
def test_clipping_keeps_a_box_inside(p, q):
    x1, y1, x2, y2 = b.clip_xyxy(p, 320, 240)
    assert min(x1, x2) >= 0 and max(x1, x2) <= 320 and min(y1, y2) >= 0 and max(y1, y2) <= 240


@pytest.mark.parametrize("bad", [(10, 10, 5, 20), (10, 10, 10, 20), (math.nan, 0, 5, 5), (0, 0, math.nan, 5)])
def test_what_is_no_box_overlaps_nothing(bad):
    assert float(b.iou_elementwise(bad, (0, 0, 100, 100))) == 0
    assert float(b.iou_elementwise(bad, bad)) == 0
    assert float(b.giou_elementwise(bad, (0, 0, 100, 100))) == -1


def test_known_values():
    assert float(b.iou_elementwise((0, 0, 10, 10), (5, 0, 15, 10))) == pytest.approx(1 / 3)
    assert float(b.giou_elementwise((0, 0, 10, 10), (20, 0, 30, 10))) == pytest.approx(-1 / 3)
    assert float(b.iou_elementwise((0, 0, 10, 10), (0, 0, 10, 5))) == 0.5
