"""Official files of a small HiVG, and what its factory is given."""

import plain_hivg
import pytest
from fake_world import make_context
from small_hivg import FIRST, LATER, config_of

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
    return lambda options, **changes: make_context(
        tmp_path, **{"name": "hivg", "dataset": "refcoco", "options": options, **changes}
    )
