"""Imitation and group-relative optimisation on observations made by hand."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pipelines import layers
from pipelines.rl_refine import environment, learning
from pipelines.rl_refine.environment import NAMES, STOP
from pipelines.rl_refine.learning import Learner, imitate, optimise
from pipelines.rl_refine.network import Observation, Policy, PolicyConfig
from pipelines.rl_refine.recipe import RLRefineTraining

MOST = 12


def config(**changes):
    return RLRefineTraining(**{"episodes": 6, "method": "grpo", **changes})


def played_moves(monkeypatch):
    """The moves of every roll-out from now on."""
    moves, roll_out = [], environment.roll_out

    def recorded(*arguments):
        played = roll_out(*arguments)
        moves.append(played.moves)
        return played

    monkeypatch.setattr(environment, "roll_out", recorded)
    return moves


def test_the_update_scores_the_states_that_were_played(policy, observation, rng):
    """Box, time, moves before and the move itself are those of the roll-out: the seed's code gathered others."""
    batch, samples = observation(), torch.arange(8).repeat_interleave(3)
    seen, scored = policy.prepare(batch), []
    draw = learning.sampler(policy, seen, samples, MOST, rng)

    def choose(boxes, before):
        time = torch.full((len(boxes),), len(before) / MOST)
        scored.append(policy(seen.of(samples), samples, boxes, learning.last_moves(before), time).log_softmax(dim=1))
        return draw(boxes, before)

    played = environment.roll_out(choose, batch.start[samples], batch.bounds[samples], MOST)
    at = learning.states(played, samples, MOST)
    again = learning.scores(policy, seen, at)
    assert len(again) == int(played.alive.sum()) > 24
    torch.testing.assert_close(again, torch.stack(scored)[played.alive])
    assert torch.equal(at.moves, played.moves[played.alive]) and torch.equal(at.sample, samples[at.pairs])


def test_moves_of_a_policy_do_not_depend_on_the_target(policy, observation, monkeypatch):
    batch, moves = observation(), played_moves(monkeypatch)
    for targets in (batch.targets, batch.targets.flip(0)):
        learner = Learner(policy)
        optimise(
            learner, policy, replace(batch, targets=targets), config(), MOST, 1.0, torch.Generator().manual_seed(1)
        )
    assert torch.equal(*moves)


def test_the_gradient_raises_what_paid_more(policy, observation, monkeypatch):
    """One state, two moves: the one that came nearer becomes likelier, the other one rarer."""
    batch = observation(1)
    start = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    batch = replace(batch, start=start, targets=torch.tensor([[0.46, 0.5, 0.2, 0.2]]))
    left, right = (NAMES.index(name) + 1 for name in ("left", "right"))
    monkeypatch.setattr(learning, "sampler", lambda *_: lambda boxes, before: torch.tensor([left, right]))
    learner = Learner(policy)
    terms = optimise(learner, policy, batch, config(episodes=2, refresh=1), 1, 1.0, torch.Generator())
    terms["policy"].sum().backward()
    before = terms["reward"].clone()
    at = learning.Played(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), start,
                         torch.full((1, learning.PAST), -1), torch.zeros(1), torch.tensor([left]))  # fmt: skip
    old = learning.scores(policy, policy.prepare(batch), at)[0].detach()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    new = learning.scores(policy, policy.prepare(batch), at)[0].detach()
    assert new[left] > old[left] and new[right] < old[right] and before.item() > 0


def test_terms_of_the_first_pass(policy, observation, rng):
    learner = Learner(policy)
    terms = optimise(learner, policy, observation(), config(), MOST, 0.5, rng)
    assert {name: tuple(term.shape) for name, term in terms.items()} == dict.fromkeys(
        ("policy", "kl", "entropy", "reward", "steps", "dropped"), (8,)
    )
    # The same policy plays, is trained and is the reference: no distance, and the objective's value is its mean of 0.
    torch.testing.assert_close(terms["kl"], torch.zeros(8), atol=1e-6, rtol=0)
    assert (terms["entropy"] < 0).all()
    ended = optimise(Learner(policy), policy, observation(), config(), MOST, 0.0, rng)
    assert (ended["entropy"] == 0).all()


def test_a_group_that_tells_nothing_is_dropped_and_counted(policy, observation, rng):
    batch = replace(observation(), targets=torch.tensor([[0.01, 0.01, 0.005, 0.005]]).repeat(8, 1))
    learner = Learner(policy)
    terms = optimise(learner, policy, batch, config(cost=0.0), MOST, 1.0, rng)
    assert terms["dropped"].tolist() == [1.0] * 8 and (terms["policy"] == 0).all()
    assert learner.dropped.item() == pytest.approx(1 - learning.KEEP)


