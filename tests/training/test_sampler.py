"""Which rows make which step: the same on any number of processes, each row once an epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.training.sampler import StepSampler, micro_batches, worker_count

ROWS, EFFECTIVE = 22, 8


def rows_of(order, step):
    epoch, place = divmod(step, order.steps_in_epoch)
    return order.epoch(epoch)[place * order.effective : (place + 1) * order.effective].tolist()


def steps_of(order, first, last, batch, processes):
    """step -> the rows that count, in the order of the step: process 0's first, process 1's first, ..."""
    out = {}
    for index in range(processes):
        for micro in micro_batches(order, first, last, batch, index, processes):
            assert len(micro.rows) <= batch
            at = out.setdefault(micro.step, {"epoch": micro.epoch, "total": micro.total, "rows": {}, "ends": {}})
            if micro.counts:
                at["rows"].setdefault(index, []).extend(micro.rows)
            at["ends"].setdefault(index, []).append(micro.last)
    for at in out.values():
        turns = [at["rows"].get(index, []) for index in range(processes)]
        at["rows"] = [turn[n] for n in range(max(map(len, turns))) for turn in turns if n < len(turn)]
        assert len(at["ends"]) == processes  # every process takes part in every step,
        assert all(ends == [False] * (len(ends) - 1) + [True] for ends in at["ends"].values())  # and ends it once
    return out


@pytest.mark.parametrize(("batch", "processes"), [(8, 1), (3, 1), (1, 1), (4, 2), (1, 3), (2, 8), (64, 5)])
def test_a_step_is_made_of_the_same_rows_everywhere(batch, processes):
    order = StepSampler(ROWS, EFFECTIVE, seed=3)
    steps = steps_of(order, 0, 6, batch, processes)
    assert [at["rows"] for at in steps.values()] == [rows_of(order, n) for n in range(6)]
    assert [at["total"] for at in steps.values()] == [8, 8, 6, 8, 8, 6]
    assert [at["epoch"] for at in steps.values()] == [0, 0, 0, 1, 1, 1]


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5), st.integers(1, 6), st.integers(1, 7))
def test_every_row_comes_once_an_epoch(rows, effective, seed, processes, batch):
    order = StepSampler(rows, effective, seed)
    each = order.steps_in_epoch
    steps = steps_of(order, each, 2 * each, batch, processes)
    assert len(steps) == each
    assert sorted(row for at in steps.values() for row in at["rows"]) == list(range(rows))
    assert sum(at["total"] for at in steps.values()) == rows


def test_a_resumed_training_keeps_the_order():
    order = StepSampler(ROWS, EFFECTIVE, seed=0)
    whole = list(micro_batches(order, 0, 9, 3, 0, 1))
    for first in range(10):
        assert list(micro_batches(order, first, 9, 3, 0, 1)) == [m for m in whole if m.step >= first]


@pytest.mark.parametrize(("workers", "device", "processes", "count"), [
    ("auto", "cpu", 1, 4), ("auto", "cuda", 1, 32), ("auto", "cuda", 8, 6), ("auto", "cpu", 20, 2),
    ("auto", "cuda", 99, 1), (0, "cuda", 1, 0), (3, "cuda", 1, 3), (64, "cpu", 1, 48),
])  # fmt: skip
def test_workers_follow_the_device_and_its_share_of_the_cores(workers, device, processes, count, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(48)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert worker_count(workers, device) == count


def test_epochs_and_seeds_differ_and_repeat():
    order = StepSampler(1000, 10, seed=1)
    assert np.array_equal(order.epoch(4), StepSampler(1000, 99, seed=1).epoch(4))
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    assert not np.array_equal(order.epoch(0), StepSampler(1000, 10, seed=2).epoch(0))


def test_a_process_without_rows_takes_part_and_counts_for_nothing():
    order = StepSampler(9, 8, seed=0)  # the second step has one row
    idle = list(micro_batches(order, 1, 2, 4, 3, 4))
    assert len(idle) == 1 and not idle[0].counts and idle[0].last
    assert idle[0].rows == tuple(rows_of(order, 1))  # a row that is there to be drawn
    busy = list(micro_batches(order, 1, 2, 4, 0, 4))
    assert [m.counts for m in busy] == [True] and busy[0].rows == idle[0].rows


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 20), st.integers(1, 6), st.integers(1, 7))
def test_rows_of_an_image_stay_together(sizes, effective, processes, batch):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rows = len(groups)
    order = StepSampler(rows, effective, 0, groups)
    each = order.steps_in_epoch
    for epoch in (0, 1):
        images = groups[order.epoch(epoch)]
        assert (np.diff(images) != 0).sum() == len(sizes) - 1  # one run an image
        assert sorted(order.epoch(epoch).tolist()) == list(range(rows))
    parts = [list(micro_batches(order, 0, each, batch, index, processes)) for index in range(processes)]
    for step in range(each):
        # Each process has a run of the step: in turn they are the step.
        mine = [[row for m in micros if m.step == step and m.counts for row in m.rows] for micros in parts]
        assert [row for turn in mine for row in turn] == rows_of(order, step)
        assert max(map(len, mine)) - min(map(len, mine)) <= 1
    for first in range(each):
        whole = list(micro_batches(order, 0, each, batch, 0, processes))
        assert list(micro_batches(order, first, each, batch, 0, processes)) == [m for m in whole if m.step >= first]


def test_images_come_in_another_order_every_epoch_and_so_do_their_rows():
    groups = np.repeat(np.arange(50), 7)
    order = StepSampler(350, 10, 1, groups)
    first, second = order.epoch(0), order.epoch(1)
    assert not np.array_equal(groups[first], groups[second])
    assert {tuple(first[groups[first] == 3]), tuple(second[groups[second] == 3])} != {tuple(range(21, 28))}
