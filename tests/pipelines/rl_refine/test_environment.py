"""Moves, oracle, episodes and rewards, apart from any network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines import layers
from pipelines.rl_refine import environment
from pipelines.rl_refine.environment import COUNT, MOVES, NAMES, SMALLEST, STOP, moved, oracle, roll_out

WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])
share = st.floats(0, 1, width=32)


def random_boxes(count, seed, smallest=0.1):
    generator = torch.Generator().manual_seed(seed)
    sides = smallest + (0.9 - smallest) * torch.rand(count, 2, generator=generator)
    return torch.cat([sides / 2 + (1 - sides) * torch.rand(count, 2, generator=generator), sides], dim=1)


def iou(boxes, targets):
    return layers.giou(boxes, targets)[1]


def test_seventeen_moves_do_what_they_are_called():
    box = torch.tensor([0.5, 0.5, 0.2, 0.4])
    wanted = {
        "left": (0.46, 0.5, 0.2, 0.4), "right": (0.54, 0.5, 0.2, 0.4), "up": (0.5, 0.42, 0.2, 0.4),
        "down": (0.5, 0.58, 0.2, 0.4), "bigger": (0.5, 0.5, 0.24, 0.48), "smaller": (0.5, 0.5, 1 / 6, 1 / 3),
        "fatter": (0.5, 0.5, 0.24, 1 / 3), "taller": (0.5, 0.5, 1 / 6, 0.48),
    }  # fmt: skip
    assert COUNT == 17 == 1 + 2 * len(NAMES)
    torch.testing.assert_close(moved(box, torch.tensor(STOP), WHOLE), box)
    for number, name in enumerate(NAMES, 1):
        torch.testing.assert_close(moved(box, torch.tensor(number), WHOLE), torch.tensor(wanted[name]))
    # The second eight are the same moves, a quarter as far.
    torch.testing.assert_close(MOVES[9:, :2], MOVES[1:9, :2] / 4)
    assert (MOVES[9:, 2:].log().abs() <= MOVES[1:9, 2:].log().abs()).all()


@given(st.lists(st.tuples(share, share, share, share), min_size=1, max_size=8), st.tuples(share, share, share, share),
       st.integers(0, COUNT - 1))  # fmt: skip
def test_a_box_never_leaves_its_image(boxes, corners, move):
    low, high = torch.tensor(corners).view(2, 2).sort(dim=0).values
    bounds = torch.cat([low, high])
    after = moved(torch.tensor(boxes), torch.full((len(boxes),), move), bounds.expand(len(boxes), 4))
    assert (after[:, :2] - after[:, 2:] / 2 >= low - 1e-6).all() and (
        after[:, :2] + after[:, 2:] / 2 <= high + 1e-6
    ).all()
    assert (after[:, 2:] >= (high - low).clamp(max=SMALLEST) - 1e-6).all()


@pytest.mark.parametrize(("start", "most"), [("near", 12), ("image", 24), ("anywhere", 24)])
def test_the_oracle_reaches_85_percent_for_99_of_100_targets(start, most):
    targets, count = random_boxes(2000, 0), 2000
    noise = 0.25 * torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    near = torch.cat([targets[:, :2] + noise[:, :2] * targets[:, 2:], targets[:, 2:] * noise[:, 2:].exp()], dim=1)
    starts = {"near": near, "image": torch.tensor([[0.5, 0.5, 1.0, 1.0]]).repeat(count, 1)}
    starts["anywhere"] = random_boxes(count, 2)
    bounds = WHOLE.expand(count, 4)
    begin = environment.inside(starts[start], bounds)
    played = roll_out(lambda boxes, _: oracle(boxes, targets, bounds), begin, bounds, most)
    assert (iou(played.last, targets) >= 0.85).float().mean() >= 0.99


def test_the_oracle_stops_where_no_move_is_better():
    target = torch.tensor([[0.4, 0.5, 0.3, 0.2]])
    assert oracle(target, target, WHOLE[None]).item() == STOP
    far = oracle(target + torch.tensor([[0.2, 0.0, 0.0, 0.0]]), target, WHOLE[None]).item()
    assert NAMES[far - 1] == "left"


def test_episodes_record_what_happened():
    generator = torch.Generator().manual_seed(3)
    bounds, start = WHOLE.expand(50, 4), random_boxes(50, 4)
    asked = []

    def choose(boxes, before):
        asked.append(before.clone())
        return torch.randint(COUNT, (50,), generator=generator)

    played = roll_out(choose, start, bounds, 12)
    stops = (played.alive & (played.moves == STOP)).sum(dim=0)
    assert set(stops.tolist()) == {0, 1} and len(played.moves) == 12
    for t in range(12):
        following = played.boxes[t + 1] if t < 11 else played.last
        stays = ~played.alive[t] | (played.moves[t] == STOP)
        assert torch.equal(following[stays], played.boxes[t][stays])
        torch.testing.assert_close(following, moved(played.boxes[t], played.moves[t], bounds))
        assert torch.equal(asked[t], played.moves[:t])
    assert torch.equal(played.steps, (played.moves != STOP).sum(dim=0))
    assert roll_out(lambda boxes, _: torch.zeros(50, dtype=torch.long), start, bounds, 12).moves.shape == (1, 50)


def test_nearer_pays_more_and_a_move_costs():
    """The seed's code paid -1 for a move that came nearer."""
    target = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    shifts = torch.linspace(0.4, 0, 9)[:, None] * torch.tensor([[1.0, 0, 0, 0]])
    paid = environment.reward(target + shifts, torch.zeros(9), target.expand(9, 4), 0.005)
    assert (paid.diff() > 0).all() and paid[-1] == pytest.approx(1.5)
    # For every state and every move: paid more, at no cost, exactly where IoU rises.
    boxes, targets = random_boxes(200, 5), random_boxes(200, 6)
    every, bounds = torch.arange(COUNT).expand(200, -1), WHOLE.expand(200, 1, 4)
    after = moved(boxes[:, None].expand(-1, COUNT, -1), every, bounds)
    gain = (
        environment.reward(after, torch.zeros(200, COUNT), targets[:, None].expand_as(after), 0.0)
        - (environment.reward(boxes, torch.zeros(200), targets, 0.0)[:, None])
    )
    change = iou(after, targets[:, None].expand_as(after)) - iou(boxes, targets)[:, None]
    sure = change.abs() > 1e-5
    assert torch.equal(gain[sure] > 0, change[sure] > 0) and sure.sum() > 1000
    two = environment.reward(target, torch.tensor([2.0]), target, 0.005)
    assert two.item() == pytest.approx(1.5 - 0.01)


def test_bins_are_shares_of_the_image():
    bounds = torch.tensor([[0.0, 0.25, 1.0, 0.75]]).expand(4, 4)
    sides = torch.tensor([0.004, 0.01, 0.1, 0.4]).sqrt()[:, None].expand(4, 2)  # areas of a canvas half covered
    assert environment.area_bin(torch.cat([torch.full((4, 2), 0.5), sides], dim=1), bounds).tolist() == [0, 1, 3, 3]


@given(st.lists(st.lists(st.floats(-1, 2, width=32), min_size=4, max_size=4), min_size=1, max_size=6))
def test_advantages_have_mean_zero(rewards):
    advantage, dropped = environment.advantages(torch.tensor(rewards))
    assert advantage.mean(dim=1).abs().max() < 1e-5 and (advantage[dropped] == 0).all()


def test_equal_rewards_tell_nothing():
    advantage, dropped = environment.advantages(torch.tensor([[0.7, 0.7, 0.7], [0.0, 1.0, 0.5]]))
    assert dropped.tolist() == [True, False]
    assert advantage[1, 1] > 0 > advantage[1, 0] and advantage[1, 2].abs() < 1e-6
