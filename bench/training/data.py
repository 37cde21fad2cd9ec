"""Micro batches, drawn and collated ahead by worker processes, and put onto the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from bench.errors import DataError, ImageError
from bench.training.sampler import MicroBatch
from bench.training.task import Batch, MapDataset, TrainTask


@dataclass(frozen=True, slots=True)
class Drawn:
    """A collated micro batch. `error` stands in for it: an exception would lose its kind on its way out of a worker."""

    micro: MicroBatch
    batch: Batch | None
    error: str = ""

    def pin_memory(self) -> Drawn:
        return Drawn(self.micro, self.batch and self.batch.pin_memory(), self.error)


class MicroBatches(Dataset[Any]):
    """A task's dataset, indexed by micro batch."""

    def __init__(self, task: TrainTask, dataset: MapDataset) -> None:
        self.dataset, self.collate = dataset, task.collate

    def draw(self, micro: MicroBatch) -> Batch:
        """Draw and collate. Raises DataError, ImageError."""
        return self.collate([self.dataset.sample(micro.epoch, row) for row in micro.rows])

    def __getitem__(self, micro: MicroBatch) -> Drawn:
        try:
            return Drawn(micro, self.draw(micro))
        except (ImageError, DataError) as error:
            return Drawn(micro, None, str(error))


class _InOrder(Sampler[MicroBatch]):
    def __init__(self, order: list[Any]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[MicroBatch]:
        make, *arguments = self.order
        return iter(make(*arguments))


def batches_ahead(
    data: MicroBatches, order: list[Any], workers: int, device: torch.device
) -> Iterator[tuple[MicroBatch, Batch]]:
    """Yield micro batches on the device, drawn ahead by `workers` processes; `order` is a function and its arguments.

    Raises DataError for a sample that cannot be drawn.
    """
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_size=None,
        sampler=_InOrder(order),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_one_thread,
    )
    for drawn in loader:
        if drawn.batch is None:
            raise DataError(drawn.error)
        yield drawn.micro, drawn.batch.to(device)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
