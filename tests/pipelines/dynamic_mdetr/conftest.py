"""Small networks in the official layout, on ResNet and BERT and on CLIP, and jobs of smaller ones."""

import plain_dynamic_mdetr
import plain_transvg
import pytest
from training_world import make_job  # noqa: F401 - a fixture

SIZES = {"bert": plain_dynamic_mdetr.SMALL, "clip": plain_dynamic_mdetr.SMALL_CLIP}
WORDS = ("the", "red", "star", "left", "dog", "coat", "person", "in", "of")


@pytest.fixture(scope="session")
def tables():
    """The small networks' official tables; no test is to change them."""
    return {name: plain_dynamic_mdetr.official_state(sizes) for name, sizes in SIZES.items()}


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory):
    """The folder of a BERT vocabulary, made on the spot."""
    return plain_transvg.write_vocabulary(tmp_path_factory.mktemp("bert"), WORDS, SIZES["bert"].words)


@pytest.fixture(scope="session")
def files(tables, tmp_path_factory):
    """The small networks as the official training leaves them."""
    folder = tmp_path_factory.mktemp("official")
    return {
        name: plain_dynamic_mdetr.write_official(folder / f"{name}.pth", tables[name], sizes)
        for name, sizes in SIZES.items()
    }


@pytest.fixture
def official(context, files, vocabulary):
    """official(name, **options): the context that opens a small official file."""

    def make(name, **options):
        table = {"weights": str(files[name]), "tokenizer": str(vocabulary)} | options
        return context("dynamic-mdetr", dataset="refcoco", options=table)

    return make


NETWORK = {
    "backbone": "small", "widths": [8, 16], "image_size": 32, "hidden": 16, "heads": 2, "feedforward": 32,
    "encoder_layers": 1, "layers": 2, "tokens": 12, "dropout": 0.1, "points": 4, "stages": 2,
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
        return make_job("dynamic-mdetr", recipe | changes, out, **(fields or {}))

    return make
