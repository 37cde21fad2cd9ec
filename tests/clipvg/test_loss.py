"""CLIP-VG's loss terms against torchvision and hand values; what no target may do to a gradient."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert, box_iou, generalized_box_iou_loss

from clipvg.loss import coverage, giou, l1, patch_loss


def boxes(count, seed=0):
    """(count, 4) cxcywh in 0..1, none without area."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 4, generator=generator) * 0.8 + 0.1


def test_l1_is_the_sum_of_the_four_differences():
    mine, theirs = torch.tensor([[0.5, 0.5, 0.2, 0.4]]), torch.tensor([[0.25, 0.75, 0.2, 0.1]])
    assert l1(mine, theirs).tolist() == pytest.approx([0.8])


def test_giou_is_torchvisions():
    mine, theirs = boxes(64).double(), boxes(64, seed=1).double()
    xyxy = [box_convert(b, "cxcywh", "xyxy") for b in (mine, theirs)]
    generalised, overlap = giou(mine, theirs)
    torch.testing.assert_close(1 - generalised, generalized_box_iou_loss(*xyxy), rtol=0, atol=1e-6)
    torch.testing.assert_close(overlap, box_iou(*xyxy).diagonal())


@pytest.mark.parametrize(
    ("mine", "theirs", "generalised", "overlap"),
    [
        ((0.5, 0.5, 0.4, 0.4), (0.5, 0.5, 0.4, 0.4), 1.0, 1.0),
        ((0.25, 0.5, 0.5, 1.0), (0.75, 0.5, 0.5, 1.0), 0.0, 0.0),  # side by side: the hull is their union
        ((0.1, 0.1, 0.2, 0.2), (0.9, 0.9, 0.2, 0.2), 0.08 - 1, 0.0),  # hull 1, union 0.08
        ((0.5, 0.5, 1.0, 1.0), (0.5, 0.5, 0.5, 0.5), 0.25, 0.25),  # one in the other
    ],
)
def test_giou_by_hand(mine, theirs, generalised, overlap):
    found = giou(torch.tensor([mine]), torch.tensor([theirs]))
    assert [v.item() for v in found] == pytest.approx([generalised, overlap], abs=1e-6)


@pytest.mark.parametrize(
    "target",
    [
        (0.3, 0.3, 0.0, 0.0),  # what the official crop leaves of a target that it cut away
        (0.3, 0.3, 0.2, 0.0),
        (0.0, 1.0, 0.0, 0.0),
        (0.5, 0.5, 0.4, 0.4),  # the box itself
        (2.0, 2.0, 0.5, 0.5),  # off the canvas
    ],
)
def test_any_target_leaves_loss_and_gradient_finite(target):
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]], requires_grad=True)
    generalised, overlap = giou(box, torch.tensor([target]))
    (l1(box, torch.tensor([target])) - generalised).sum().backward()
    assert torch.isfinite(generalised).all() and 0 <= overlap.item() <= 1
    assert torch.isfinite(box.grad).all()


def test_a_shrunken_box_on_a_target_without_area_is_finite():
    box = torch.full((1, 4), 1e-20, requires_grad=True)
    generalised, _ = giou(box, torch.zeros(1, 4))
    generalised.sum().backward()
    assert torch.isfinite(generalised).all() and torch.isfinite(box.grad).all()


@given(
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    st.integers(1, 14),
)
def test_coverage_sums_to_the_box_area(corners, side):
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    box = torch.tensor([[(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]], dtype=torch.float64)
    found = coverage(box, side)
    assert found.shape == (1, side * side)
    assert found.min() >= 0 and found.max() <= 1 + 1e-9
    assert found.sum().item() == pytest.approx((right - left) * (bottom - top) * side**2, abs=1e-6)


def test_coverage_goes_row_by_row():
    found = coverage(torch.tensor([[0.75, 0.25, 0.5, 0.5], [0.5, 0.25, 0.5, 0.25]]), 2).view(2, 2, 2)
    assert found[0].tolist() == [[0, 1], [0, 0]]  # top right
    assert found[1].tolist() == [[0.25, 0.25], [0, 0]]


def test_patch_loss_is_least_when_reg_points_at_the_target():
    patches = torch.eye(4)[None] * 20  # four patches, each in a direction of its own
    target, open_ = torch.tensor([[0.75, 0.25, 0.5, 0.5]]), torch.zeros(1, 4, dtype=torch.bool)
    losses = [patch_loss(torch.eye(4)[i][None], patches, open_, target).item() for i in range(4)]
    assert losses.index(min(losses)) == 1 and losses[1] < 0.01 < 1 < losses[0]
    register = torch.zeros(1, 4, requires_grad=True)
    patch_loss(register, patches, open_, target).sum().backward()
    assert (-register.grad).argmax().item() == 1  # a step of descent turns [REG] there


def test_a_masked_patch_gets_nothing():
    target = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    masked = torch.tensor([[False, True, False, True]])
    patches = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    register = torch.ones(1, 8)
    loss = patch_loss(register, patches, masked, target)
    loss.sum().backward()
    assert patches.grad[0, [1, 3]].abs().max() == 0 < patches.grad[0, [0, 2]].abs().max()
    shown = patch_loss(
        register, patches[:, [0, 2]].repeat_interleave(2, 1), torch.tensor([[0, 1, 0, 1]]).bool(), target
    )
    torch.testing.assert_close(loss, shown)


def test_a_target_that_covers_no_open_patch_asks_for_nothing():
    register = torch.ones(2, 4, requires_grad=True)
    masked = torch.tensor([[True, False, False, False], [False] * 4])
    targets = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.3, 0.3, 0.0, 0.0]])
    loss = patch_loss(register, torch.eye(4).expand(2, 4, 4), masked, targets)
    loss.sum().backward()
    assert loss.tolist() == [0, 0] and not register.grad.any()
