"""L1 and generalised IoU against torchvision and hand values; what no target may do to a gradient."""

import pytest
import torch
from torchvision.ops import box_convert, box_iou, generalized_box_iou, generalized_box_iou_loss

from pipelines.layers import giou, l1


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
    values = giou(torch.tensor([mine]), torch.tensor([theirs]))
    assert [v.item() for v in values] == pytest.approx([generalised, overlap], abs=1e-6)


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


def test_leading_dimensions_are_broadcast():
    mine, theirs = boxes(6).double().view(2, 3, 4), boxes(2, seed=1).double()[:, None]
    generalised, overlap = giou(mine, theirs)
    for row in range(2):
        corners = [box_convert(b, "cxcywh", "xyxy") for b in (mine[row], theirs[row])]
        torch.testing.assert_close(generalised[row], generalized_box_iou(*corners)[:, 0])
        torch.testing.assert_close(overlap[row], box_iou(*corners)[:, 0])
    assert l1(mine, theirs).shape == (2, 3)
