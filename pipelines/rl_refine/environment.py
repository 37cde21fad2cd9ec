"""Episodes of moving boxes, thousands at once in tensors: moves, oracle, roll-outs, reward and advantage.

Boxes are cxcywh in 0..1 of the canvas; `bounds` (..., 4) are left, top, right, bottom of the image on it. Nothing here
knows a network. A target enters the oracle, the reward and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines import layers

STOP = 0  # the move of a policy that prefers none
ALPHAS = (0.2, 0.05)  # shares of the box's own sides: far, and for the end game
SMALLEST = 0.02  # side of a box, as a share of the canvas
NAMES = ("left", "right", "up", "down", "bigger", "smaller", "fatter", "taller")
AREAS = (0.01, 0.05, 0.2)  # of the image: the bounds of the bins in which rewards are normalised


def _moves() -> Tensor:
    """Shifts in own sides and factors of the sides, (17, 4): to stop, then each of NAMES far and near."""
    rows = [(0.0, 0.0, 1.0, 1.0)]
    for a in ALPHAS:
        up, down = 1 + a, 1 / (1 + a)
        rows += [(-a, 0, 1, 1), (a, 0, 1, 1), (0, -a, 1, 1), (0, a, 1, 1)]
        rows += [(0, 0, up, up), (0, 0, down, down), (0, 0, up, down), (0, 0, down, up)]
    return torch.tensor(rows)


MOVES = _moves()
COUNT = len(MOVES)


class Episodes(NamedTuple):
    """What happened in N episodes: T states and moves, `alive` (T, N) where a move was chosen; the last boxes (N, 4).

    A move is alive up to its episode's stop, which is one of them.
    """

    boxes: Tensor  # (T, N, 4), before each move
    moves: Tensor  # (T, N)
    alive: Tensor
    last: Tensor

    @property
    def steps(self) -> Tensor:
        """Return how often each box was moved, (N,)."""
        return (self.alive & (self.moves != STOP)).sum(dim=0)


def moved(boxes: Tensor, moves: Tensor, bounds: Tensor) -> Tensor:
    """Move boxes (..., 4) by numbers of moves (...), kept inside the image and no smaller than SMALLEST."""
    change = MOVES.to(boxes)[moves]
    return inside(
        torch.cat([boxes[..., :2] + change[..., :2] * boxes[..., 2:], boxes[..., 2:] * change[..., 2:]], -1), bounds
    )


def inside(boxes: Tensor, bounds: Tensor) -> Tensor:
    """Cut boxes to the image; where less than SMALLEST is left of a side, it is that long, as far as the image is."""
    low, high = bounds[..., :2], bounds[..., 2:]
    first = (boxes[..., :2] - boxes[..., 2:] / 2).maximum(low).minimum(high)
    last = (boxes[..., :2] + boxes[..., 2:] / 2).maximum(low).minimum(high)
    sides = (last - first).maximum((high - low).clamp(max=SMALLEST))
    centres = ((first + last) / 2).maximum(low + sides / 2).minimum(high - sides / 2)
    return torch.cat([centres, sides], dim=-1)


def distance(boxes: Tensor, targets: Tensor) -> Tensor:
    """Measure how many moves apart boxes are, (..., 4) twice -> (...): in the space in which the moves are steps.

    Centres in sides of the target, sides by size and by shape in logarithms.
    """
    shift = (boxes[..., :2] - targets[..., :2]).abs() / targets[..., 2:].clamp(min=1e-6)
    width, height = (boxes[..., 2:].clamp(min=1e-6) / targets[..., 2:].clamp(min=1e-6)).log().unbind(dim=-1)
    return shift.sum(dim=-1) + (width + height).abs() / 2 + (width - height).abs() / 2


def oracle(boxes: Tensor, targets: Tensor, bounds: Tensor) -> Tensor:
    """Choose the greedy move of boxes (N, 4) toward their targets -> (N,); to stop where none brings them nearer.

    Greedy by IoU is stuck where two moves are needed to gain any, and blind where boxes do not overlap.
    """
    every = torch.arange(COUNT, device=boxes.device).expand(len(boxes), -1)
    after = moved(boxes[:, None].expand(-1, COUNT, -1), every, bounds[:, None])
    return distance(after, targets[:, None]).argmin(dim=1)  # the first of equals: to stop


@torch.no_grad()
def roll_out(choose: Callable[[Tensor, Tensor], Tensor], start: Tensor, bounds: Tensor, most: int) -> Episodes:
    """Play episodes from boxes (N, 4), at most `most` moves each.

    `choose` gets the boxes and the moves before, (t, N), and returns moves (N,).
    """
    box, alive = start, torch.ones(len(start), dtype=torch.bool, device=start.device)
    boxes, moves, lives = list[Tensor](), list[Tensor](), list[Tensor]()
    for _ in range(most):
        before = torch.stack(moves) if moves else torch.zeros(0, len(start), dtype=torch.long, device=start.device)
        move = torch.where(alive, choose(box, before), STOP)
        boxes, moves, lives = [*boxes, box], [*moves, move], [*lives, alive]
        alive = alive & (move != STOP)
        box = torch.where(alive[:, None], moved(box, move, bounds), box)
        if not alive.any():
            break
    return Episodes(torch.stack(boxes), torch.stack(moves), torch.stack(lives), box)


def reward(last: Tensor, steps: Tensor, targets: Tensor, cost: float) -> Tensor:
    """Pay IoU^2 + 0.5 where IoU is at least 0.5, less `cost` a move: (N, 4), (N,), (N, 4) -> (N,)."""
    _, iou = layers.giou(last, targets)
    return iou**2 + 0.5 * (iou >= 0.5) - cost * steps


def area_bin(targets: Tensor, bounds: Tensor) -> Tensor:
    """Number the bin of each target's share of its image, (N, 4) twice -> (N,) from 0: <1, 1-5, 5-20, >=20 %."""
    share = targets[..., 2:].prod(dim=-1) / (bounds[..., 2:] - bounds[..., :2]).prod(dim=-1).clamp(min=1e-6)
    return torch.bucketize(share, share.new_tensor(AREAS), right=True)


def advantages(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Compare each episode with its group, (B, G) -> advantages of mean 0 (B, G); groups that tell nothing (B,).

    Of a group of equal rewards nothing can be learnt: its advantages are 0 (Shao et al., DeepSeekMath, 2024).
    """
    spread = rewards.std(dim=1, keepdim=True, correction=0)
    dropped = spread[:, 0] < 1e-3
    advantage = (rewards - rewards.mean(dim=1, keepdim=True)) / (spread + 0.05)
    return advantage * ~dropped[:, None], dropped
