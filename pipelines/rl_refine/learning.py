"""What a policy learns from its episodes: cross-entropy against the oracle, or the clipped group-relative objective.

Shao et al., DeepSeekMath (GRPO), 2024; Schulman et al., PPO, 2017. Rewards are divided by the running deviation of
their bin of target area (Ground-R1, 2025), or large boxes dominate. All randomness comes from one generator.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.rl_refine import environment
from pipelines.rl_refine.environment import AREAS, STOP, Episodes
from pipelines.rl_refine.network import PAST, Observation, Policy, Prepared, last_moves
from pipelines.rl_refine.recipe import RLRefineTraining

KEEP = 0.95  # of the running numbers, at each forward pass
NEAR, AWAY = 0.15, 0.3  # deviations of a start from a box, in sides and logarithms


class Learner(nn.Module):
    """A policy in training, and what its steps leave for the next ones: all of it is in the step file."""

    samples: Tensor
    passes: Tensor
    variance: Tensor
    dropped: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.playing = as_buffers(policy)  # the policy that plays, some steps old
        self.register_buffer("samples", torch.zeros((), dtype=torch.float64))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.register_buffer("variance", torch.zeros(len(AREAS) + 1))  # of rewards in each bin; 0 = none yet
        self.register_buffer("dropped", torch.zeros(()))


def as_buffers(policy: Policy) -> Policy:
    """Copy a policy, its weights as buffers: nothing trains them, and the step file holds them."""
    copy = deepcopy(policy)
    for module in copy.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach().clone())
    return copy


@torch.no_grad()
def refresh(learner: Learner, every: int) -> None:
    """Count a forward pass; at each `every`th one the playing policy becomes the newest."""
    if int(learner.passes) % every == 0:
        newest = dict(learner.policy.named_parameters())
        for name, tensor in learner.playing.named_buffers():
            tensor.copy_(newest[name])
    learner.passes += 1


class Played(NamedTuple):
    """The states of M episodes in which a move was chosen, S in a row, and the move; `sample` is whose they are."""

    pairs: Tensor  # (S,): the episode
    sample: Tensor  # (S,)
    boxes: Tensor  # (S, 4)
    past: Tensor  # (S, PAST)
    time: Tensor  # (S,)
    moves: Tensor  # (S,)


def states(played: Episodes, samples: Tensor, most: int) -> Played:
    """List the states of episodes that belong to samples (M,)."""
    t, m = played.alive.nonzero(as_tuple=True)
    before = F.pad(played.moves.T, (PAST, 0), value=-1).unfold(1, PAST, 1).flip(2)  # (M, T + 1, PAST), the last first
    return Played(m, samples[m], played.boxes[t, m], before[m, t], t / most, played.moves[t, m])


def scores(policy: Policy, prepared: Prepared, at: Played) -> Tensor:
    """Score the moves of states -> log-probabilities (S, 17)."""
    out: Tensor = policy(prepared.of(at.sample), at.sample, at.boxes, at.past, at.time).log_softmax(dim=1)
    return out


def sampler(
    policy: Policy, prepared: Prepared, samples: Tensor, most: int, rng: torch.Generator
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what draws moves from a policy, for episodes of the samples (M,)."""
    own = prepared.of(samples)

    def draw(boxes: Tensor, before: Tensor) -> Tensor:
        time = torch.full((len(boxes),), len(before) / most, device=boxes.device)
        odds = policy(own, samples, boxes, last_moves(before), time).softmax(dim=1)
        return torch.multinomial(odds, 1, generator=rng)[:, 0]

    return draw


def perturbed(boxes: Tensor, bounds: Tensor, deviation: float, rng: torch.Generator) -> Tensor:
    """Move boxes (N, 4) at random: centres by shares of their sides, sides by factors."""
    noise = deviation * torch.randn(boxes.shape, generator=rng, device=boxes.device)
    shifted = boxes[:, :2] + noise[:, :2] * boxes[:, 2:]
    return environment.inside(torch.cat([shifted, boxes[:, 2:] * noise[:, 2:].exp()], dim=1), bounds)


def spread_starts(batch: Observation, episodes: int, rng: torch.Generator) -> Tensor:
    """Draw where to begin episodes of imitation, (B * G, 4): the first is the start itself.

    The others are near the start, near the target, and near a proposal: whatever box the policy may come to.
    """
    assert batch.targets is not None
    samples = torch.arange(len(batch), device=batch.start.device).repeat_interleave(episodes)
    chance = torch.rand(len(samples), generator=rng, device=samples.device)
    base = torch.where((chance < 0.5)[:, None], batch.start[samples], batch.targets[samples])
    if batch.proposals.shape[1]:
        which = torch.multinomial(batch.known.float() + 1e-6, episodes, True, generator=rng).flatten()
        usable = (chance >= 0.75) & batch.known[samples, which]
        base = torch.where(usable[:, None], batch.proposals[samples, which], base)
    moved = perturbed(base, batch.bounds[samples], AWAY, rng)
    first = torch.arange(len(samples), device=samples.device) % episodes == 0
    return torch.where(first[:, None], batch.start[samples], moved)


