"""Jobs of OneRefs from nothing, for boxes and for masks."""

import pytest
from training_world import make_job  # noqa: F401 - a fixture

NETWORK = {"width": 16, "layers": 2, "heads": 2, "image_size": 32, "patch": 8, "positions": 24, "text": 12}


@pytest.fixture
def job(make_job):  # noqa: F811
    """job(out="out", fields=None, **changes of the recipe): 2 epochs of 4 steps of a network from nothing."""

    def make(out="out", *, fields=None, **changes):
        recipe = {
            "name": "small", "beit3": "", "tokenizer": "", "network": NETWORK, "epochs": 2, "batch": 4,
            "reference_batch": 8, "learning_rate": 1e-3, "workers": 0, "save_every": 3, "log_every": 1,
        }  # fmt: skip
        return make_job("oneref", recipe | changes, out, **(fields or {}))

    return make
