"""The patch loss of the small CLIP-VG against hand values, and its start in CLIP's space."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipvg.network import ClipVG
from clipvg.recipe import NetworkOptions
from pipelines.two_stage.clip.encoder import empty_model
from tools.tiny_weights.clipvg import coverage, on_target, patch_loss, start_in_clip_space


@pytest.mark.slow
@given(
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    st.integers(1, 14),
)
def test_coverage_sums_to_the_box_area(corners, side):
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    box = torch.tensor([[(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]], dtype=torch.float64)
    shares = coverage(box, side)
    assert shares.shape == (1, side * side)
    assert shares.min() >= 0 and shares.max() <= 1 + 1e-9
    assert shares.sum().item() == pytest.approx((right - left) * (bottom - top) * side**2, abs=1e-6)


def test_coverage_goes_row_by_row():
    shares = coverage(torch.tensor([[0.75, 0.25, 0.5, 0.5], [0.5, 0.25, 0.5, 0.25]]), 2).view(2, 2, 2)
    assert shares[0].tolist() == [[0, 1], [0, 0]]  # top right
    assert shares[1].tolist() == [[0.25, 0.25], [0, 0]]


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
    open_only = patch_loss(
        register, patches[:, [0, 2]].repeat_interleave(2, 1), torch.tensor([[0, 1, 0, 1]]).bool(), target
    )
    torch.testing.assert_close(loss, open_only)


def test_a_target_that_covers_no_open_patch_asks_for_nothing():
    register = torch.ones(2, 4, requires_grad=True)
    masked = torch.tensor([[True, False, False, False], [False] * 4])
    targets = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.3, 0.3, 0.0, 0.0]])
    loss = patch_loss(register, torch.eye(4).expand(2, 4, 4), masked, targets)
    loss.sum().backward()
    assert loss.tolist() == [0, 0] and not register.grad.any()


def test_a_small_target_owns_the_patch_it_covers_most():
    shares = torch.tensor([[0.1, 0.3, 0.0, 0.0], [0.9, 0.6, 0.4, 0.0], [0.0] * 4])
    assert on_target(shares).tolist() == [[False, True, False, False], [True, True, False, False], [False] * 4]


def test_a_start_in_clips_space_compares_words_with_patches():
    """Projected as at the start, a patch whose vector is a word's lies nearer to that word than to others."""
    torch.manual_seed(0)
    clip = empty_model("tiny-clip").requires_grad_(False)
    sizes = NetworkOptions(taps=(0, 3), image_size=64, hidden=96, heads=2, feedforward=32, layers=1)
    network = ClipVG(sizes.config("tiny-clip"), clip)
    words = torch.randn(1, 6, clip.text_projection.shape[1])
    to_words = clip.visual.ln_post.weight[:, None] * clip.visual.proj
    stream = words[0] @ torch.linalg.pinv(to_words)  # patches that CLIP projects onto the words
    features = torch.cat([torch.zeros(1, 7, len(to_words)), torch.cat([stream[:1] * 0, stream])[None]], dim=2)

    def nearest():
        image, text = network.project(features)[0, -6:], network.text_proj(words)[0]
        cosines = torch.nn.functional.cosine_similarity(image[:, None], text[None], dim=2)
        return (cosines.argmax(dim=1) == torch.arange(6)).float().mean()

    start_in_clip_space(network, features, words)
    assert nearest() == 1
    attention = network.vl_transformer.encoder.layers[0].self_attn.in_proj_weight
    query, key = attention[:96], attention[96:192]
    assert torch.equal(query, key) and torch.allclose(query @ query.T, torch.eye(96), atol=1e-5)
