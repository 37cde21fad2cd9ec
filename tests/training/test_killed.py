"""Killed anywhere and started again, a training ends in the same bits as one left alone."""

import pytest
import torch
from small_grounder import SmallTask
from torch import nn
from training_world import lines_of, stopped_and_resumed

from bench.training import log, trainer
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer, train
from tools.benchmarks.kills import killed_at

pytestmark = pytest.mark.slow

# Everything at once that could carry something over from one step to the next.
WHOLE = {"epochs": 3, "ema": 0.8, "save_every": 3, "warm_up": 3, "clip_norm": 1.0}


class RunningMean(nn.Module):
    """Subtracts a mean that its forward passes move."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().float().mean(dim=0), 0.1)
        return x - self.mean


class StatefulTask(SmallTask):
    """With dropout, and running means: what a step file has to hold besides weights."""

    def __init__(self, job):
        super().__init__(job)
        self.model.box = nn.Sequential(RunningMean(), nn.Dropout(0.2), nn.Linear(64, 4))

    def evaluate(self, path=None, **share):
        return super().evaluate(**share)  # the fixture's pipeline opens no file with these layers


@pytest.fixture
def compared(job):
    """compared(kills, **config): the steps from which a training with these kills resumed."""

    def make(kills, **changes):
        return stopped_and_resumed(lambda out: StatefulTask(job(out, **(WHOLE | changes))), kills)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("place", "resumes_after"), [
    ((OptimisationStep, "step", 1), 0),
    ((OptimisationStep, "step", 3), 0),  # nothing is saved yet
    ((OptimisationStep, "step", 6), 4),  # in the middle of an epoch, after the file of its end
    ((OptimisationStep, "step", 8, True), 6),  # the step is taken, the weights are changed, nobody knows
    ((trainer, "save", 2), 3),  # the second file is not written
    ((trainer, "save", 2, True), 4),
    ((Trainer, "validate", 2), 6),
    ((Trainer, "validate", 2, True), 6),  # the best weights may be those of a step that comes again
    ((SmallTask, "save", 1, True), 3),
    ((log.TrainingLog, "draw", 3), 9),
    ((Trainer, "finish", 1), 12),
    ((SmallTask, "publish", 1), 12),  # the end is reached, and the weights have no name yet
])  # fmt: skip
def test_killed_once(compared, place, resumes_after):
    assert compared([place]) == [resumes_after]


@pytest.mark.slow
def test_killed_again_and_again(compared):
    kills = [(OptimisationStep, "step", n, after) for n, after in ((2, False), (5, True), (1, True), (4, False))]
    kills += [(Trainer, "validate", 1, True), (trainer, "save", 1), (Trainer, "finish", 1)]
    assert compared(kills)[-1] == 12


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"workers": 2, "epochs": 2}, {"dtype": "bfloat16", "schedule": "drop"}])
def test_killed_whatever_the_config(compared, changes):
    compared([(OptimisationStep, "step", 6), (OptimisationStep, "step", 2)], **changes)


@pytest.mark.slow
def test_lines_of_steps_that_are_taken_again_are_not_there_twice(job):
    mine = job(save_every=99)
    assert killed_at(OptimisationStep, "step", 8, lambda: train(SmallTask(mine)))
    path = mine.out / "small.run/training.jsonl"
    assert [line["step"] for line in lines_of(mine.out)] == [1, 2, 3, 4, 4, 5, 6]
    path.write_text(path.read_text() + '{"step": 8, "lo')  # a line that a kill cut short
    train(SmallTask(mine))
    assert [line["step"] for line in lines_of(mine.out)] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_half_written_files_of_a_kill_are_cleared_away(job):
    mine = job(epochs=1)
    folder = mine.out / "small.run"
    folder.mkdir(parents=True)
    (folder / ".last.pt.123.tmp").write_bytes(b"half")
    train(SmallTask(mine))
    assert not list(folder.glob(".*"))


def test_a_line_is_appended_not_the_whole_file_written_again(job, monkeypatch):
    """Each line once: a log of a long training is not rewritten at every line."""
    written = []
    monkeypatch.setattr(log.Appender, "write", lambda self, lines: written.append(lines))
    monkeypatch.setattr(log, "write_atomically", lambda path, data: written.append(path.name))
    train(SmallTask(job(epochs=1)))
    assert written.count("training.jsonl") == 1 and sum(line.startswith("{") for line in written) == 5
