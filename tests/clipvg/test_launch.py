"""A batch is started with few operators and without waiting, from images that were prepared before."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from operators import Operators
from torch import nn

from bench.grounding import LoadedScene, Query
from clipvg.checkpoint import open_network
from clipvg.network import ClipVG, ClipVGConfig
from clipvg.pipeline import ClipVGOptions, ClipVGPipeline, export_official
from clipvg.pipeline import clipvg as clipvg_pipeline
from pipelines import on_canvas
from pipelines.two_stage.clip.as_published import fold_quick_gelu

WORDS = ("red", "blue", "man", "woman", "dog", "left", "right", "of", "the", "behind")


@pytest.fixture(scope="module")
def network():
    """ViT-B/16's depths, narrow: 12 blocks of images, 12 of texts, 6 of fusion."""
    torch.manual_seed(0)
    vision = {"image_size": 224, "layers": 12, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 77, "width": 32, "heads": 2, "layers": 12}
    clip = open_clip.CLIP(32, vision, text, quick_gelu=True)
    network = ClipVG(ClipVGConfig(hidden=32, heads=2, feedforward=64), clip).eval().requires_grad_(False)
    fold_quick_gelu(network.clip)
    return network


@pytest.fixture
def pipeline(context, network):
    options = ClipVGOptions(images=64, texts=512)  # as on a GPU
    return lambda **changes: ClipVGPipeline(options, context(**changes), (network, "official", None))


@pytest.fixture(scope="module")
def scenes():
    """8 images of two shapes, each with 7 texts of 3 to 11 words, all different."""
    rng = np.random.default_rng(0)

    def scene(number):
        texts = [" ".join(rng.choice(WORDS, rng.integers(2, 10))) + f" {number} {n}" for n in range(7)]
        image = rng.integers(0, 256, (48, 64) if number % 2 else (64, 48), np.uint8)
        queries = tuple(Query(f"{number}:{n}", text) for n, text in enumerate(texts))
        return LoadedScene(str(number), np.repeat(image[..., None], 3, axis=2), queries)

    return [scene(number) for number in range(8)]


def prepared(pipeline, scenes):
    return [LoadedScene(s.id, s.image, s.queries, pipeline.prepare(s.image)) for s in scenes]


def test_a_batch_launches_few_operators_and_none_that_waits(pipeline, scenes):
    grounder = pipeline()
    batch = prepared(grounder, scenes)
    grounder.ground(batch)
    grounder.engine.forget_texts()
    with Operators() as operators:
        finish = grounder.launch(batch)
        launched = operators.launched.total()
        finish()
    assert operators.launched.total() == launched  # reading the boxes computes nothing on the device
    assert operators.waiting == []
    # A block of images takes 8, one of texts 10, one of fusion 13: 294 in all. The rest serves the whole batch.
    assert launched <= 294 + 45, operators.launched


def test_the_number_of_operators_does_not_grow_with_the_batch(pipeline, scenes):
    grounder, counts = pipeline(), []
    batch = prepared(grounder, scenes[:4])
    grounder.ground(batch)
    for some in (batch[:2], batch):
        grounder.engine.forget_texts()
        with Operators() as operators:
            grounder.launch(some)
        counts.append(operators.launched.total())
    assert counts[0] == counts[1]


def test_prepared_images_are_not_prepared_again_and_batches_may_overlap(pipeline, scenes, monkeypatch):
    grounder = pipeline()
    wanted = grounder.ground(scenes)
    batch = prepared(grounder, scenes)
    monkeypatch.setattr(on_canvas, "letterboxed", None)
    finishes = [grounder.launch(batch[start : start + 4]) for start in (0, 4)]  # both before either is read
    got = [prediction for finish in finishes for prediction in finish()]
    assert [p.id for p in got] == [p.id for p in wanted]
    np.testing.assert_allclose([p.box for p in got], [p.box for p in wanted], atol=1e-4)
    assert grounder.launch([LoadedScene("empty", scenes[0].image, ())])() == []


def activations(network):
    return {type(module) for module in network.clip.modules() if isinstance(module, nn.SiLU | QuickGELU)}


def test_quick_gelu_is_folded_exactly_and_for_inference_alone(official_file, context, tmp_path, small_table):
    path = official_file()
    assert activations(clipvg_pipeline(context({"weights": str(path)})).network) == {QuickGELU}  # boxes as they were
    assert activations(clipvg_pipeline(context({"weights": str(path)}, dtype="bfloat16")).network) == {nn.SiLU}
    own, folded = (open_network(path, context())[0] for _ in range(2))
    assert fold_quick_gelu(folded.clip) == 4 + 3 and fold_quick_gelu(folded.clip) == 0
    ids, pixels = torch.randint(1, 49000, (2, 9)), torch.randn(2, 3, 64, 64)
    for name, inputs in (("encode_image", pixels), ("encode_text", ids)):
        wanted, got = (getattr(net, name)(inputs) for net in (own, folded))
        assert (wanted - got).abs().max() < 1e-5 * wanted.abs().max()
    # What is exported is as it was, and a network in training is used as it is.
    before = {key: tensor.clone() for key, tensor in own.state_dict().items()}
    trained = ClipVGPipeline(ClipVGOptions(), context(), (own, "official", None))
    assert all(torch.equal(tensor, before[key]) for key, tensor in trained.network.state_dict().items())
    out = export_official(context({"weights": str(path)}), tmp_path / "out.pth")
    key = "clip.visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert torch.equal(torch.load(out, weights_only=False)["model"][key].float(), small_table[key].float())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_waits_for_a_gpu_before_the_boxes_are_read(pipeline, scenes, network, dtype):
    wanted = pipeline().ground(scenes)
    grounder = pipeline(device="cuda:0", dtype=dtype)
    network.to("cuda", getattr(torch, dtype))
    network.bbox_embed.float()
    try:
        batch = prepared(grounder, scenes)
        grounder.ground(batch)  # the first call chooses kernels
        grounder.engine.forget_texts()
        torch.cuda.set_sync_debug_mode("error")
        try:
            finish = grounder.launch(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        got = finish()
    finally:
        network.to("cpu", torch.float32)
    limit = 0.02 if dtype == "float32" else 2.0  # pixels of a 64-pixel image
    np.testing.assert_allclose([p.box for p in got], [p.box for p in wanted], atol=limit)
