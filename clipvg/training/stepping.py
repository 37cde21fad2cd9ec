"""One optimiser step: one gradient over all its rows on all processes, and what can go wrong."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import BenchError, DeviceError
from bench.memory import free, out_of_memory
from clipvg.training.objective import Batch, Objective, Terms
from clipvg.training.order import Micro
from clipvg.training.recipe import ClipVGRecipe, Pace

NAMES = ("loss", "l1", "giou", "auxiliary")


class NotFiniteError(Exception):
    """The loss or its gradient is NaN or infinite; nothing was changed."""

    def __init__(self, terms: dict[str, float]) -> None:
        super().__init__(", ".join(f"{name} {value:g}" for name, value in terms.items()))
        self.terms = terms


class Stepper:
    """Takes steps. `model` is the objective, wrapped for several processes where there are several."""

    def __init__(
        self, accelerator: Any, objective: Objective, recipe: ClipVGRecipe, pace: Pace, total: int, epochs: int
    ) -> None:
        self.accelerator, self.objective, self.recipe, self.pace = accelerator, objective, recipe, pace
        self.model = accelerator.prepare_model(objective)
        self.parameters = list(objective.trained().values())
        self.optimiser = torch.optim.AdamW(self.parameters, lr=pace.learning_rate, weight_decay=recipe.weight_decay)
        self.total, self.epochs = total, epochs
        self.dtype = torch.bfloat16 if precision(recipe, accelerator.device) == "bfloat16" else torch.float32

    def step(self, number: int, epoch: int, seed: int, passes: Iterable[tuple[Micro, Batch]]) -> dict[str, float]:
        """The step `number`, from 0 -> the mean over its rows of the loss and its terms, and how far boxes spread.

        `passes` are taken one by one: while a GPU computes one, the next is fetched. Dropout is a function of seed,
        step and process. Raises NotFiniteError, DeviceError.
        """
        index = self.accelerator.process_index
        torch.manual_seed(int(np.random.SeedSequence([seed, number, index]).generate_state(1)[0]))
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        sums = torch.zeros(len(NAMES), dtype=torch.float64, device=self.accelerator.device)
        boxes, targets = [], []
        for micro, batch in passes:
            terms = self._backward(micro, batch)
            if micro.counts:
                sums += torch.stack([getattr(terms, name).detach().double().sum() for name in NAMES]) / micro.total
            boxes.append(terms.boxes.detach())
            targets.append(batch.targets)
        means = self.accelerator.reduce(sums.float(), "sum").tolist()
        values = dict(zip(NAMES, means, strict=True))
        # A gradient can overflow where the loss does not, and would take the weights with it.
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if not all(map(math.isfinite, [*means, length := float(norm)])):
            self.optimiser.zero_grad(set_to_none=True)
            raise NotFiniteError(values | {"gradient norm": length})
        if self.recipe.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.recipe.clip_norm, norm)
        rate = self.learning_rate(number, epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        return values | {"learning_rate": rate, "spread": spread(torch.cat(boxes), torch.cat(targets))}

    def learning_rate(self, step: int, epoch: int) -> float:
        """A cosine to zero over the epochs, moved by epoch or by step, after a warm-up in a line."""
        recipe = self.recipe
        done = epoch / self.epochs if recipe.schedule == "epoch" else step / self.total
        warm = min(1.0, (step + 1) / recipe.warm_up) if recipe.warm_up else 1.0
        return self.pace.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def _backward(self, micro: Micro, batch: Batch) -> Terms:
        """Adds the gradient of these rows' share of the step's mean; processes exchange it in the step's last pass."""
        failure = ""
        try:
            apart = contextlib.nullcontext() if micro.last else self.accelerator.no_sync(self.model)
            with apart:
                return self._pass(micro, batch)
        except BenchError:
            raise
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            failure = str(error).partition("\n")[0]
        # Outside the except: while the exception lives, its frames hold on to the tensors that must be freed.
        raise DeviceError(self._smaller(batch, failure))

    def _pass(self, micro: Micro, batch: Batch) -> Terms:
        with torch.autocast(self.accelerator.device.type, self.dtype, enabled=self.dtype != torch.float32):
            terms: Terms = self.model(batch)
        # Averaging over processes divides by their number, which the step's mean does not.
        share = self.accelerator.num_processes / micro.total if micro.counts else 0.0
        self.accelerator.backward(terms.loss.sum() * share)
        return terms

    def _smaller(self, batch: Batch, failure: str) -> str:
        """Finds the largest part of the batch that fits, and says what to do with it."""
        size, whole = len(batch.targets), len(batch.targets)
        while size > 1:
            size //= 2
            self._free()
            try:
                with torch.autocast(self.accelerator.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    self.objective(batch.part(slice(size))).loss.sum().backward()
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
        else:
            return f"out of memory with a batch of a single row ({failure}); take recompute = true or a smaller CLIP"
        self._free()
        return (
            f"out of memory with batch = {whole} ({failure}). {size} rows fit: --set batch={size} "
            f'with adapt = "accumulate" makes the same steps of {self.recipe.reference_batch} rows; '
            "--set recompute=true needs less memory as well"
        )

    def _free(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        free()


def spread(boxes: Tensor, targets: Tensor) -> float:
    """How far boxes (N, 4) differ from each other, as a share of how far the targets do; 1 where a step has one row."""
    if len(boxes) < 2:
        return 1.0
    mine, theirs = (x.float().std(dim=0).mean().item() for x in (boxes, targets))
    return mine / max(theirs, 1e-6)


def precision(recipe: ClipVGRecipe, device: torch.device) -> str:
    """float32 or bfloat16."""
    if recipe.dtype == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return recipe.dtype
