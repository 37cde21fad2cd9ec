"""Which rows make which step: a pure function of the seed, so that a training can go on anywhere and on any machine.

An epoch is a permutation of all rows, a step a run of it. Processes take turns within a step, so the number of
processes and their batch change nothing about what a step is made of. The last step of an epoch is shorter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Order:
    """The steps of a training of `rows` rows, `effective` in a step, from one seed."""

    rows: int
    effective: int
    seed: int

    @property
    def steps_in_epoch(self) -> int:
        return -(-self.rows // self.effective)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """All rows, in this epoch's order; epochs count from 0."""
        return np.random.default_rng([self.seed, number]).permutation(self.rows)

    def step(self, number: int) -> tuple[int, NDArray[np.int64]]:
        """The epoch of a step, both from 0, and its rows."""
        epoch, at = divmod(number, self.steps_in_epoch)
        return epoch, self.epoch(epoch)[at * self.effective : (at + 1) * self.effective]


@dataclass(frozen=True, slots=True)
class Micro:
    """One process's forward pass: rows of an epoch, which step they belong to, and whether they end it.

    `total` is the number of rows of the whole step. A process that has none left gets one row that counts for nothing
    (`counts` False): every process has to take part in averaging the gradients.
    """

    step: int
    epoch: int
    rows: tuple[int, ...]
    total: int
    last: bool
    counts: bool


def micros(order: Order, first: int, last: int, batch: int, index: int, processes: int) -> Iterator[Micro]:
    """What process `index` of `processes` computes in the steps `first` to `last`, of which the last is not one."""
    known, permutation = -1, np.empty(0, np.int64)
    for step in range(first, last):
        epoch, at = divmod(step, order.steps_in_epoch)
        if epoch != known:
            known, permutation = epoch, order.epoch(epoch)
        rows = permutation[at * order.effective : (at + 1) * order.effective]
        mine = rows[index::processes].tolist()
        parts = [mine[i : i + batch] for i in range(0, len(mine), batch)] or [[int(rows[0])]]
        for number, part in enumerate(parts, 1):
            yield Micro(step, epoch, tuple(part), len(rows), number == len(parts), bool(mine))
