"""The watch: a training that has collapsed is told so once, with what to try; a healthy one never is."""

import math

import numpy as np
import pytest

from clipvg.training.recipe import ClipVGRecipe, pace_of
from clipvg.training.watch import Watch


def watch(**changes):
    recipe = ClipVGRecipe(collapse_window=20, **changes)
    return Watch(recipe, pace_of(recipe, 1))


def said(watched, losses, spreads, first=1):
    notes = {}
    for step, (loss, spread) in enumerate(zip(losses, spreads, strict=True), first):
        if note := watched.note(step, loss, spread):
            notes[step] = note
    return notes


def flat(steps):
    return (1.5 + 0.02 * np.random.default_rng(0).standard_normal(steps)).tolist()


def test_constant_boxes_on_a_flat_loss_are_said_once_with_advice():
    notes = said(watch(adapt="off"), [1.5] * 100, [0.01] * 100)
    assert list(notes) == [20]  # as soon as the window is full, and not again
    for advice in (
        "no progress",
        "from 1.500 to 1.500 in 20 steps",
        "0.01 times",
        "effective batch 64",
        'adapt = "acc',
    ):
        assert advice in notes[20]
    for advice in ("warm_up = 500", "clip_norm = 0.1", "learning_rate = 6e-05", 'auxiliary = "patches"'):
        assert advice in notes[20]


def test_advice_is_not_what_was_done_already():
    careful = watch(warm_up=10, clip_norm=1.0, auxiliary="patches")
    (note,) = said(careful, flat(60), [0.05] * 60).values()
    assert not any(word in note for word in ("adapt", "warm_up", "clip_norm", "auxiliary"))
    assert "learning_rate = 6e-05" in note


def test_recovery_is_said_and_the_next_collapse_too():
    watched = watch()
    assert list(said(watched, [1.5] * 40, [0.01] * 40)) == [20]
    notes = said(watched, [1.4] * 30, [0.9] * 30, first=41)
    assert len(notes) == 1 and "the boxes differ again" in notes[44]  # 17 of 0.01 and 3 of 0.9: 0.144; one more: over
    assert "no progress" in next(iter(said(watched, [1.4] * 60, [0.0] * 60, first=71).values()))


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
    assert said(watch(), losses, spreads) == {}
