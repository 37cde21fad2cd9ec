"""The first training step of any task in numbers: losses and gradient norms, to compare with another implementation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench import registry
from bench.datasets.load import load_split
from bench.errors import UsageError
from bench.settings import Resolved
from bench.training.jobs import chosen_tasks
from bench.training.setup import make_job
from bench.training.stages import StagedTraining
from bench.training.step import BOXES, frozen_modules, weighted
from bench.training.task import ExternalTraining, TrainTask

AT_ONCE = 8  # samples in a forward pass


def first_step(
    pipeline: str, split_name: str, resolved: Resolved, recipe: Mapping[str, Any], part: str | None, limit: int | None
) -> dict[str, Any]:
    """Return the first training step of a pipeline's part, or its first one, on a split. Raises as training does."""
    tasks = registry.load(registry.PIPELINES, pipeline, "tasks")
    split = load_split(split_name, resolved)
    split = split if limit is None else split.limited(limit)
    job = replace(make_job(pipeline, split, split, resolved, recipe, Path()), saves=False)
    (task,) = chosen_tasks(job, tasks, part or next(iter(tasks(job)))).values()
    if isinstance(task, StagedTraining):
        task = task.first()
    if isinstance(task, ExternalTraining):
        raise UsageError(f"--check-step: {task.trainer}'s own trainer trains {pipeline} and reports no single steps")
    assert isinstance(task, TrainTask)
    return {"split": split.name, **gradient_check(task)}


def gradient_check(task: TrainTask) -> dict[str, Any]:
    """Compute one step over all samples without updating anything; nothing is left to chance.

    Samples are drawn as in evaluation and dropout is off. Returns "loss" and its terms (means), "rows",
    "gradient_norms" (parameter -> norm) and "boxes_cxcywh" of each sample where the task gives boxes. Raises DataError.
    """
    device = torch.device(task.job.context.device)
    # 1. Parameters that are trained ask for gradients; nothing is left to chance.
    named = {name: p for group in task.parameter_groups() for name, p in group.parameters.items()}
    task.model.requires_grad_(False).to(device).train()
    for parameter in named.values():
        parameter.requires_grad_(True)
    for module in frozen_modules(task.model):
        module.eval()
    without_dropout(task.model)
    data, rng = task.dataset(augment=False), torch.Generator(device).manual_seed(0)
    # 2. Forward and backward, part by part.
    sums: dict[str, float] = defaultdict(float)
    boxes: list[list[float]] = []
    # A loss that compares the samples of a batch is taken over all of them at once, and is no sum over samples.
    apart = task.loss_scope == "sample"
    size, total = (
        (AT_ONCE if "batch" in task.config.FREE else task.config.batch, len(data)) if apart else (len(data), 1)
    )
    for start in range(0, len(data), size):
        batch = task.collate([data.sample(0, row) for row in range(start, min(start + size, len(data)))])
        terms = task.losses(batch.to(device), rng)
        losses = weighted(terms, task.loss_weights)
        (losses.sum() / total).backward()
        for name, term in {"loss": losses, **terms}.items():
            if name not in BOXES:
                sums[name] += term.detach().double().sum().item() / total
        if "boxes" in terms:
            boxes += terms["boxes"].detach().double().tolist()
    norms = {name: float(p.grad.double().norm()) if p.grad is not None else 0.0 for name, p in named.items()}
    return {**sums, "rows": len(data), "gradient_norms": norms, "boxes_cxcywh": boxes}


def without_dropout(model: nn.Module) -> None:
    """Switch off every dropout, and the running means of normalisation."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
