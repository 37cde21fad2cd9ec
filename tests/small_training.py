"""A world for trainings of CLIP-VG: a few scenes of shapes, a small CLIP with random weights, a network of one layer.

Its fixtures are taken up by the conftest.py of who needs them.
"""

import json
from functools import cache

import open_clip
import pytest
import torch

from bench.datasets.shapes import ShapesPictures, make_scene
from bench.evaluation.validation import on_split
from bench.trainable import TrainingJob
from clipvg.training.recipe import ClipVGRecipe
from clipvg.training.rows import Rows
from pipelines import weights
from pipelines.clip.encoder import empty_model


class Drawn(ShapesPictures):
    """Every picture is drawn once: that takes longer than a step here."""

    @cache  # noqa: B019 - there is one source, for as long as the tests run
    def load(self, scene):
        return super().load(scene)


PICTURES = Drawn(2026)
SCENES = tuple(make_scene(2026, "train", i) for i in range(4))  # 25 expressions
VALIDATION = tuple(make_scene(2026, "val", i) for i in range(2))
NETWORK = {"taps": [0], "image_size": 32, "hidden": 32, "heads": 2, "feedforward": 32, "layers": 1, "dropout": 0.0}


@pytest.fixture(scope="session", autouse=True)
def one_tokenizer():
    """Reading the vocabulary takes longer than a whole training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip, "get_tokenizer", cache(open_clip.get_tokenizer))
        yield


@pytest.fixture(scope="session")
def scenes():
    """What is trained on: 4 scenes, 25 expressions."""
    return SCENES


@pytest.fixture(scope="session")
def pictures():
    """The source of their pictures."""
    return PICTURES


@pytest.fixture
def rows(scenes, pictures):
    """rows(augment=None, seed=0, **changes): the scenes' rows at 32 pixels."""

    def make(augment=None, seed=0, scenes=scenes, pictures=pictures, style="clean", dataset="shapes"):
        return Rows(scenes, pictures, 32, style, augment, dataset, seed)

    return make


@pytest.fixture(scope="session")
def clip_weights(tmp_path_factory):
    """The file of a small CLIP with random weights; only the words of shapes have any."""
    torch.manual_seed(0)
    clip = empty_model("tiny-clip")
    texts = [e.text for scene in (*SCENES, *VALIDATION) for e in scene.expressions]
    used = open_clip.get_tokenizer("tiny-clip")(texts).unique()
    with torch.no_grad():
        kept = clip.token_embedding.weight[used].clone()
        clip.token_embedding.weight.zero_()
        clip.token_embedding.weight[used] = 10 * kept  # texts that a network can tell apart
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    weights.write_safetensors(path, clip.state_dict(), {})
    return path


@pytest.fixture(scope="session")
def table(clip_weights):
    """table(**changes): [train.clipvg] for a second's training: 2 epochs of 4 steps, the last of a single row."""

    def make(**changes):
        base = {
            "name": "small",
            "clip": {"model": "tiny-clip", "pretrained": str(clip_weights)},
            "network": NETWORK,
            "preprocessing": "clean",
            "augment": {"crop": "safe"},
            "epochs": 2,
            "batch": 4,
            "reference_batch": 8,
            "learning_rate": 1e-3,
            "workers": 0,
            "save_every": 1,
            "log_every": 1,
        }
        return base | changes

    return make


@pytest.fixture(scope="session")
def recipe(table):
    """recipe(**changes): the same, read."""
    return lambda **changes: ClipVGRecipe.model_validate(table(**changes))


@pytest.fixture
def settings_file(recipe, tmp_path):
    """settings_file(scenes, **changes of the recipe): a bench.toml that trains on so many scenes of shapes."""

    def make(scenes, **changes):
        whole = recipe(**changes).model_dump(mode="json")  # every key: those of the shipped recipe are for a larger one
        lines = [f"{key} = {_toml(value)}" for key, value in whole.items()]
        path = tmp_path / "small.toml"
        path.write_text("\n".join(["[data.shapes]", f"train = {scenes}", "[train.clipvg.on.shapes]", *lines]))
        return path

    return make


def _toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


@pytest.fixture
def job(context, table, tmp_path):
    """job(out="out", scenes=..., **changes of the recipe): what `bench train` hands to the trainer."""

    def make(out="out", *, part=None, fresh=False, seed=0, scenes=SCENES, pictures=PICTURES, **changes):
        return TrainingJob(
            scenes=scenes,
            pictures=pictures,
            validation=VALIDATION,
            validation_pictures=PICTURES,
            recipe=table(**changes),
            part=part,
            out=tmp_path / out,
            context=context(dataset="shapes", seed=seed),
            validate=on_split(VALIDATION, PICTURES),
            split_name="shapes-train",
            validation_name="shapes-val",
            fingerprint="f" * 64,
            fresh=fresh,
        )

    return make


@pytest.fixture
def same():
    """same(a, b): two nested tables of tensors and plain values are equal to the last bit."""

    def equal(a, b):
        if isinstance(a, torch.Tensor):
            return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        if isinstance(a, dict):
            return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return bool(a == b)

    return equal
