"""AdamW over a task's parameter groups, and the learning rate of each group at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from bench.training.config import BatchPlan, Schedule, TrainConfig
from bench.training.task import ParameterGroup


def make_optimiser(groups: Sequence[ParameterGroup], config: TrainConfig, plan: BatchPlan) -> torch.optim.AdamW:
    """Return AdamW; each group keeps its share of the learning rate, its schedule and its warm-up.

    One kernel updates all weights; it changes nothing where `found_inf`, a tensor on the device, is 1.
    """
    tables = [
        {
            "params": list(group.parameters.values()),
            "lr": plan.learning_rate * group.lr_scale,
            "lr_scale": group.lr_scale,
            "schedule": group.schedule or config.schedule,
            "warm_up": group.warm_up,
            "weight_decay": config.weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group in groups
    ]
    return torch.optim.AdamW(tables, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(
    full: float, config: TrainConfig, schedule: Schedule, step: int, total: int, epoch: int, epochs: int, warm_up: int
) -> float:
    """Return the rate at `step` of `total` and `epoch` of `epochs`, both from 0; `full` is the rate without a schedule.

    A warm-up rises in a line under the schedule: a cosine or a line to zero, or a drop at a share of the training.
    """
    progress = min(1.0, epoch / epochs if config.schedule_by == "epoch" else step / total)
    rate = full * (min(1.0, (step + 1) / warm_up) if warm_up else 1.0)
    if schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "linear":  # by step whatever the others do, from the end of the warm-up
        return rate * min(1.0, max(0.0, (total - step) / max(1, total - warm_up)))
    if schedule == "drop":
        return rate * (config.drop if progress >= config.drop_at - 1e-9 else 1.0)
    return rate


def decay_split(named: Mapping[str, nn.Parameter], lr_scale: float = 1.0) -> list[ParameterGroup]:
    """Split parameters into matrices, which decay, and biases and norms, which do not."""
    decayed = {name: p for name, p in named.items() if p.ndim > 1}
    rest = {name: p for name, p in named.items() if p.ndim <= 1}
    groups = [ParameterGroup(decayed, lr_scale), ParameterGroup(rest, lr_scale, weight_decay=0.0)]
    return [group for group in groups if group.parameters]


def layer_decay(layers: Sequence[Mapping[str, nn.Parameter]], decay: float) -> list[ParameterGroup]:
    """Give each layer `decay` times the learning rate of the layer above it; the last one has the full rate."""
    return [
        group for depth, named in enumerate(reversed(layers)) for group in decay_split(named, lr_scale=decay**depth)
    ]
