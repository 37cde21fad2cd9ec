"""A small TransVG in the official layout, filled by the plain reference's formula, and jobs of smaller ones."""

import plain_transvg
import pytest
from training_world import make_job  # noqa: F401 - a fixture

SIZES = plain_transvg.SMALL
WORDS = ("the", "red", "star", "left", "dog", "coat", "person", "in", "of")


@pytest.fixture(scope="session")
def small_table():
    """The small network's official table; no test is to change it."""
    return plain_transvg.official_state(SIZES)


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory):
    """The folder of a BERT vocabulary, vocab.txt alone, made on the spot."""
    return plain_transvg.write_vocabulary(tmp_path_factory.mktemp("bert"), WORDS, SIZES.words)


@pytest.fixture(scope="session")
def official_file(small_table, tmp_path_factory):
    """official_file(changes=None, drop=(), **top): the small network as the official training leaves it."""
    whole = []

    def write(changes=None, drop=(), **top):
        if not (changes or drop or top):
            if not whole:
                whole.append(write({}, (), epoch=4))
            return whole[0]
        state = {key: tensor for key, tensor in (small_table | (changes or {})).items() if key not in drop}
        path = tmp_path_factory.mktemp("official") / "best_checkpoint.pth"
        return plain_transvg.write_official(path, state, SIZES, **top)

    return write


@pytest.fixture
def official(context, official_file, vocabulary):
    """official(**options): the context that opens the small official file."""

    def make(**options):
        table = {"weights": str(official_file()), "tokenizer": str(vocabulary)} | options
        return context("transvg", dataset="refcoco", options=table)

    return make


NETWORK = {
    "backbone": "small", "widths": [8, 16], "image_size": 32, "hidden": 16, "heads": 2, "feedforward": 32,
    "encoder_layers": 1, "layers": 2, "tokens": 12, "dropout": 0.1,
    "text_encoder": {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 16,
    },
}  # fmt: skip


@pytest.fixture
def job(make_job):  # noqa: F811
    """job(out="out", fields=None, **changes of the recipe): 2 epochs of 4 steps of a network from nothing."""

    def make(out="out", *, fields=None, **changes):
        recipe = {
            "name": "small", "detr": "", "bert": "", "network": NETWORK, "preprocessing": "clean",
            "augment": {"crop": "safe"}, "epochs": 2, "batch": 4, "reference_batch": 8, "learning_rate": 1e-3,
            "workers": 0, "save_every": 3, "log_every": 1,
        }  # fmt: skip
        return make_job("transvg", recipe | changes, out, **(fields or {}))

    return make
