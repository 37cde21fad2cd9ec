"""CLIP-VG's auxiliary loss: what a box covers, and which patches [REG] is pulled to."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipvg.loss import coverage, patch_loss


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
