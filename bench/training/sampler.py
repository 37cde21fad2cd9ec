"""Which samples make which step: a pure function of (seed, step), so that a training can be resumed anywhere.

An epoch is a permutation of all samples, a step a run of it; with `group = "image"` it is a permutation of the images,
whose samples follow each other. Processes take turns within a step, or a run of it each, so the number of processes and
their batch change nothing about what a step is made of. The last step of an epoch is shorter. Worker
processes draw and collate the samples ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from bench.cores import usable_cores
from bench.errors import DataError, ImageError, UsageError
from bench.training.task import Batch, GroupedDataset, MapDataset, TrainTask

MOST = (4, 32)  # worker processes of one that trains on a CPU, whose cores the steps need, and on a GPU


@dataclass(frozen=True, slots=True)
class StepSampler:
    """The steps of a training of `rows` samples, `effective` in a step, from one seed."""

    rows: int
    effective: int
    seed: int
    groups: NDArray[np.int64] | None = None  # the image of each sample, where those of one image stay together

    @property
    def steps_in_epoch(self) -> int:
        return -(-self.rows // self.effective)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Return all samples in the order of epoch `number`, counted from 0."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(self.rows)
        if self.groups is None:
            return order
        turn = rng.permutation(int(self.groups.max()) + 1)
        return order[np.argsort(turn[self.groups[order]], kind="stable")]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One process's forward pass: samples of an epoch, the step they belong to, and whether they end it.

    `total` is the number of samples of the whole step. A process that has none left gets one sample that counts for
    nothing (`counts` False): every process has to take part in averaging the gradients.
    """

    step: int
    epoch: int
    rows: tuple[int, ...]
    total: int
    last: bool
    counts: bool


def micro_batches(
    sampler: StepSampler, first: int, last: int, batch: int, index: int, processes: int
) -> Iterator[MicroBatch]:
    """Yield what process `index` of `processes` computes in the steps from `first` up to `last`, which is left out."""
    current, permutation = -1, np.empty(0, np.int64)
    for step in range(first, last):
        # 1. The samples of the step: its run of the epoch's permutation.
        epoch, place = divmod(step, sampler.steps_in_epoch)
        if epoch != current:
            current, permutation = epoch, sampler.epoch(epoch)
        rows = permutation[place * sampler.effective : (place + 1) * sampler.effective]
        # 2. Every n-th of them is this process's, or a run of them that keeps images together; cut into forward passes.
        whole = sampler.groups is None
        mine = (rows[index::processes] if whole else np.array_split(rows, processes)[index]).tolist()
        parts = [mine[i : i + batch] for i in range(0, len(mine), batch)] or [[int(rows[0])]]
        for number, part in enumerate(parts, 1):
            yield MicroBatch(step, epoch, tuple(part), len(rows), number == len(parts), bool(mine))


class MicroBatches(Dataset[Any]):
    """A task's dataset, indexed by micro batch. Raises UsageError where its samples cannot be grouped by image."""

    def __init__(self, task: TrainTask, dataset: MapDataset) -> None:
        self.dataset, self.collate = dataset, task.collate
        self.by_image = dataset if task.config.group == "image" and isinstance(dataset, GroupedDataset) else None
        if task.config.group == "image" and self.by_image is None:
            raise UsageError(f'{task.config.name}: group = "image": {task.cannot_group}; leave group out')

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Return the image of each sample, where a step takes them image by image."""
        return None if self.by_image is None else self.by_image.groups

    def draw(self, micro: MicroBatch) -> Batch:
        """Draw and collate. Raises DataError, ImageError."""
        if self.by_image is not None:
            return self.collate(self.by_image.samples(micro.epoch, micro.rows))
        return self.collate([self.dataset.sample(micro.epoch, row) for row in micro.rows])

    def __getitem__(self, micro: MicroBatch) -> tuple[MicroBatch, Batch | None, str]:
        """Return the batch, or the message of an error, which would lose its kind on its way out of a worker."""
        try:
            return micro, self.draw(micro), ""
        except (ImageError, DataError) as error:
            return micro, None, str(error)


def worker_count(workers: int | Literal["auto"], device_type: str) -> int:
    """Return how many processes draw for one training process; never more than its share of the usable cores."""
    most = MOST[device_type == "cuda"] if workers == "auto" else workers
    return min(most, usable_cores())


def batches_ahead(
    data: MicroBatches, micros: Iterable[MicroBatch], workers: int, device: torch.device
) -> Iterator[tuple[MicroBatch, Batch]]:
    """Yield micro batches on the device, drawn ahead by `workers` processes.

    Raises DataError for a sample that cannot be drawn.
    """
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_size=None,
        sampler=micros,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_one_thread,
    )
    for micro, batch, failure in loader:
        if batch is None:
            raise DataError(failure)
        yield micro, batch.to(device)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
