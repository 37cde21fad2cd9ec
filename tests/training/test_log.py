"""What a training leaves for people: lines up to the step it resumes from, curves, trackers, a warning of collapse."""

import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest

from bench.errors import MissingPackage
from bench.training import log
from bench.training.config import TrainConfig, batch_plan
from bench.training.log import TrainingLog, collapse_detector, usable_tracker

LOSS = {"loss": 2.0, "l1": 0.9, "giou": 1.1, "auxiliary": 0.0}


class Tracker:
    def __init__(self):
        self.lines = []

    def log(self, values, step):
        self.lines.append((step, values))


def test_resuming_drops_what_was_written_about_later_steps(tmp_path):
    history = TrainingLog(tmp_path, "title", 0)
    for step in (10, 20, 30):
        history.add(step=step, epoch=1, **LOSS)
    again = TrainingLog(tmp_path, "title", 20)
    assert [line["step"] for line in again.lines] == [10, 20]
    assert [json.loads(line)["step"] for line in (tmp_path / "training.jsonl").read_text().splitlines()] == [10, 20]
    assert not TrainingLog(tmp_path, "title", 0).lines  # begun anew


def test_curves_are_a_image_with_both_panels(tmp_path):
    history = TrainingLog(tmp_path, "clipvg on <shapes>", 0)
    for step in (10, 20):
        history.add(step=step, epoch=step // 10, **LOSS)
        history.add(step=step, epoch=step // 10, accuracy=0.2, mean_iou=0.3)
    history.draw(("l1", "giou", "auxiliary"))
    text = "".join(ElementTree.fromstring((tmp_path / "curves.svg").read_text()).itertext())
    assert all(word in text for word in ("clipvg on <shapes>", "Loss", "giou", "Acc@0.5", "mean IoU"))
    assert "auxiliary" not in text  # which was off


def test_a_tracker_gets_every_line(tmp_path):
    tracker = Tracker()
    TrainingLog(tmp_path, "title", 0, tracker).add(step=3, epoch=1, note="words", **LOSS)
    assert tracker.lines == [(3, {"step": 3, "epoch": 1, **LOSS})]


@pytest.mark.parametrize("kind", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_named(kind, monkeypatch):
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=f"pip install {kind}"):
        usable_tracker(kind)
    monkeypatch.setattr(log, "find_spec", lambda name: name)
    assert usable_tracker(kind) == [kind] and usable_tracker("") == []


def detector(**changes):
    config = TrainConfig(collapse_window=20, reference_batch=320, learning_rate=2.5e-4, **changes)
    return collapse_detector(config, batch_plan(config, 1))


def notes_of(collapse, losses, spreads, first=1):
    notes = {}
    for step, (loss, spread) in enumerate(zip(losses, spreads, strict=True), first):
        if note := collapse(step, loss, spread):
            notes[step] = note
    return notes


def flat(steps):
    return (1.5 + 0.02 * np.random.default_rng(0).standard_normal(steps)).tolist()


def test_constant_boxes_on_a_flat_loss_warn_once_with_advice():
    notes = notes_of(detector(adapt="off"), [1.5] * 100, [0.01] * 100)
    assert list(notes) == [20]  # as soon as the window is full, and not again
    parts = ["no progress", "from 1.500 to 1.500 in 20 steps", "0.01 times", "effective batch 64", 'adapt = "acc']
    parts += ["warm_up = 500", "clip_norm = 0.1", "learning_rate = 6e-05"]
    assert all(part in notes[20] for part in parts)


def test_advice_is_not_what_was_done_already():
    careful = detector(warm_up=10, clip_norm=1.0)
    (note,) = notes_of(careful, flat(60), [0.05] * 60).values()
    assert not any(word in note for word in ("adapt", "warm_up", "clip_norm"))
    assert "learning_rate = 6e-05" in note


def test_recovery_is_noted_and_the_next_collapse_too():
    collapse = detector()
    assert list(notes_of(collapse, [1.5] * 40, [0.01] * 40)) == [20]
    notes = notes_of(collapse, [1.4] * 30, [0.9] * 30, first=41)
    assert len(notes) == 1 and "the boxes differ again" in notes[44]  # 17 of 0.01 and 3 of 0.9: 0.144; one more: over
    assert "no progress" in next(iter(notes_of(collapse, [1.4] * 60, [0.0] * 60, first=71).values()))


@pytest.mark.parametrize(("losses", "spreads"), [
    ([2 * math.exp(-n / 50) for n in range(200)], [0.01] * 200),  # still falling: the boxes will follow
    (flat(200), [0.8] * 200),  # at the end of a training
    ([2 * math.exp(-n / 50) for n in range(200)], [0.8] * 200),
    (flat(19), [0.0] * 19),  # too early to tell
])  # fmt: skip
def test_a_healthy_run_is_left_in_peace(losses, spreads):
    assert notes_of(detector(), losses, spreads) == {}
