"""The contract every registered pipeline keeps, with the shipped weights or small ones made here.

A pipeline registered in pyproject.toml and opened by none of the two ways below fails `test_every_pipeline_is_opened`.
"""

import re
import tomllib
from dataclasses import replace

import numpy as np
import plain_oneref
import pytest
import torch
from chat_server import serving
from torch import nn

from bench.acceleration import Acceleration
from bench.evaluation.answering import checked
from bench.evaluation.opening import Caching
from bench.grounding import LoadedScene, Query
from bench.registry import pipeline_factory
from bench.settings import PROJECT
from pipelines.oneref import checkpoint
from pipelines.oneref.tokenizer import SpmTokenizer

SHIPPED = (  # with the weights of pipelines/weights, or none
    "yolo-clip", "detr-clip", "ssd-clip", "reclip", "seg-clip", "clip-pooling", "label-clip", "mdetr", "clipvg",
    "transvg", "dynamic-mdetr", "hivg", "rl-refine", "diffusion", "whole-image", "centre-box", "fixed-box",
    "largest-proposal", "random-proposal", "label-only",
)  # fmt: skip
SHORT = {"max_new_tokens": 8}
SMALL = {  # pipeline -> family of a small model, and what differs from its table
    "grounding-dino": ("grounding-dino", {}),
    "mm-grounding-dino": ("mm-grounding-dino", {}),
    "owlv2": ("owlv2", {}),
    "florence-2": ("florence-2", SHORT),
    "qwen-vl": ("qwen2_5_vl", SHORT),
    "grounding-dino+clip": ("grounding-dino", {}),
    "oneref": ("", {}),
    "api": ("", {}),
}
SLOW = {"seg-clip", "clip-pooling", "mdetr", "florence-2", "qwen-vl", "grounding-dino+clip", "mm-grounding-dino"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in (*SHIPPED, *SMALL)]
PIECES = [("▁the", -2.0), ("▁red", -3.0), ("▁star", -3.5), ("▁", -4.0), ("s", -4.5)]
NO_WEIGHTS = {"whole-image", "centre-box", "fixed-box", "api"}


def test_every_pipeline_is_opened():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert set(project["entry-points"]["bench.pipelines"]) == {*SHIPPED, *SMALL}


@pytest.fixture(scope="module")
def server():
    with serving() as one:
        yield one


@pytest.fixture
def build(context, hub_folder, tmp_path, monkeypatch, server):
    """build(name, **fields): open a pipeline, with these fields of its context changed."""

    def make(name, **fields):
        family, options = SMALL.get(name, ("", {}))
        if name == "grounding-dino+clip":
            clip = context("yolo-clip").options["clip"]
            options = {"proposer": {"kind": "grounding-dino", "weights": hub_folder(family)}, "clip": clip}
        elif name == "oneref":
            monkeypatch.setattr(checkpoint, "WIDTH", 8)
            monkeypatch.setattr(SpmTokenizer.__init__, "__defaults__", (3 + len(PIECES),))
            sizes = plain_oneref.Sizes(width=32, depth=3, heads=4, image=64, words=40, positions=80, masks=True)
            path = plain_oneref.write_official(tmp_path / "oneref.pth", plain_oneref.official_state(sizes))
            options = {"weights": str(path), "tokenizer": str(plain_oneref.write_spm(tmp_path / "s.spm", PIECES))}
        elif name == "api":
            options = {"base_url": server.url, "model": "small", "preset": "qwen3"}
        elif family:
            options = {"weights": hub_folder(family), **options}
        return pipeline_factory(name)(context(name, options=options or None, **fields))

    return make


OPENED = {}


@pytest.fixture
def opened(build):
    """opened(name, dtype): a pipeline, each opened once."""

    def make(name, dtype="float32"):
        if (name, dtype) not in OPENED:
            OPENED[name, dtype] = build(name, dtype=dtype)
        return OPENED[name, dtype]

    return make


@pytest.fixture
def some(loaded):
    """Three scenes of shapes with one to three queries each."""
    return [replace(scene, queries=scene.queries[: 1 + i]) for i, scene in enumerate(loaded[1][:3])]


def valid(pipeline, scenes):
    """The predictions of one call, in order; each box None or finite, no score without a box."""
    predictions = checked(pipeline.card.name, scenes, pipeline.ground(scenes))
    assert [p.id for p in predictions] == [q.id for scene in scenes for q in scene.queries]
    for prediction in predictions:
        assert prediction.box is None or np.isfinite(prediction.box).all()
        assert prediction.score is None or (prediction.box is not None and np.isfinite(prediction.score))
    return predictions


