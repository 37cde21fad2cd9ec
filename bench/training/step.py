"""One optimiser step: one gradient over all its samples on all processes, and what can go wrong."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.errors import DeviceError, UsageError
from bench.memory import free, out_of_memory, to_host
from bench.runs.shards import from_environment
from bench.training.config import BatchPlan, TrainConfig
from bench.training.log import usable_tracker
from bench.training.optimiser import learning_rate, make_optimiser
from bench.training.sampler import MicroBatch, StepSampler
from bench.training.task import Batch, TrainingJob, TrainTask

BOXES = ("boxes", "targets")  # entries of `losses` that are no losses


def launch(job: TrainingJob, config: TrainConfig, folder: Path, alternates: bool = False) -> Any:
    """Return this process's Accelerator among those that torchrun or `accelerate launch` started.

    With `alternates` steps may leave out parameters, which then have no gradient on any process. Raises MissingPackage
    for a tracker, UsageError where processes were started in another way.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    cpu = job.context.device == "cpu"
    if not cpu and "LOCAL_RANK" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = job.context.device
    launched = from_environment().size
    trackers = usable_tracker(config.track)
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)] if alternates else []
    accelerator = Accelerator(
        cpu=cpu, mixed_precision="no", log_with=trackers or None, project_dir=str(folder), kwargs_handlers=handlers
    )
    if accelerator.num_processes != launched:
        raise UsageError(
            f"{launched} processes were started, but training uses {accelerator.num_processes}: start it with torchrun "
            "or accelerate launch (under Slurm: one task a node, `srun torchrun ...`)"
        )
    if trackers:
        plain = {key: value for key, value in config.model_dump().items() if isinstance(value, int | float | str)}
        accelerator.init_trackers(config.name, config=plain)
    return accelerator


class NotFiniteError(Exception):
    """The loss or its gradient is NaN or infinite; no weight was changed. `rows` are the samples to blame, if known."""

    def __init__(self, terms: dict[str, float], rows: list[int]) -> None:
        super().__init__(", ".join(f"{name} {value:g}" for name, value in terms.items()))
        self.rows = rows


@dataclass(frozen=True, slots=True)
class StepValues:
    """The numbers of step `number`, from 0, on their way from the device; whoever reads them waits for that step."""

    number: int
    names: tuple[str, ...]  # of the losses
    learning_rate: float
    wait: Callable[[], NDArray[Any]]  # -> the losses' means, the gradient's norm, how far boxes spread where they do
    losses: list[tuple[MicroBatch, Tensor]]  # of each sample

    def read(self) -> dict[str, float]:
        """Return the mean of each loss, the learning rate, and how far boxes spread. Raises NotFiniteError."""
        numbers: list[float] = self.wait().astype(np.float32).tolist()
        count = len(self.names)
        means, norm = dict(zip(self.names, numbers[:count], strict=True)), numbers[count]
        if not all(map(math.isfinite, numbers[: count + 1])):
            raise NotFiniteError(means | {"gradient norm": norm}, _not_finite_rows(self.losses))
        return means | {"learning_rate": self.learning_rate} | dict(zip(["spread"], numbers[count + 1 :], strict=False))


