"""Official files of a small HiVG, and what its factory is given."""

import plain_hivg
import pytest
from fake_world import make_context
from small_hivg import FIRST, LATER, config_of
from training_world import make_job  # noqa: F401 - a fixture

from pipelines.hivg import network


@pytest.fixture(autouse=True)
def small_is_official(monkeypatch):
    """Official files are recognised by their shapes: for a test, small ones are official too."""
    for sizes in (FIRST, LATER):
        monkeypatch.setitem(network.OFFICIAL, (sizes.vision, sizes.patch), config_of(sizes))


@pytest.fixture
def official(tmp_path):
    """official(sizes=FIRST, level=4, changes=None, drop=(), **arguments): a file, and the state dict in it."""

    def make(sizes=FIRST, level=4, changes=None, drop=(), **arguments):
        state = plain_hivg.official_state(sizes) | (changes or {})
        kept = {key: tensor for key, tensor in state.items() if key not in drop}
        path = tmp_path / f"best-{sizes.patch}-{level}.pth"
        return plain_hivg.write_official(path, kept, level, mixup_pretrain=sizes.mixup, **arguments), state

    return make


@pytest.fixture
def context(tmp_path):
    """context(options, **changes): what the factory of hivg is given."""
    return lambda options=None, **changes: make_context(
        tmp_path, **{"name": "hivg", "dataset": "refcoco", "options": options or {}, **changes}
    )


@pytest.fixture
def job(make_job):  # noqa: F811
    """job(out="out", fields=None, **changes of the recipe): 2 epochs of 4 steps of a network from nothing."""

    def make(out="out", *, fields=None, **changes):
        recipe = {
            "name": "small", "clip": {"pretrained": ""}, "adapters": "", "network": config_of(FIRST).model_dump(),
            "rank": 4, "stages": (), "epochs": 2, "batch": 4, "reference_batch": 8, "learning_rate": 1e-3,
            "workers": 0, "save_every": 3, "log_every": 1,
        }  # fmt: skip
        return make_job("hivg", recipe | changes, out, **(fields or {}))

    return make
