"""Heads with random weights over the shipped small networks, as files and as options that open them."""

from dataclasses import replace

import pytest
import torch
from training_world import make_job  # noqa: F401 - a fixture

from bench.evaluation.opening import pipeline_context
from bench.settings import load_settings
from pipelines.diffusion.checkpoint import Loaded, open_source, save
from pipelines.diffusion.network import DiffusionConfig, DiffusionHead
from pipelines.diffusion.pipeline import diffusion

SIZES = {"hidden": 16, "heads": 2, "blocks": 2, "feedforward": 16}
SOURCES = {}


@pytest.fixture
def whole(context):
    """whole(**options): the context of diffusion's factory as commands make it, on shapes."""

    def make(seed=0, **options):
        made = pipeline_context("diffusion", "shapes", load_settings(), options)
        return context("diffusion", options=made.options, seed=seed)

    return make


@pytest.fixture
def source(whole):
    """source(kind): the pipeline whose tokens a head takes, each opened once."""

    def make(kind):
        if kind not in SOURCES:
            made = whole(network={"kind": kind})
            SOURCES[kind] = open_source(made.options["network"], made)[0]
        return SOURCES[kind]

    return make


@pytest.fixture
def head_file(source, tmp_path):
    """head_file(kind): a file of a small head over that network."""

    def make(kind="clipvg"):
        below = source(kind)
        torch.manual_seed(0)
        head = DiffusionHead(DiffusionConfig(**SIZES, width=below.width, side=below.side))
        torch.nn.init.normal_(head.box.layers[-1].weight, std=0.1)
        path = tmp_path / f"{kind}.safetensors"
        save(path, Loaded(head, below, kind), {})
        return str(path)

    return make


@pytest.fixture
def opened(whole, head_file):
    """opened(kind, seed=0, **options): the pipeline of that file."""

    def make(kind="clipvg", seed=0, **options):
        options = {"samples": 6, "steps": 2, **options}
        return diffusion(whole(seed, weights=head_file(kind), network={"kind": kind}, **options))

    return make


@pytest.fixture
def some(loaded):
    """Three scenes of shapes with one to three queries each."""
    return [replace(scene, queries=scene.queries[: 1 + i]) for i, scene in enumerate(loaded[1][:3])]


@pytest.fixture
def job(make_job):  # noqa: F811
    """job(out="out", fields=None, **changes of the recipe): 2 epochs of 4 steps of a small head."""

    def make(out="out", *, fields=None, **changes):
        recipe = {
            "name": "small", "start_from": "", "head": SIZES, "samples": 3, "epochs": 2, "batch": 4,
            "reference_batch": 8, "learning_rate": 1e-3, "workers": 0, "save_every": 3, "log_every": 1,
        }  # fmt: skip
        return make_job("diffusion", recipe | changes, out, **(fields or {}))

    return make