class OptimisationStep:
    """Takes the steps of a task. `draw` collates a micro batch anew, to find out what fits into memory."""

    def __init__(
        self, accelerator: Any, task: TrainTask, plan: BatchPlan, sampler: StepSampler, total: int,
        draw: Callable[[MicroBatch], Batch],
    ) -> None:  # fmt: skip
        self.accelerator, self.task, self.plan, self.sampler, self.total = accelerator, task, plan, sampler, total
        self.config, self.draw, self.device = task.config, draw, accelerator.device
        groups = task.parameter_groups()
        self.trained = {name: p for group in groups for name, p in group.parameters.items()}
        task.model.requires_grad_(False)
        for parameter in self.trained.values():
            parameter.requires_grad_(True)
        self.frozen = frozen_modules(task.model)
        # What is wrapped for several processes: the task's model, with the task's losses as its forward pass.
        module = nn.Module()
        module.model, module.forward = task.model, task.losses
        self.module = accelerator.prepare_model(module.to(self.device))
        self.optimiser: Any = make_optimiser(groups, self.config, plan)
        self.epochs = -(-total // sampler.steps_in_epoch)
        self.warm_up = self.config.warm_up + round(self.config.warm_up_epochs * sampler.steps_in_epoch)
        self.bfloat16 = self.config.precision(self.device.type) == "bfloat16"

    def step(self, number: int, batches: Iterable[tuple[MicroBatch, Batch]]) -> StepValues:
        """Take the step `number`, from 0; return its values, for which nothing has been waited.

        `batches` are taken one by one: while a GPU computes one, the next is fetched. Raises DeviceError.
        """
        # 1. All randomness is a function of (seed, step, process).
        self.task.step = number
        state = np.random.SeedSequence([self.sampler.seed, number, self.accelerator.process_index]).generate_state(1)
        torch.manual_seed(int(state[0]))  # dropout
        rng = torch.Generator(self.device).manual_seed(int(state[0]))
        # 2. Frozen parts stay in evaluation mode: no dropout, no running means.
        self.module.train()
        for module in self.frozen:
            module.eval()
        self.optimiser.zero_grad(set_to_none=True)
        # 3. Forward and backward: gradients add up over the micro batches; processes exchange them in the last one.
        sums: dict[str, Tensor] = {}
        losses, boxes, failure = [], [], ""
        by_sample = self.task.loss_scope == "sample"
        for micro, batch in batches:
            loss, terms = torch.zeros(()), dict[str, Tensor]()
            try:
                with contextlib.nullcontext() if micro.last else self.accelerator.no_sync(self.module):
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                        terms = self.module(batch, rng)
                        loss = weighted(terms, self.task.loss_weights)
                    # This process's share of the step's mean; averaging over processes divides by their number.
                    share = self.accelerator.num_processes / (micro.total if by_sample else 1)
                    self.accelerator.backward(loss.sum() * (share if micro.counts else 0.0))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                failure = str(error).partition("\n")[0]
            if failure:  # outside the except: while the exception lives, its frames keep the tensors that must be freed
                del batch, loss, terms
                raise DeviceError(self._advice(micro, failure))
            if micro.counts:
                losses.append((micro, loss.detach()))
            for name, term in {"loss": loss, **terms}.items():
                if name not in BOXES:
                    value = term.detach().double() if micro.counts else torch.zeros_like(term, dtype=torch.float64)
                    mean = value.sum() / micro.total if by_sample else value
                    sums[name] = sums[name] + mean if name in sums else mean
            if terms.keys() >= set(BOXES):
                boxes.append([terms[name].detach() for name in BOXES])
        means = self.accelerator.reduce(torch.stack([*sums.values()]), "sum")
        # 4. Finite or not at all: a gradient can overflow where the loss does not, and would take the weights with it.
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.trained.values() if p.grad is not None])
        numbers = torch.cat([means, norm.double()[None]])
        self.optimiser.found_inf = 1 - numbers.isfinite().all().float()  # its kernel then changes nothing
        # 5. Clip the gradient's norm.
        if self.config.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.trained.values(), self.config.clip_norm, norm)
        # 6. Schedule: each group has its share of the learning rate, and its own schedule.
        full, epoch = self.plan.learning_rate, number // self.sampler.steps_in_epoch
        for group in self.optimiser.param_groups:
            warm_up = self.warm_up if group["warm_up"] is None else round(group["warm_up"] * self.total)
            where = (number, self.total, epoch, self.epochs, warm_up)
            group["lr"] = learning_rate(full * group["lr_scale"], self.config, group["schedule"], *where)
        # 7. The optimiser's step.
        self.optimiser.step()
        if boxes:
            numbers = torch.cat([numbers, spread(*map(torch.cat, zip(*boxes, strict=True))).double()[None]])
        rate = max(group["lr"] for group in self.optimiser.param_groups)
        return StepValues(number, tuple(sums), rate, to_host(numbers), losses)

    def _advice(self, micro: MicroBatch, failure: str) -> str:
        """Find the largest part of the batch that fits, and say what to do with it."""
        size, fits = len(micro.rows), False
        while size > 1 and not fits:
            size //= 2
            self._free()
            try:
                part = replace(micro, rows=micro.rows[:size])
                batch = self.draw(part).to(self.device)
                with self.accelerator.no_sync(self.module):
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                        terms = self.module(batch, torch.Generator(self.device))
                        loss = weighted(terms, self.task.loss_weights)
                    self.accelerator.backward(loss.sum())
                fits = True
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
        if not fits:
            return f"out of memory with a batch of a single row ({failure}); take a smaller model, or recompute = true"
        self._free()
        advice = f"out of memory with batch = {len(micro.rows)} ({failure}). {size} rows fit: --set batch={size}"
        if self.task.loss_scope == "sample":
            advice += f' with adapt = "accumulate" makes the same steps of {self.config.reference_batch} rows'
        return advice

    def _free(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        free()


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the weighted sum of the terms that have a weight."""
    return reduce(torch.add, [weights[name] * term for name, term in terms.items() if name in weights])


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Return the topmost modules that have parameters, none of them trained."""
    parameters = list(model.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        return [model]
    return [module for child in model.children() for module in frozen_modules(child)]


def spread(boxes: Tensor, targets: Tensor) -> Tensor:
    """Compute how far boxes (N, 4) differ from each other, as a share of how far targets do; 1 for one row."""
    if len(boxes) < 2:
        return boxes.new_ones(())
    mine, theirs = (x.float().std(dim=0).mean() for x in (boxes, targets))
    return mine / theirs.clamp(min=1e-6)


def _not_finite_rows(losses: list[tuple[MicroBatch, Tensor]]) -> list[int]:
    """Return the samples whose own loss is not finite; all of the step's where no one is to blame."""
    rows = [
        row
        for micro, loss in losses
        for row, bad in zip(micro.rows, (~loss.isfinite()).expand(len(micro.rows)).tolist(), strict=True)
        if bad
    ]
    return rows or [row for micro, _ in losses for row in micro.rows]
