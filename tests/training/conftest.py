"""Everything here trains the smallest grounder (tests/fixture/small_grounder.py) in the world of training_world.py."""

from contextlib import nullcontext

import pytest
from training_world import make_job, pictures, scenes  # noqa: F401 - fixtures

from bench.grounding import PipelineContext


class NoClock:
    def stage(self, name):
        return nullcontext()


@pytest.fixture
def context(tmp_path):
    """context(**changes): what a factory is given on a CPU, offline."""

    def make(options=None, **changes):
        fields = {
            "name": "small",
            "dataset": "shapes",
            "options": options or {},
            "folder": tmp_path,
            "home": tmp_path / "home",
            "device": "cpu",
            "dtype": "float32",
            "seed": 0,
            "offline": True,
            "clock": NoClock(),
            "train_scenes": list,
        }
        return PipelineContext(**(fields | changes))

    return make


TABLE = {"epochs": 2, "batch": 4, "reference_batch": 8, "learning_rate": 1e-3, "save_every": 1, "log_every": 1}


@pytest.fixture
def job(make_job):  # noqa: F811
    """job(out="out", **changes of the config): 2 epochs of 4 steps, the last of a single row."""

    def make(out="out", *, fields=None, **changes):
        return make_job("small", TABLE | changes, out, **(fields or {}))

    return make
