"""Everything here trains the smallest grounder (tests/fixture/small_grounder.py) in the world of training_world.py."""

import pytest
from fake_world import make_context
from training_world import images, make_job, scenes  # noqa: F401 - fixtures


@pytest.fixture
def context(tmp_path):
    """context(options, **changes): what the factory of the smallest grounder is given."""
    return lambda options=None, **changes: make_context(
        tmp_path, **{"name": "small", "options": options or {}, **changes}
    )


TABLE = {"epochs": 2, "batch": 4, "reference_batch": 8, "learning_rate": 1e-3, "save_every": 1, "log_every": 1}


@pytest.fixture
def job(make_job):  # noqa: F811
    """job(out="out", **changes of the config): 2 epochs of 4 steps, the last of a single row."""

    def make(out="out", *, fields=None, **changes):
        return make_job("small", TABLE | changes, out, **(fields or {}))

    return make
