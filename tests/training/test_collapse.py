"""The collapse detector warns once, with what to try, and never of a healthy training."""

import math

import numpy as np
import pytest

from bench.training.config import TrainConfig, batch_plan
from bench.training.log import CollapseDetector


def detector(**changes):
    config = TrainConfig(collapse_window=20, reference_batch=320, learning_rate=2.5e-4, **changes)
    return CollapseDetector(config, batch_plan(config, 1))


def notes_of(watched, losses, spreads, first=1):
    notes = {}
    for step, (loss, spread) in enumerate(zip(losses, spreads, strict=True), first):
        if note := watched.note(step, loss, spread):
            notes[step] = note
    return notes


def flat(steps):
    return (1.5 + 0.02 * np.random.default_rng(0).standard_normal(steps)).tolist()


def test_constant_boxes_on_a_flat_loss_are_said_once_with_advice():
    notes = notes_of(detector(adapt="off"), [1.5] * 100, [0.01] * 100)
    assert list(notes) == [20]  # as soon as the window is full, and not again
    for advice in (
        "no progress",
        "from 1.500 to 1.500 in 20 steps",
        "0.01 times",
        "effective batch 64",
        'adapt = "acc',
    ):
        assert advice in notes[20]
    for advice in ("warm_up = 500", "clip_norm = 0.1", "learning_rate = 6e-05"):
        assert advice in notes[20]


def test_advice_is_not_what_was_done_already():
    careful = detector(warm_up=10, clip_norm=1.0)
    (note,) = notes_of(careful, flat(60), [0.05] * 60).values()
    assert not any(word in note for word in ("adapt", "warm_up", "clip_norm"))
    assert "learning_rate = 6e-05" in note


def test_recovery_is_said_and_the_next_collapse_too():
    watched = detector()
    assert list(notes_of(watched, [1.5] * 40, [0.01] * 40)) == [20]
    notes = notes_of(watched, [1.4] * 30, [0.9] * 30, first=41)
    assert len(notes) == 1 and "the boxes differ again" in notes[44]  # 17 of 0.01 and 3 of 0.9: 0.144; one more: over
    assert "no progress" in next(iter(notes_of(watched, [1.4] * 60, [0.0] * 60, first=71).values()))


@pytest.mark.parametrize(
    ("losses", "spreads"),
    [
        ([2 * math.exp(-n / 50) for n in range(200)], [0.01] * 200),  # still falling: the boxes will follow
        (flat(200), [0.8] * 200),  # at the end of a training
        ([2 * math.exp(-n / 50) for n in range(200)], [0.8] * 200),
        (flat(19), [0.0] * 19),  # too early to tell
    ],
)
def test_a_healthy_run_is_left_in_peace(losses, spreads):
    assert notes_of(detector(), losses, spreads) == {}
