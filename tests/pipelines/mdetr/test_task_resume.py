"""A training of MDETR that is killed anywhere and started again ends in the same bits as one left alone."""

import pytest
from training_world import differences, killed_at, outcome

from bench.training import trainer
from bench.training.log import TrainingLog
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer, train
from pipelines.mdetr.task import MdetrTask

# (owner, name, call from 1, whether the kill comes after the call), and the step that is resumed after, for 2 epochs of
# 4 steps with save_every = 3.
PLACES = {
    "before the first step": ((OptimisationStep, "step", 1), 0),
    "before anything is saved": ((OptimisationStep, "step", 3), 0),
    "within an epoch": ((OptimisationStep, "step", 6), 4),
    "after a step that nobody saved": ((OptimisationStep, "step", 8, True), 6),
    "before the second step file": ((trainer, "save", 2), 3),
    "after the second step file": ((trainer, "save", 2, True), 4),
    "before a validation": ((Trainer, "_validate", 2), 6),
    "after a validation": ((Trainer, "_validate", 2, True), 6),
    "while curves are drawn": ((TrainingLog, "draw", 2), 6),
    "at the end": ((Trainer, "_finish", 1), 8),
    "before the weights have a name": ((trainer, "write_atomically", 1), 8),
}


@pytest.fixture(scope="module")
def undisturbed():
    """Outcomes of trainings that nobody killed, by their recipe."""
    return {}


@pytest.fixture
def compared(job, undisturbed):
    """compared(places, **changes): kill at each place, resume, and compare; return the steps resumed after."""

    def make(places, **changes):
        if str(changes) not in undisturbed:
            whole = job("whole", **changes)
            train(MdetrTask(whole))
            undisturbed[str(changes)] = outcome(whole.out)
        trained, resumed = killed_at(lambda out: MdetrTask(job(out, **changes)), places)
        assert not differences(outcome(trained.path.parent), undisturbed[str(changes)])
        return resumed

    return make


@pytest.mark.parametrize("place", PLACES)
def test_killed_once(compared, place):
    where, step = PLACES[place]
    assert compared([where]) == [step]


def test_killed_again_and_again_with_worker_processes(compared):
    kills = [(OptimisationStep, "step", call, after) for call, after in ((2, False), (5, True), (1, True))]
    assert compared([*kills, PLACES["at the end"][0]], workers=1)[-1] == 8
