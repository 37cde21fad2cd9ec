"""Stages: each starts from the one before, none is done twice, and killed anywhere they end in the same bits."""

import json
from pathlib import Path

import pytest
import torch
from small_grounder import SmallTask
from training_world import without_times

from bench.training import stages
from bench.training.config import TrainConfig
from bench.training.stages import StagedTraining
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer
from pipelines.weights import read_safetensors
from tools.benchmarks.kills import killed_at

STAGES = ({"epochs": 1}, {"epochs": 1, "learning_rate": 3e-4}, {"epochs": 1, "learning_rate": 1e-4})


@pytest.fixture
def staged(job):
    """staged(out, **changes): a training in three stages, and what each task of it was made of."""

    def make(out="out", files=(), **changes):
        mine = job(out, **changes)
        made = []

        def task(job):
            made.append(job.recipe)
            out = SmallTask(job)
            if out.config.start_from:
                out.model.load_state_dict(read_safetensors(Path(out.config.start_from))[0])
            return out

        return StagedTraining(mine, TrainConfig(**{"name": "small", **mine.recipe}), STAGES, files, task), made

    return make


@pytest.mark.slow
def test_a_finished_stage_is_not_trained_again(staged, monkeypatch, tmp_path):
    trained = []
    train = stages.train
    monkeypatch.setattr(stages, "train", lambda task, last: trained.append(task.config) or train(task, last))
    whole, recipes = staged()
    first = whole.run()
    assert [c.learning_rate for c in trained] == [1e-3, 3e-4, 1e-4] and not recipes[0].get("start_from")
    assert [len(first.notes["stages"]), first.path.name] == [3, "small.safetensors"]
    assert all(Path(recipe["start_from"]).is_file() for recipe in recipes[1:])
    assert not list((tmp_path / "out").rglob("last.pt"))
    # The same again: nothing to train, the same weights.
    again = staged()[0].run()
    assert len(trained) == 3 and again.notes == first.notes and again.score == first.score
    # Another second stage: the first one stands.
    changed = staged()[0]
    changed.stages = (STAGES[0], {"epochs": 1, "learning_rate": 9e-4}, STAGES[2])
    changed.run()
    assert [c.learning_rate for c in trained[3:]] == [9e-4, 1e-4]
    # Weights that are not what was left are trained anew, and so is everything where the job is fresh.
    Path(recipes[1]["start_from"]).write_bytes(b"broken")
    assert staged()[0].run().score == first.score and len(trained) == 6
    staged(fields={"fresh": True})[0].run()
    assert len(trained) == 9


def test_another_start_file_is_another_first_stage(staged, tmp_path):
    (tmp_path / "clip.pt").write_bytes(b"a")
    one = staged(files=[str(tmp_path / "clip.pt")])[0]._start()
    (tmp_path / "clip.pt").write_bytes(b"b")
    other = staged(files=[str(tmp_path / "clip.pt")])[0]._start()
    assert one != other and one["files"].keys() == other["files"].keys()
    assert staged()[0].first().config.epochs == 1


@pytest.mark.slow
def test_killed_anywhere_it_ends_in_the_same_bits(staged):
    whole = staged("whole")[0].run()
    for owner, name, call in ((OptimisationStep, "step", 3), (Trainer, "finish", 1), (OptimisationStep, "step", 5)):
        killed_at(owner, name, call, staged("killed")[0].run)
    resumed = staged("killed")[0].run()
    one, other = (read_safetensors(made.path)[0] for made in (resumed, whole))
    assert all(torch.equal(one[name], other[name]) for name in other) and resumed.score == whole.score
    assert [without_times(n) for n in resumed.notes["stages"]] == [without_times(n) for n in whole.notes["stages"]]
    records = [json.loads(path.read_text()) for path in resumed.path.parent.glob("nodes/*/node.json")]
    assert sorted(record["what"] for record in records) == [f"stage {n} of 3" for n in (1, 2, 3)]


def test_a_stage_that_loses_hands_on_its_start(staged, monkeypatch):
    training, recipes = staged()
    scores = iter([0.5, 0.25, 0.5])

    class Made:
        def __init__(self, path):
            self.path, self.score, self.notes = path, {"accuracy": next(scores)}, {}

    def train(task, last):
        path = task.job.out / "small.safetensors"
        task.save(path)
        return Made(path)

    monkeypatch.setattr(stages, "train", train)
    notes = training.run().notes["stages"]
    assert [note["kept"] for note in notes] == [True, False, True]
    assert recipes[1]["start_from"] == recipes[2]["start_from"]
