"""The head alone, on made-up tokens: it takes in what it should, learns boxes by heart, and covers two modes."""

import pytest
import torch

from pipelines import layers
from pipelines.diffusion.network import DiffusionConfig, DiffusionHead
from pipelines.diffusion.sampling import denoise, noised, to_boxes
from pipelines.on_canvas import Fused

WIDTH, SIDE = 16, 4
SMALL = DiffusionConfig(width=WIDTH, side=SIDE, hidden=32, heads=4, blocks=2, feedforward=64)


def made_up(count, words=3, seed=0):
    """Tokens of `count` pairs: [REG], some words, all cells of the canvas."""
    rng = torch.Generator().manual_seed(seed)
    length = words + SIDE**2
    tokens, before = (torch.randn(count, n, WIDTH, generator=rng) for n in (1 + length, length))
    cells = torch.cat([torch.full((words,), -1), torch.arange(SIDE**2)]).expand(count, -1)
    return Fused(tokens, before, cells, None, torch.full((count, 4), 0.5))


@pytest.fixture
def head():
    torch.manual_seed(0)
    made = DiffusionHead(SMALL)
    torch.nn.init.normal_(made.box.layers[-1].weight, std=0.3)  # else boxes are the network's own
    return made


def test_at_first_boxes_are_nearly_the_networks_own():
    own = torch.tensor([[0.3, 0.6, 0.2, 0.3], [0.7, 0.4, 0.5, 0.1]])
    boxes, _ = DiffusionHead(SMALL)(made_up(2)._replace(boxes=own), torch.rand(2, 5, 4), torch.rand(2, 5))
    assert (layers.giou(boxes, own[:, None])[1] > 0.85).all()


def trained(head, draw, steps, samples, rate=3e-3):
    """Train as the task does; draw() -> the tokens and the targets (N, 4) of a step."""
    optimiser = torch.optim.Adam(head.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        fused, target = draw()
        shape, target = (len(target), samples), target[:, None]
        u = torch.rand(shape)
        boxes, _ = head(fused, to_boxes(noised(target, u[..., None], torch.randn(*shape, 4))), u)
        loss = 5 * layers.l1(boxes, target).mean() + 2 * (1 - layers.giou(boxes, target)[0]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return head.eval()


def sampled(head, fused, count, steps, seed=1):
    memory = head.memory(fused)
    noise = torch.randn(len(fused.tokens), count, 4, generator=torch.Generator().manual_seed(seed))

    def predict(boxes, u):
        every, logits = head.predict(memory, boxes, u)
        return every[-1], logits

    with torch.no_grad():
        return denoise(predict, noise, 1.0, steps)[0]


def test_boxes_of_every_block_and_a_logit(head):
    boxes, logits = head(made_up(2), torch.rand(2, 5, 4) * 0.5 + 0.2, torch.rand(2, 5))
    assert boxes.shape == (2, 2, 5, 4) and logits.shape == (2, 5)
    assert (boxes > 0).all() and (boxes < 1).all() and not torch.allclose(boxes[0], boxes[1])


def test_samples_do_not_know_of_each_other(head):
    fused, noisy, u = made_up(2), torch.rand(2, 6, 4) * 0.5 + 0.2, torch.rand(2, 6)
    together, _ = head(fused, noisy, u)
    alone, _ = head(fused, noisy[:, 3:4], u[:, 3:4])
    assert torch.allclose(together[:, :, 3:4], alone, atol=1e-5)


def test_padding_and_the_order_of_tokens_do_not_matter(head):
    fused, noisy, u = made_up(2), torch.rand(2, 6, 4) * 0.5 + 0.2, torch.rand(2, 6)
    expected, _ = head(fused, noisy, u)
    # 1. Padding of any value behind.
    junk = torch.full((2, 2, WIDTH), 7.0)
    ignored = torch.zeros(2, 21, dtype=torch.bool)
    ignored[:, 19:] = True
    cells = torch.cat([fused.cells, torch.tensor([[0, -5]] * 2)], dim=1)
    padded = Fused(torch.cat([fused.tokens, junk], 1), torch.cat([fused.before, junk], 1), cells, ignored, fused.boxes)
    assert torch.allclose(head(padded, noisy, u)[0], expected, atol=1e-5)
    # 2. Another order, each token with its cell.
    order = torch.randperm(19)
    tokens = torch.cat([fused.tokens[:, :1], fused.tokens[:, 1:][:, order]], 1)
    shuffled = Fused(tokens, fused.before[:, order], fused.cells[:, order], None, fused.boxes)
    assert torch.allclose(head(shuffled, noisy, u)[0], expected, atol=1e-5)


def test_text_and_cells_are_both_attended_to(head):
    fused, noisy, u = made_up(1), torch.rand(1, 2, 4) * 0.5 + 0.2, torch.rand(1, 2)
    expected, _ = head(fused, noisy, u)
    for place in (0, 2, 10):  # [REG], a word, a cell
        tokens = fused.tokens.clone()
        tokens[:, place] += torch.randn(WIDTH)
        assert not torch.allclose(head(fused._replace(tokens=tokens), noisy, u)[0], expected, atol=1e-4), place


@pytest.mark.slow
def test_thirty_two_pairs_are_learnt_by_heart(head):
    fused = made_up(32)
    rng = torch.Generator().manual_seed(5)
    sides = torch.rand(32, 2, generator=rng) * 0.4 + 0.2
    centres = sides / 2 + torch.rand(32, 2, generator=rng) * (1 - sides)
    target = torch.cat([centres, sides], dim=1)
    trained(head, lambda: (fused, target), 200, 4)
    for steps in (1, 4):
        iou = layers.giou(sampled(head, fused, 4, steps), target[:, None])[1]
        assert iou.mean() > 0.9, (steps, iou.mean())


@pytest.mark.slow
def test_two_like_objects_are_both_covered(head):
    """`the circle`, of which there are two alike: half of the samples, or nearly, end on each."""
    fused = made_up(1)
    modes = torch.tensor([[0.2, 0.5, 0.2, 0.2], [0.8, 0.5, 0.2, 0.2]])
    many = Fused(*(None if part is None else part.expand(16, *part.shape[1:]) for part in fused))
    trained(head, lambda: (many, modes[torch.randint(2, (16,))]), 150, 8)
    boxes = sampled(head, fused, 100, 8)[0]
    near = layers.giou(boxes[:, None], modes)[1] > 0.5
    assert near.any(dim=1).float().mean() > 0.9
    assert near.float().sum(dim=0).min() >= 40, near.float().sum(dim=0)
