"""HiVG against the plain reference: every text setting, every nesting, both readings of the bridge, and bad files."""

from dataclasses import replace

import numpy as np
import plain_clipvg
import plain_hivg
import plain_hivg_losses
import pytest
import torch
import torch.nn.functional as F
from fake_world import make_context
from small_hivg import FIRST, LATER
from training_world import IMAGES

from bench.datasets.shapes import make_scene
from bench.errors import SettingsError, WeightsError
from bench.evaluation.answering import Launching
from bench.grounding import LoadedScene, Query
from bench.masks import decode
from bench.settings import PROJECT
from pipelines.canvas import covered, letterboxed
from pipelines.hivg.checkpoint import open_network
from pipelines.hivg.network import PAD
from pipelines.hivg.pipeline import hivg, masked_patches

SETTINGS = {
    "unc": FIRST,
    "unc+": replace(FIRST, states=(6, 12)),
    "gref": replace(FIRST, states=tuple(range(1, 13))),
    "mixup": replace(FIRST, mixup=True),
    "later bridges": LATER,
}
TEXTS = ("red car left of the bus", "dog", "a man! in blue who holds a very long umbrella " * 9, "")


def image_of(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def plain_inputs(sizes, image, text):
    """Pixels, masked patches as HiVG's code has them, ids; and the image's place on the canvas."""
    pixels, _, (ratio, left, top) = plain_clipvg.preprocessed(image, sizes.image, sizes.patch)
    height, width = (round(side * ratio) for side in image.shape[:2])
    edges = torch.tensor([[left, top, left + width, top + height]])
    masked = masked_patches(~covered(edges, sizes.image), sizes.image // sizes.patch)[0]
    return (pixels, masked, plain_clipvg.token_ids(text)), (ratio, left, top)


def scene_of(image, texts=TEXTS, name="s"):
    return LoadedScene(name, image, tuple(Query(f"{name}:{n}", text) for n, text in enumerate(texts)))


@pytest.mark.parametrize("setting", SETTINGS)
def test_boxes_and_maps_are_those_of_the_plain_reference(setting, official):
    sizes = SETTINGS[setting]
    path, state = official(sizes)
    network = open_network(path)
    samples = [plain_inputs(sizes, image_of(90, 60), text)[0] for text in TEXTS]
    pixels, masked, ids = (torch.stack(parts) for parts in zip(*samples, strict=True))
    wanted = plain_hivg.forward_batch(state, sizes, samples, mixed=False)
    np.testing.assert_allclose(network(pixels, masked, ids), wanted, atol=1e-5)
    # The maps that the mask losses compare.
    text = network.encode_text(ids)
    image = network.encode_image(network.clip.vision_model.begin(pixels), text.memories)
    fused = network.fuse(image, masked, text.tokens, ids == PAD)
    ends = ids.argmax(dim=1)
    similarity, logits = network.similarity(fused, ends), network.mask(fused, ends)
    for n, sample in enumerate(samples):
        states, last = plain_hivg.text_tower(plain_hivg.under(state, "clip."), sizes, sample[2])
        x = plain_hivg.fused(state, sizes, *sample, last, plain_hivg.memories(state, sizes, states, last))
        patches, mask = plain_hivg_losses.maps(state, sizes, x, sample[2])
        np.testing.assert_allclose(similarity[n], patches, atol=1e-4)
        np.testing.assert_allclose(logits[n], mask, atol=1e-4)


@pytest.mark.parametrize("level", range(5))
def test_every_nesting_is_the_same_network(level, official):
    path, state = official(level=level)
    network = open_network(path)
    key = "clip.vision_model.encoder.layers.3.cross_attn.q_proj"
    a, b = (state[f"{key}.lora_{part}.default.weight"] for part in "AB")
    merged = network.get_parameter(f"{key}.weight")
    assert torch.allclose(merged, state[f"{key}.weight"] + 16 / len(a) * b @ a)
    assert not any("lora" in name for name, _ in network.named_parameters())


def test_the_key_list_is_the_official_one():
    counts = {name: len(plain_hivg.nested(dict.fromkeys(keys, torch.zeros(9)) , 4)) for name, keys in (
        (name, plain_hivg.shapes(sizes)) for name, sizes in plain_hivg.OFFICIAL.items()
    )}  # fmt: skip
    assert (counts["B/16 unc"], counts["B/16 gref"], counts["L/14 unc"]) == (795, 839, 1083)
    shapes = plain_hivg.shapes(plain_hivg.OFFICIAL["B/16 unc"]).values()
    assert sum(int(np.prod(shape)) for shape in shapes) == 213_244_677


@pytest.mark.parametrize("sizes", [FIRST, LATER])
def test_the_pipeline_gives_those_boxes_at_any_batch_size(sizes, official, context):
    path, state = official(sizes)
    pipeline = hivg(context({"weights": str(path), "images": 2, "pairs": 3}))
    scenes = [scene_of(image_of(90, 60, 1), name="a"), scene_of(image_of(40, 100, 2), TEXTS[:1], "b")]
    boxes = [p.box for p in pipeline.ground(scenes)]
    wanted = []
    for scene in scenes:
        for query in scene.queries:
            sample, place = plain_inputs(sizes, scene.image, query.text)
            box = plain_hivg.forward(state, sizes, *sample)
            wanted.append(plain_clipvg.in_image(box, place, sizes.image))
    np.testing.assert_allclose(boxes, wanted, atol=1e-2)  # pixels: 1e-4 of the canvas
    alone = [pipeline.ground([replace(s, queries=(q,))])[0].box for s in scenes for q in s.queries]
    np.testing.assert_allclose(alone, boxes, atol=1e-3)
    assert isinstance(pipeline, Launching) and pipeline.ground([]) == []
    assert "text cut from" in pipeline.ground(scenes)[2].note


@pytest.mark.parametrize("mask_head", [False, True])
def test_the_fast_way_leaves_out_nothing_that_counts(mask_head, official, context):
    options = {"weights": str(official()[0]), "mask_head": mask_head}
    texts = (*TEXTS[:2], "")
    scenes = [scene_of(image_of(90, 60, 1), texts, "a"), scene_of(image_of(40, 100, 2), texts, "b")]
    fast, plain = (hivg(context(options | {"fast": fast})).ground(scenes) for fast in (True, False))
    np.testing.assert_allclose([p.box for p in fast], [p.box for p in plain], atol=1e-3)
    assert all((p.mask is not None) == mask_head for p in fast)
    for one, other in zip(fast, plain, strict=True) if mask_head else ():
        assert (decode(one.mask) != decode(other.mask)).mean() < 1e-3
    with pytest.raises(SettingsError, match='fast = false gives each pair its own text; set bridge = "correct"'):
        hivg(context(options | {"fast": False, "bridge": "official"}))


def test_the_mask_head_answers_with_masks_where_its_logits_are_above_0(official, context):
    path, state = official()
    image = image_of(60, 60)
    (prediction,) = hivg(context({"weights": str(path), "mask_head": True})).ground([scene_of(image, TEXTS[:1])])
    sample, _ = plain_inputs(FIRST, image, TEXTS[0])
    states, last = plain_hivg.text_tower(plain_hivg.under(state, "clip."), FIRST, sample[2])
    x = plain_hivg.fused(state, FIRST, *sample, last, plain_hivg.memories(state, FIRST, states, last))
    _, cells = plain_hivg_losses.maps(state, FIRST, x, sample[2])
    for size in (FIRST.image, 60):  # to the canvas, which the image fills, and to the image
        cells = F.interpolate(cells.reshape(1, 1, *cells.shape[-2:]), size=(size, size), mode="bilinear")
    wanted = cells[0, 0].numpy() > 0
    assert 0.05 < wanted.mean() < 0.95 and (decode(prediction.mask) != wanted).mean() < 0.01
    without = {"weights": "pipelines/weights/tiny-hivg.safetensors", "mask_head": True}
    with pytest.raises(SettingsError, match="mask_head: the weights have no mask head"):
        hivg(make_context(PROJECT, name="hivg", options=without))


def test_the_official_bridge_mixes_the_texts_of_a_batch(official, context):
    path, state = official()
    image, texts = image_of(90, 60), (*TEXTS, "a cat", "the cat")
    scene = scene_of(image, texts)
    inputs = [plain_inputs(FIRST, image, text) for text in texts]
    mixed = hivg(context({"weights": str(path), "bridge": "official", "batch": 4, "pairs": 3}))
    groups = [inputs[:4], inputs[4:]]  # the last group is smaller
    wanted = torch.cat([plain_hivg.forward_batch(state, FIRST, [s for s, _ in group], mixed=True) for group in groups])
    boxes = [plain_clipvg.in_image(box, place, FIRST.image) for box, (_, place) in zip(wanted, inputs, strict=True)]
    got = np.array([p.box for p in mixed.ground([scene])])
    np.testing.assert_allclose(got, boxes, atol=5e-3)
    correct = hivg(context({"weights": str(path)}))
    assert np.abs(got - [p.box for p in correct.ground([scene])]).max() > 0.5
    assert "mixed in groups of 4" in mixed.card.summary and "bridge correct" in correct.card.summary


def test_the_clip_file_beside_it_takes_the_place_of_the_files_own(official, tmp_path):
    path, state = official()
    key = "clip.text_model.final_layer_norm.bias"
    other = {k.removeprefix("clip."): t + (k == key) for k, t in state.items() if k.startswith("clip.")}
    nested = {f"base_model.model.{k}": t for k, t in other.items()}
    torch.save({"model": nested}, tmp_path / "clip_lora_stage_with_bridge.pth")
    network = open_network(path, tmp_path / "clip_lora_stage_with_bridge.pth")
    assert torch.allclose(network.get_parameter(key), state[key] + 1)
    with pytest.raises(WeightsError, match=r"the CLIP alone of a HiVG; name best_checkpoint\.pth"):
        open_network(tmp_path / "clip_lora_stage_with_bridge.pth")
    with pytest.raises(WeightsError, match="not the CLIP of a HiVG"):
        torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
        open_network(path, tmp_path / "other.pth")


GATE = "clip.vision_model.encoder.layers.0.cross_gate.weight"
NORM = "clip.vision_model.encoder.layers.2.cross_norm.weight"
LORA = "clip.text_model.encoder.layers.0.self_attn.q_proj.lora_B.default.weight"


@pytest.mark.parametrize(("changes", "drop", "message"), [
    ({GATE: torch.zeros(48, 96)}, (), "its bridges join 3 states"),
    ({NORM: torch.zeros(48)}, (), r"bridges in blocks \[0, 2, 3\]"),
    ({}, (LORA,), "no matrix and no lora_B of its shape"),
    ({}, ("visu_proj.weight",), "visu_proj.weight"),
    ({"new.weight": torch.zeros(1)}, (), "new.weight"),
    ({"clip.vision_model.embeddings.patch_embedding.weight": torch.zeros(9, 3, 5, 5)}, (), "no HiVG of B/16 or L/14"),
])  # fmt: skip
def test_what_differs_is_named(changes, drop, message, official):
    path, _ = official(changes=changes, drop=drop)
    with pytest.raises(WeightsError, match=message):
        open_network(path)


def test_a_file_of_something_else_is_no_hivg(tmp_path):
    torch.save({"model": {"a.weight": torch.zeros(2)}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"not a checkpoint of HiVG: it has no clip\.\*"):
        open_network(tmp_path / "a.pth")


def test_a_warm_up_file_has_no_bridge_and_shares_the_whole_image(official, context):
    sizes = replace(FIRST, bridges=())
    path, state = official(sizes)
    pipeline = hivg(context({"weights": str(path)}))
    assert pipeline.network.clip.vision_model.shared == 4
    image = image_of(90, 60)
    sample, place = plain_inputs(sizes, image, TEXTS[0])
    wanted = plain_clipvg.in_image(plain_hivg.forward(state, sizes, *sample), place, sizes.image)
    np.testing.assert_allclose(pipeline.ground([scene_of(image, TEXTS[:1])])[0].box, wanted, atol=1e-3)


def test_few_texts_stay_in_the_cache(official, context, monkeypatch):
    monkeypatch.setattr("pipelines.hivg.pipeline.TEXTS", 3)
    pipeline = hivg(context({"weights": str(official()[0])}))
    first = [p.box for p in pipeline.ground([scene_of(image_of(50, 50))])]
    assert len(pipeline.engine._texts) == 3
    assert np.allclose([p.box for p in pipeline.ground([scene_of(image_of(50, 50))])], first, atol=1e-4)


def test_the_shipped_network_predicts_the_same_boxes_in_passes_of_1_3_and_16():
    scenes = [make_scene(2026, "val", n) for n in range(5)]
    canvases = [letterboxed(IMAGES.load(scene), 120, "official") for scene in scenes]
    pairs = [(n, e.text) for n, scene in enumerate(scenes) for e in scene.expressions]
    boxes = []
    for size in (1, 3, 16):
        options = {"weights": "pipelines/weights/tiny-hivg.safetensors", "pairs": size, "images": size}
        with torch.inference_mode():
            boxes.append(hivg(make_context(PROJECT, name="hivg", options=options)).rows(canvases, pairs).numpy())
    assert len(pairs) > 10 and np.ptp(boxes, axis=0).max() < 1e-5 < np.std(boxes[0], axis=0).min()