def imitate(
    learner: Learner, batch: Observation, config: RLRefineTraining, most: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """Return the cross-entropy of the oracle's moves, (B,), over the states of mixed episodes."""
    assert batch.targets is not None
    size, targets = len(batch), batch.targets
    samples = torch.arange(size, device=targets.device).repeat_interleave(config.episodes)
    prepared, bounds = learner.policy.prepare(batch), batch.bounds[samples]
    draw = sampler(learner.policy, prepared, samples, most, rng)

    # 1. Episodes that take moves of both; only the oracle ends one, so that states behind an early stop are met, too.
    def mixed(boxes: Tensor, before: Tensor) -> Tensor:
        best = environment.oracle(boxes, targets[samples], bounds)
        own = draw(boxes, before)
        takes = torch.rand(len(own), generator=rng, device=own.device) < config.explore
        return torch.where(takes & (own != STOP) & (best != STOP), own, best)

    played = environment.roll_out(mixed, spread_starts(batch, config.episodes, rng), bounds, most)
    # 2. In each state the oracle's move is right.
    at = states(played, samples, most)
    best = environment.oracle(at.boxes, targets[at.sample], batch.bounds[at.sample])
    odds = scores(learner.policy, prepared, at)
    loss = F.nll_loss(odds, best, reduction="none")
    right = (odds.argmax(dim=1) == best).float()
    return {"imitation": mean_of(loss, at.sample, size), "agreement": mean_of(right, at.sample, size)}


def optimise(
    learner: Learner, reference: Policy, batch: Observation, config: RLRefineTraining, most: int, left: float,
    rng: torch.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the terms of group-relative optimisation, (B,) each, and what is only logged.

    `left` is the share of the training that is left: entropy and jittered starts fall with it.
    """
    assert batch.targets is not None
    size, group = len(batch), config.episodes
    refresh(learner, config.refresh)
    samples = torch.arange(size, device=batch.start.device).repeat_interleave(group)
    bounds, targets = batch.bounds[samples], batch.targets[samples]
    # 1. Groups of episodes from one start; near the truth for some, while most groups tell nothing.
    start = batch.start[samples]
    near = torch.rand(len(start), generator=rng, device=start.device) < config.jitter * left
    near &= learner.dropped > 0.5
    start = torch.where(near[:, None], perturbed(targets, bounds, NEAR, rng), start)
    with torch.no_grad():
        old = learner.playing.prepare(batch)
        played = environment.roll_out(sampler(learner.playing, old, samples, most, rng), start, bounds, most)
        at = states(played, samples, most)
        before = scores(learner.playing, old, at)
        after = scores(reference, reference.prepare(batch), at)
    # 2. Rewards in units of their bin, compared within the group.
    gains = environment.reward(played.last, played.steps, targets, config.cost).unflatten(0, (size, group))
    unit = bin_deviation(learner, gains, environment.area_bin(batch.targets, batch.bounds))
    advantage, dropped = environment.advantages(gains / unit[:, None])
    learner.dropped.lerp_(dropped.float().mean(), 1 - KEEP)
    # 3. The clipped objective, the distance to the policy of the start, the entropy.
    now = scores(learner.policy, learner.policy.prepare(batch), at)
    change = (now - before).gather(1, at.moves[:, None])[:, 0].exp()
    worth = advantage.flatten()[at.pairs]
    gain = torch.minimum(change * worth, change.clamp(1 - config.ratio, 1 + config.ratio) * worth)
    odds = now.exp()
    full = torch.zeros(size, device=gain.device)
    return {
        "policy": -full.index_add(0, at.sample, gain) / (group * most),
        "kl": mean_of((odds * (now - after)).sum(dim=1), at.sample, size),
        "entropy": -left * mean_of(-(odds * now).sum(dim=1), at.sample, size),
        "reward": gains.mean(dim=1),
        "steps": played.steps.float().unflatten(0, (size, group)).mean(dim=1),
        "dropped": dropped.float(),
    }


@torch.no_grad()
def bin_deviation(learner: Learner, rewards: Tensor, bins: Tensor) -> Tensor:
    """Return the running deviation of rewards in each sample's bin, (B, G) and (B,) -> (B,); takes these in first."""
    for number in range(len(learner.variance)):
        own = rewards[bins == number]
        fresh = own.var(correction=0) if own.numel() else learner.variance[number]
        keep = KEEP if learner.variance[number] > 0 else 0.0
        learner.variance[number].lerp_(fresh, 1 - keep)
    return learner.variance.sqrt().clamp(min=0.05)[bins]


def mean_of(values: Tensor, sample: Tensor, size: int) -> Tensor:
    """Average values (S,) over the states of each sample (S,) -> (B,)."""
    sums = torch.zeros(size, device=values.device, dtype=values.dtype).index_add(0, sample, values)
    counts = torch.zeros(size, device=values.device, dtype=values.dtype).index_add(0, sample, torch.ones_like(values))
    return sums / counts.clamp(min=1)
