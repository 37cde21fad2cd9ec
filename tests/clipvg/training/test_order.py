"""Which rows make which step: the same on any number of processes, each row once an epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipvg.training.order import Order, micros
from clipvg.training.recipe import ClipVGRecipe, pace_of

ROWS, EFFECTIVE = 22, 8


def steps_of(order, first, last, batch, processes):
    """step -> the rows that count, in the order of the step: process 0's first, process 1's first, ..."""
    out = {}
    for index in range(processes):
        for micro in micros(order, first, last, batch, index, processes):
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
    order = Order(ROWS, EFFECTIVE, seed=3)
    steps = steps_of(order, 0, 6, batch, processes)
    assert [at["rows"] for at in steps.values()] == [order.step(n)[1].tolist() for n in range(6)]
    assert [at["total"] for at in steps.values()] == [8, 8, 6, 8, 8, 6]
    assert [at["epoch"] for at in steps.values()] == [0, 0, 0, 1, 1, 1]


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5), st.integers(1, 6), st.integers(1, 7))
def test_every_row_comes_once_an_epoch(rows, effective, seed, processes, batch):
    order = Order(rows, effective, seed)
    each = order.steps_in_epoch
    steps = steps_of(order, each, 2 * each, batch, processes)
    assert len(steps) == each
    assert sorted(row for at in steps.values() for row in at["rows"]) == list(range(rows))
    assert sum(at["total"] for at in steps.values()) == rows


def test_a_training_begun_again_goes_on_in_the_same_order():
    order = Order(ROWS, EFFECTIVE, seed=0)
    whole = list(micros(order, 0, 9, 3, 0, 1))
    for first in range(10):
        assert list(micros(order, first, 9, 3, 0, 1)) == [m for m in whole if m.step >= first]


def test_epochs_and_seeds_differ_and_repeat():
    order = Order(1000, 10, seed=1)
    assert np.array_equal(order.epoch(4), Order(1000, 99, seed=1).epoch(4))
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    assert not np.array_equal(order.epoch(0), Order(1000, 10, seed=2).epoch(0))


def test_a_process_without_rows_takes_part_and_counts_for_nothing():
    order = Order(9, 8, seed=0)  # the second step has one row
    idle = list(micros(order, 1, 2, 4, 3, 4))
    assert len(idle) == 1 and not idle[0].counts and idle[0].last
    assert idle[0].rows == tuple(order.step(1)[1])  # a row that is there to be drawn
    busy = list(micros(order, 1, 2, 4, 0, 4))
    assert [m.counts for m in busy] == [True] and busy[0].rows == idle[0].rows


@pytest.mark.parametrize(
    ("adapt", "processes", "accumulate", "rate"),
    [
        ("accumulate", 1, 5, 1.0),
        ("accumulate", 5, 1, 1.0),
        ("accumulate", 2, 2, 256 / 320),  # no multiple fits: the rate makes up for the rest
        ("accumulate", 8, 1, 512 / 320),
        ("scale", 1, 1, 64 / 320),
        ("scale", 8, 1, 512 / 320),
        ("off", 1, 1, 1.0),
        ("off", 8, 1, 1.0),
    ],
)
def test_the_pace(adapt, processes, accumulate, rate):
    recipe = ClipVGRecipe(adapt=adapt)
    pace = pace_of(recipe, processes)
    assert (pace.batch, pace.accumulate, pace.effective) == (64, accumulate, processes * 64 * accumulate)
    assert pace.learning_rate == pytest.approx(2.5e-4 * rate)
    assert f"effective batch {pace.effective}" in pace.said()


def test_a_small_batch_is_accumulated_to_the_reference():
    pace = pace_of(ClipVGRecipe(batch=4, reference_batch=320), 1)
    assert (pace.effective, pace.learning_rate) == (320, 2.5e-4)


def test_clean_preprocessing_brings_crops_that_keep_the_referent():
    assert ClipVGRecipe().augmentation.crop == "official"
    assert ClipVGRecipe(preprocessing="clean").augmentation.crop == "safe"
    assert ClipVGRecipe(preprocessing="clean", augment={"crop": "off"}).augmentation.crop == "off"
