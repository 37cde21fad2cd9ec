"""Measure how long 1,000 parallel episodes of 12 moves take a policy of rl-refine on one core.

    python -m tools.benchmarks.rl_episodes

Random weights and features, no episode stops early; the sizes of the small policy, and the code's for ViT-B/16. CPU
time, best of five. Target: under a second each. Leaves with 1 when missed.
"""

from __future__ import annotations

import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.rl_refine.environment import STOP, roll_out
from pipelines.rl_refine.network import Observation, Policy, PolicyConfig, last_moves

EPISODES, MOVES, IMAGES, TARGET = 1000, 12, 64, 1.0
POLICIES = {
    "small": (PolicyConfig(embed=96, channels=32, cells=6, hidden=128), 10),
    "ViT-B/16": (PolicyConfig(embed=512), 14),
}


def observation(sizes: PolicyConfig, side: int) -> Observation:
    """Draw what is known of EPISODES pairs of IMAGES images."""
    boxes, whole = torch.rand(EPISODES, 1 + sizes.proposals, 4) * 0.5 + 0.2, torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    return Observation(
        torch.randn(IMAGES, sizes.embed, side, side), torch.randint(IMAGES, (EPISODES,)),
        F.normalize(torch.randn(EPISODES, sizes.embed), dim=1), whole.repeat(EPISODES, 1),
        boxes[:, 1:], torch.rand(EPISODES, sizes.proposals, 2), torch.ones(EPISODES, sizes.proposals, dtype=torch.bool),
        boxes[:, 0],
    )  # fmt: skip


@torch.inference_mode()
def seconds(sizes: PolicyConfig, side: int) -> tuple[float, float]:
    """Return the CPU time to prepare an observation, and that of the episodes."""
    policy, seen = Policy(sizes).eval(), observation(sizes, side)
    pairs = torch.arange(EPISODES)
    began = time.process_time()
    prepared = policy.prepare(seen)
    middle = time.process_time()

    def choose(box: Tensor, before: Tensor) -> Tensor:
        scores = policy(prepared, pairs, box, last_moves(before), torch.full((EPISODES,), len(before) / MOVES))
        scores[:, STOP] = -torch.inf
        return scores.argmax(dim=1)

    played = roll_out(choose, seen.start, seen.bounds, MOVES)
    assert played.alive.all() and len(played.moves) == MOVES
    return middle - began, time.process_time() - middle


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    worst = 0.0
    for name, (sizes, side) in POLICIES.items():
        prepare, play = (min(times) for times in zip(*(seconds(sizes, side) for _ in range(5)), strict=True))
        count = sum(p.numel() for p in Policy(sizes).parameters())
        what = f"{EPISODES} episodes x {MOVES} moves {play:.2f} s, before them {prepare:.2f} s"
        print(f"{name}, {count / 1e6:.2f} M parameters: {what}")
        worst = max(worst, play)
    return 0 if worst < TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
