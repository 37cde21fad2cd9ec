"""What a training leaves for people: lines that agree with the step it resumes from, curves, a hook for trackers."""

import json
from xml.etree import ElementTree

import pytest

from bench.errors import MissingPackage
from bench.training import log
from bench.training.log import TrainingLog, usable_tracker

LOSS = {"loss": 2.0, "l1": 0.9, "giou": 1.1, "auxiliary": 0.0}


class Tracker:
    def __init__(self):
        self.seen = []

    def log(self, values, step):
        self.seen.append((step, values))


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
    said = "".join(ElementTree.fromstring((tmp_path / "curves.svg").read_text()).itertext())
    assert all(word in said for word in ("clipvg on <shapes>", "Loss", "giou", "Acc@0.5", "mean IoU"))
    assert "auxiliary" not in said  # which was off


def test_a_tracker_gets_every_line(tmp_path):
    tracker = Tracker()
    TrainingLog(tmp_path, "title", 0, tracker).add(step=3, epoch=1, note="words", **LOSS)
    assert tracker.seen == [(3, {"step": 3, "epoch": 1, **LOSS})]


@pytest.mark.parametrize("kind", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_named(kind, monkeypatch):
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=f"pip install {kind}"):
        usable_tracker(kind)
    monkeypatch.setattr(log, "find_spec", lambda name: name)
    assert usable_tracker(kind) == [kind] and usable_tracker("") == []