def same(ours, others, atol=1e-2):
    for one, other in zip(ours, others, strict=True):
        assert one.id.partition("#")[0] == other.id and (one.box is None) == (other.box is None)
        assert one.box is None or np.allclose(one.box, other.box, atol=atol), one.id


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_neighbours_and_batch_size_do_not_matter(opened, some, name):
    pipeline = opened(name)
    together = valid(pipeline, some)
    same([p for scene in some for p in valid(pipeline, [scene])], together)
    if name != "grounding-dino+clip":  # its proposals are those of all the expressions of a scene
        alone = [replace(scene, queries=(query,)) for scene in some for query in scene.queries]
        same([p for scene in alone for p in valid(pipeline, [scene])], together)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_answer_depends_on_caches_or_new_ids(opened, some, name):
    """The subject of `bench speed`: caches emptied one by one, every batch under new ids."""
    pipeline = opened(name)
    before = valid(pipeline, some)
    for empty in dict(pipeline.caches).values() if isinstance(pipeline, Caching) else ():
        empty()
    if name == "random-proposal":  # drawn by the id
        return
    new = [LoadedScene(f"{s.id}#1", s.image, tuple(replace(q, id=f"{q.id}#1") for q in s.queries)) for s in some]
    same(valid(pipeline, new), before)


SHAPES = [(1, 1), (1, 40), (3, 30), (60, 1500), (1500, 60)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_odd_images_and_grey_ones(opened, name):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in SHAPES]
    images += [np.full((60, 90, 3), 127, np.uint8), np.repeat(rng.integers(0, 256, (50, 70, 1), np.uint8), 3, axis=2)]
    scenes = [LoadedScene(str(i), image, (Query(f"q{i}", "the red star"),)) for i, image in enumerate(images)]
    valid(opened(name), scenes)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_texts_of_no_word_and_of_five_hundred(opened, some, name):
    texts = ("", "star", "the red star next to a ring " * 72, "⭐🔴", "النجمة الحمراء")
    queries = tuple(Query(f"t{i}", text) for i, text in enumerate(texts))
    valid(opened(name), [replace(some[0], queries=queries), replace(some[1], queries=())])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nan_never_leaves(opened, some, name):
    """Weights that went wrong: a box that is not finite is a miss that the harness counts, so no call fails."""
    pipeline = opened(name)
    networks = {id(m): m for m in _modules(pipeline)}.values()
    saved = [(p, p.detach().clone()) for m in networks for p in m.parameters() if p.is_floating_point()]
    try:
        with torch.no_grad():
            for parameter, _ in saved:
                parameter.fill_(float("nan"))
        for empty in dict(pipeline.caches).values() if isinstance(pipeline, Caching) else ():
            empty()
        for prediction in checked(pipeline.card.name, some, pipeline.ground(some)):
            assert prediction.box is None or len(prediction.box) == 4
    finally:
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)
        for empty in dict(pipeline.caches).values() if isinstance(pipeline, Caching) else ():
            empty()


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_complete(opened, name):
    card = opened(name).card
    assert card.name == name and card.summary and card.trained_on is not None
    assert card.supervision in ("none", "zero-shot", "pseudo", "mixed", "full", "unknown")
    assert card.saw_test_images in ("yes", "no", "unknown")
    hashes = [digest for digests in card.sha256.values() for digest in digests.split(", ")]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes)
    assert bool(hashes) == (name not in NO_WEIGHTS) == bool(card.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(opened, some, name):
    valid(opened(name, "bfloat16"), some)


CALLED = {  # what is compiled and then called, by class
    "grounding-dino": {"GroundingDinoConvModel", "GroundingDinoForObjectDetection"},
    "mm-grounding-dino": {"MMGroundingDinoConvModel", "MMGroundingDinoForObjectDetection"},
    "owlv2": {"Owlv2VisionTransformer", "Owlv2TextTransformer"},
    "florence-2": {"Florence2VisionBackbone", "BartEncoder"},
    "qwen-vl": {"Qwen2_5_VisionTransformerPretrainedModel"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLED)
def test_what_is_compiled_is_called_and_boxes_stay(build, opened, scenes, name, monkeypatch):
    """--compile and --channels-last of the zoo; tests/speed has those of the shipped pipelines."""
    plain, called = valid(opened(name), scenes), set()

    def compiled(module, **kwargs):
        module.register_forward_pre_hook(lambda m, _: called.add(type(m).__name__))

    monkeypatch.setattr(nn.Module, "compile", compiled)
    acceleration = Acceleration(compile=True, channels_last=True, dtype="bfloat16")
    pipeline = build(name, acceleration=acceleration)
    same(valid(pipeline, scenes), plain)
    assert called == CALLED[name] and pipeline.card.accelerated == {"compile", "channels-last", "dtype"}
    acceleration.refuse_untaken("it", pipeline.card.accelerated)


def _modules(pipeline, depth=4):
    """The networks a pipeline holds, through its attributes."""
    if isinstance(pipeline, nn.Module):
        yield pipeline
    elif depth and isinstance(pipeline, (list, tuple)):
        for item in pipeline:
            yield from _modules(item, depth - 1)
    elif depth and type(pipeline).__module__.startswith(("pipelines", "clipvg")):
        for item in vars(pipeline).values() if hasattr(pipeline, "__dict__") else ():
            yield from _modules(item, depth - 1)
