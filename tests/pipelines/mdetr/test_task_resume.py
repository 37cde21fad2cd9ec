"""A training of MDETR that is killed anywhere and started again ends in the same bits as one left alone."""

import pytest
from training_kills import PLACES, differences, killed_at, outcome

from bench.training.step import OptimisationStep
from bench.training.trainer import train
from pipelines.mdetr.task import MdetrTask


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
        mine = job("killed", **changes)
        resumed = killed_at(lambda: train(MdetrTask(mine)), mine.out, places)
        assert not differences(outcome(mine.out), undisturbed[str(changes)])
        return resumed

    return make


@pytest.mark.parametrize("place", PLACES)
def test_killed_once(compared, place):
    where, step = PLACES[place]
    assert compared([where]) == [step]


def test_killed_again_and_again_with_worker_processes(compared):
    kills = [(OptimisationStep, "step", call, after) for call, after in ((2, False), (5, True), (1, True))]
    assert compared([*kills, PLACES["at the end"][0]], workers=1)[-1] == 8