def test_while_most_groups_tell_nothing_some_start_near_the_truth(policy, observation, monkeypatch):
    starts, roll_out = [], environment.roll_out
    monkeypatch.setattr(environment, "roll_out", lambda choose, start, *rest: starts.append(start) or roll_out(
        choose, start, *rest))  # fmt: skip
    batch = observation(64)
    for dropped, left in ((0.4, 1.0), (0.9, 1.0), (0.9, 0.0)):
        learner = Learner(policy)
        learner.dropped.fill_(dropped)
        optimise(learner, policy, batch, config(episodes=8), MOST, left, torch.Generator().manual_seed(0))
    shares = [(start != batch.start.repeat_interleave(8, 0)).any(dim=1).float().mean().item() for start in starts]
    assert shares[0] == shares[2] == 0 and shares[1] == pytest.approx(0.3, abs=0.06)


def test_rewards_are_divided_by_the_deviation_of_their_bin(policy):
    learner, rewards = Learner(policy), torch.tensor([[0.0, 1.0], [0.0, 0.2], [0.0, 1.0]])
    first = learning.bin_deviation(learner, rewards, torch.tensor([3, 1, 3]))
    torch.testing.assert_close(first, torch.tensor([0.5, 0.1, 0.5]))
    second = learning.bin_deviation(learner, 3 * rewards, torch.tensor([3, 1, 3]))
    assert (second > first).all() and (second < 2 * first).all() and (learner.variance[[0, 2]] == 0).all()


def test_the_playing_policy_is_some_passes_old_and_lies_in_the_step_file(policy):
    learner = Learner(policy)
    assert not list(learner.playing.parameters())
    assert {f"playing.{name}" for name, _ in policy.named_parameters()} < set(learner.state_dict())
    ages = []
    for _ in range(7):
        learning.refresh(learner, 3)
        ages.append((policy.visual.bias - learner.playing.visual.bias).mean().item())
        with torch.no_grad():
            policy.visual.bias += 1
    assert ages == pytest.approx([0, 1, 2, 0, 1, 2, 0])


def test_beyond_the_ratio_no_gradient_is_left(policy, observation, rng):
    """The policy in training has gone far from the one that played: what paid is not raised further."""
    batch, learner = observation(), Learner(policy)
    learner.passes += 1  # no refresh
    with torch.no_grad():
        policy.head.layers[-1].bias += 3 * torch.randn(environment.COUNT, generator=rng)
    loose = optimise(learner, policy, batch, config(ratio=1e6), MOST, 1.0, torch.Generator().manual_seed(0))["policy"]
    tight = optimise(learner, policy, batch, config(), MOST, 1.0, torch.Generator().manual_seed(0))["policy"]
    assert (tight >= loose - 1e-6).all() and (tight > loose + 1e-3).any()  # a lower bound of the objective


@pytest.mark.slow
def test_imitation_learns_the_oracle(policy, observation):
    batch, learner = observation(), Learner(policy)
    optimiser, history = torch.optim.AdamW(policy.parameters(), 1e-2), []
    for number in range(120):
        terms = imitate(learner, batch, config(episodes=4), MOST, torch.Generator().manual_seed(number))
        optimiser.zero_grad()
        terms["imitation"].mean().backward()
        optimiser.step()
        history.append([terms[name].mean().item() for name in ("imitation", "agreement")])
    assert history[-1][0] < 0.6 * history[0][0] and history[-1][1] > 2 * history[0][1]


@pytest.mark.slow
def test_a_bandit_of_two_boxes_is_learnt_in_200_updates():
    """The text says which of two boxes is meant; a start between them; nothing but the reward teaches."""
    torch.manual_seed(0)
    policy = Policy(PolicyConfig(embed=2, channels=2, cells=2, hidden=16, proposals=2))
    boxes = torch.tensor([[0.35, 0.5, 0.3, 0.3], [0.65, 0.5, 0.3, 0.3]])
    which = torch.arange(8) % 2
    batch = Observation(
        torch.zeros(1, 2, 4, 4), torch.zeros(8, dtype=torch.long), torch.eye(2)[which],
        torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(8, 1), boxes.expand(8, 2, 4),
        torch.stack([torch.ones(8, 2), F.one_hot(which, 2).float()], dim=2), torch.ones(8, 2, dtype=torch.bool),
        torch.tensor([[0.5, 0.5, 0.3, 0.3]]).repeat(8, 1), boxes[which],
    )  # fmt: skip
    learner, optimiser = Learner(policy), torch.optim.AdamW(policy.parameters(), 1e-2)
    reference = Policy(policy.config)
    reference.load_state_dict(policy.state_dict())
    for number in range(200):
        generator = torch.Generator().manual_seed(number)
        terms = optimise(learner, reference, batch, config(episodes=16, kl=0.0), 4, 1 - number / 200, generator)
        optimiser.zero_grad()
        (terms["policy"] + 0.01 * terms["entropy"]).mean().backward()
        optimiser.step()
    seen, pairs = policy.prepare(batch), torch.arange(8)

    def greedy(box, before):
        time = torch.full((8,), len(before) / 4)
        return policy(seen, pairs, box, learning.last_moves(before), time).argmax(dim=1)

    last = environment.roll_out(greedy, batch.start, batch.bounds, 4).last
    assert (layers.giou(last, batch.targets)[1] > 0.7).all() and STOP == 0
