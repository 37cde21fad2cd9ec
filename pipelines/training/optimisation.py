"""How a small detector is optimised: AdamW, a linear warm-up and a cosine to zero, and a log line now and then."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger("bench.train")


def optimise(
    model: nn.Module,
    batches: Iterable[Any],
    loss_of: Callable[[Any], Tensor],
    steps: int,
    *,
    name: str,
    learning_rate: float,
    weight_decay: float,
    warm_up: int,
    log_every: int,
    shares: Mapping[str, float] | None = None,
) -> None:
    """One step for each of the `steps` batches; gradients are clipped to norm 1. Biases and norms do not decay.

    `shares` gives parameters whose name starts so a share of the learning rate.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = next((share for prefix, share in (shares or {}).items() if key.startswith(prefix)), 1.0)
            groups[share, parameter.ndim > 1].append(parameter)
    optimiser = torch.optim.AdamW(
        [
            {"params": parameters, "lr": share * learning_rate, "weight_decay": weight_decay if decays else 0.0}
            for (share, decays), parameters in groups.items()
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: pace(step, steps, warm_up))
    model.train()
    began, losses = time.monotonic(), []
    for step, batch in enumerate(batches, 1):
        loss = loss_of(batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % log_every == 0 or step == steps:
            mean, left = sum(losses) / len(losses), (time.monotonic() - began) / step * (steps - step)
            log.info("%s: step %d of %d, loss %.3f, about %.0f min left", name, step, steps, mean, left / 60)
            losses = []
    model.eval()


def pace(step: int, steps: int, warm_up: int) -> float:
    """The share of the full learning rate: up in a line for `warm_up` steps, then down along a cosine to zero."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
