"""The policy: which move, from the box's place on a dense CLIP map, the text, proposals, and the moves before.

An image's map is computed once. A move costs a RoIAlign of the box with its surroundings (twice its sides) and a small
MLP; CLIP is never called in an episode.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import roi_align

from bench.settings import Table
from bench.training.task import Batch
from pipelines import layers
from pipelines.layers import MLP
from pipelines.rl_refine.environment import COUNT

PAST = 10  # moves before that are in the state
FAR = 3.0  # beyond so many sides, or factors e, a proposal is only "far"
FINE = 20.0  # times as large, for the end game
OF_PAIR = ("texts", "bounds", "proposals", "scores", "known", "start")
TRUST = 8.0
SHARP = 20.0  # of CLIP's choice among proposals


class PolicyConfig(Table):
    """Sizes of a policy; `embed` is the width of its CLIP's space."""

    embed: int = Field(512, ge=1)
    channels: int = Field(64, ge=1, description="of the map, projected")
    cells: int = Field(6, ge=2, description="along each side of the box with its surroundings")
    hidden: int = Field(384, ge=1)
    proposals: int = Field(8, ge=0, description="of an image that are in the state")


@dataclass(frozen=True, slots=True)
class Observation(Batch):
    """What is known of N pairs of image and text before the first move; U images, K proposals.

    Of an unused place for a proposal `known` is False. `start` is the box that is moved. `targets` are for training.
    """

    maps: Tensor  # (U, D, h, w): CLIP's patches in the space of texts
    owners: Tensor  # (N,): whose image
    texts: Tensor  # (N, D), unit vectors
    bounds: Tensor  # (N, 4): left, top, right, bottom of the image in 0..1 of the canvas
    proposals: Tensor  # (N, K, 4) cxcywh in 0..1 of the canvas
    scores: Tensor  # (N, K, 2): the detector's, and the cosine of proposal and text
    known: Tensor  # (N, K)
    start: Tensor  # (N, 4)
    targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.owners)

    def rows(self, pairs: Tensor) -> Observation:
        """Return some of the pairs, (M,) numbers, with the images that they are about."""
        images, owners = self.owners[pairs].unique(return_inverse=True)
        own = {field.name: getattr(self, field.name)[pairs] for field in fields(self) if field.name in OF_PAIR}
        targets = None if self.targets is None else self.targets[pairs]
        return Observation(self.maps[images], owners, **own, targets=targets)

    def with_targets(self, targets: Tensor) -> Observation:
        """Return the same pairs with their targets, (N, 4) cxcywh in 0..1 of the canvas."""
        return replace(self, targets=targets)


class Prepared(NamedTuple):
    """What a policy made of an observation, once for all moves of N pairs."""

    maps: Tensor  # (N, C + 1, h, w)
    text: Tensor  # (N, H)
    proposals: Tensor  # (N, K, 4)
    scores: Tensor  # (N, K, 4)
    known: Tensor  # (N, K)

    def of(self, pairs: Tensor) -> Prepared:
        """Return what moves take of it beside the maps, for episodes of the pairs (M,)."""
        return self._replace(**{name: getattr(self, name)[pairs] for name in ("text", "proposals", "scores", "known")})


class Policy(nn.Module):
    """Score the moves of boxes."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        c, h = config.channels, config.hidden
        self.visual = nn.Conv2d(config.embed, c, 1)
        self.text = nn.Linear(config.embed, h)
        self.cells = nn.Linear((c + 1) * config.cells**2, h)
        self.place = nn.Linear(5 + PAST * COUNT, h)
        self.proposal = MLP(13, h // 2, h // 2, 2)
        self.weight = nn.Linear(4, 1)  # a proposal counts at first by CLIP's choice and by the box to begin with
        with torch.no_grad():
            self.weight.weight.copy_(torch.tensor([[0.0, 0.0, TRUST, TRUST]]))
        self.proposed = nn.Linear(h // 2, h)
        self.head = MLP(h, h // 2, COUNT, 2)

    def prepare(self, observation: Observation) -> Prepared:
        """Project an observation."""
        maps = observation.maps.float()
        # 1. The image's patches, and how much each is like the text.
        alike = torch.einsum("ndhw,nd->nhw", F.normalize(maps, dim=1)[observation.owners], observation.texts)
        both = torch.cat([self.visual(maps)[observation.owners], alike[:, None]], dim=1)
        # 2. Scores of proposals, CLIP's choice among them, and what the first box says of them.
        cosine = observation.scores[..., 1].masked_fill(~observation.known, -1.0)
        choice = (SHARP * cosine).softmax(dim=1)
        _, first = layers.giou(observation.start[:, None], observation.proposals)
        scores = torch.cat([observation.scores, choice[..., None], first[..., None]], dim=2)
        return Prepared(both, self.text(observation.texts), observation.proposals, scores, observation.known)

    def forward(self, prepared: Prepared, pairs: Tensor, boxes: Tensor, past: Tensor, time: Tensor) -> Tensor:
        """Score the moves of M boxes -> (M, 17).

        `pairs` (M,) says whose they are in `prepared`, which is `of` the same pairs; `past` (M, PAST) are the numbers
        of the moves before, the last first, -1 where there was none; `time` (M,) is the share of the moves that is
        spent.
        """
        # 1. The box's own cells in the middle, its surroundings around them, in the light of the text.
        half = boxes[:, 2:]  # twice the box
        corners = torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1) * prepared.maps.shape[-1]
        rois = torch.cat([pairs[:, None].to(corners), corners], dim=1)
        cells = roi_align(prepared.maps, rois, self.config.cells, sampling_ratio=1, aligned=True)
        state = self.cells(cells.flatten(1)) * (1 + prepared.text)
        # 2. Where the box is, and how it came there.
        moves = F.one_hot(past + 1, COUNT + 1)[..., 1:].flatten(1)
        state = state + self.place(torch.cat([boxes, time[:, None], moves.to(boxes)], dim=1))
        # 3. Proposals, whatever their order.
        if self.config.proposals:
            value = self.proposal(torch.cat([relation(boxes, prepared.proposals), prepared.scores], dim=2))
            weight = self.weight(prepared.scores).masked_fill(~prepared.known[..., None], -1e4).softmax(dim=1)
            state = state + self.proposed(F.relu((weight * prepared.known[..., None] * value).sum(dim=1)))
        out: Tensor = self.head(F.relu(state))
        return out


def relation(boxes: Tensor, proposals: Tensor) -> Tensor:
    """Describe proposals from a box, (M, 4) and (M, K, 4) -> (M, K, 9): IoU, and where they lie, coarse and fine.

    Shifts are in the box's sides; logarithms of size and of shape are what the moves change (environment.py).
    """
    own = boxes[:, None]
    _, iou = layers.giou(own, proposals)
    shift = (proposals[..., :2] - own[..., :2]) / own[..., 2:]
    width, height = (proposals[..., 2:].clamp(min=1e-4) / own[..., 2:]).log().unbind(dim=2)
    away = torch.cat([shift, torch.stack([width + height, width - height], dim=2) / 2], dim=2)
    return torch.cat([iou[..., None], away.clamp(-FAR, FAR), (FINE * away).clamp(-FAR, FAR)], dim=2)


def last_moves(moves: Tensor) -> Tensor:
    """Lay out the moves before as the policy takes them, (t, N) -> (N, PAST), the last first, -1 where none was."""
    return F.pad(moves.flip(0)[:PAST].T, (0, PAST - min(PAST, len(moves))), value=-1)
