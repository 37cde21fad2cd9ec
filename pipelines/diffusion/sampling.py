"""Diffusion of boxes: schedule, boxes as signals, DDIM, and one answer of many samples.

    x_u = sqrt(a(u)) x_0 + sqrt(1 - a(u)) noise        u in 0..1, DDPM's t / T; x_0 the box, scaled to -2..2

A network predicts x_0 of x_u (Chen et al., DiffusionDet, ICCV 2023, section 3). The schedule is the squared cosine of
Nichol and Dhariwal (ICML 2021), the sampler DDIM without added noise (Song et al., ICLR 2021): the first noise decides
everything.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.layers import giou

SCALE = 2.0  # of a signal: a box's numbers of 0..1 lie in -SCALE..SCALE
SMALLEST = 0.004  # side of a box, of the canvas
ALIKE = 1e-3  # difference of mean IoUs that decides nothing
OFFSET = 0.008  # of the schedule, which keeps the noise of small u from vanishing

# Noisy boxes (N, K, 4) cxcywh in 0..1 and their u -> boxes (N, K, 4), and logits of how good they are (N, K).
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def kept(u: Tensor) -> Tensor:
    """Compute a(u), the share of the signal's power that is left: 1 at u = 0, 0 at u = 1."""
    start = math.cos(OFFSET / (1 + OFFSET) * math.pi / 2) ** 2
    return ((u + OFFSET) / (1 + OFFSET) * math.pi / 2).cos().square() / start


def to_signal(boxes: Tensor) -> Tensor:
    """Scale boxes, cxcywh in 0..1, to signals."""
    return (2 * boxes - 1) * SCALE


def to_boxes(signal: Tensor) -> Tensor:
    """Turn any signals (..., 4) into boxes inside the canvas, cxcywh in 0..1, with sides above 0."""
    centre, sides = ((signal / SCALE + 1) / 2).clamp(0, 1).chunk(2, dim=-1)
    half = sides.clamp(min=SMALLEST) / 2
    low, high = (centre - half).clamp(min=0), (centre + half).clamp(max=1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def noised(boxes: Tensor, u: Tensor, noise: Tensor) -> Tensor:
    """Add noise (..., 4) to boxes (..., 4), cxcywh in 0..1 -> signals x_u; u (..., 1)."""
    share = kept(u)
    return share.sqrt() * to_signal(boxes) + (1 - share).sqrt() * noise


def denoise(predict: Predict, signal: Tensor, start: float, steps: int) -> tuple[Tensor, Tensor]:
    """Take a signal (N, K, 4) from u = start to 0 in equal steps -> the last predicted boxes, and their logits."""
    times = torch.linspace(start, 0, steps + 1, device=signal.device)
    for now, then in itertools.pairwise(times):
        # 1. x_0, predicted.
        boxes, logits = predict(to_boxes(signal), now.expand(signal.shape[:-1]))
        # 2. The noise that would have led here, added anew, but less; none after the last step.
        clean, share, less = to_signal(boxes), kept(now), kept(then)
        noise = (signal - share.sqrt() * clean) / (1 - share).sqrt()
        signal = less.sqrt() * clean + (1 - less).sqrt() * noise
    return boxes, logits


def medoid(boxes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Choose of each row's samples (N, K, 4) the one that is most like all of them -> it (N, 4), how much (N,).

    How much is the mean IoU with all samples in their weights (N, K): 1 where all agree. Of samples that are as much
    alike, to ALIKE, the first is taken: else float noise would choose among them.
    """
    overlap = giou(boxes[:, :, None], boxes[:, None])[1]  # (N, K, K)
    likeness = (overlap * weights[:, None]).sum(dim=2) / weights.sum(dim=1, keepdim=True)
    most = likeness.amax(dim=1)
    best = (likeness >= most[:, None] - ALIKE).int().argmax(dim=1)
    return boxes[torch.arange(len(boxes), device=boxes.device), best], most


def noise_of(seed: int, image: str, text: str, count: int) -> NDArray[np.float32]:
    """Draw the noise (count, 4) of a text about an image, given by its hash.

    The same in every batch and under every id; of more samples the first ones stay.
    """
    digest = hashlib.sha256(json.dumps([seed, image, text]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16])).standard_normal((count, 4), np.float32)
