"""Making the small weights: every part runs on a few scenes and opens, and its own trainings hold what all do."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_world import make_context
from training_world import check_one_process, stopped_and_resumed

from bench import registry
from bench.boxes import iou_elementwise
from bench.datasets.shapes import SCENES, ShapesImages, make_scene
from bench.errors import DataError, SettingsError
from bench.evaluation.validation import on_split
from bench.grounding import LoadedScene
from bench.settings import PROJECT, load_settings
from bench.training.step import OptimisationStep
from bench.training.task import TrainingJob
from bench.training.trainer import train
from pipelines import layers
from pipelines.mdetr import checkpoint as mdetr_checkpoint
from pipelines.oneref.checkpoint import load_network
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.proposers.proposals import open_proposer
from tools.tiny_weights import clip_pretraining, clipvg, dynamic_mdetr, hivg, oneref, recipes, transvg
from tools.tiny_weights.recipes import recipe, run

TINY = {"shapes": 6, "epochs": 1, "workers": 0}
ARCHITECTURE = {
    "detr": {"image_size": 64, "width": 16, "decoder_layers": 2, "queries": 8},
    "ssd": {"image_size": 64, "stem": 8, "channels": [16, 16, 16, 16], "pyramid": 16},
    "yolo": {"width": 0.25},
}
NETWORK = {"taps": [0], "image_size": 120, "hidden": 32, "heads": 2, "feedforward": 32, "layers": 1, "dropout": 0.0}


@pytest.fixture
def context(tmp_path):
    return make_context(PROJECT, home=tmp_path)


@pytest.fixture(autouse=True)
def two_validated(monkeypatch):
    monkeypatch.setitem(SCENES, "val", 2)


@pytest.fixture
def job(context, tmp_path):
    """job(out, **recipe): a training on 6 scenes of shapes, validated on 2."""
    images = ShapesImages(2026)
    scenes, validation = ([make_scene(2026, part, i) for i in range(n)] for part, n in (("train", 6), ("val", 2)))

    def make(out="out", seed=0, **table):
        score = on_split(validation, images)
        fields = {"split_name": "shapes-train", "validation_name": "shapes-val", "fingerprint": "f" * 64}
        given = replace(context, seed=seed)
        return TrainingJob(scenes, images, validation, images, table, tmp_path / out, given, score, **fields)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("part", ["detr", "ssd", "yolo"])
def test_detectors(part, tmp_path, context):
    if part == "yolo":
        pytest.importorskip("ultralytics")
    changes = {"shapes": 6, "epochs": 1, "architecture": ARCHITECTURE[part]}
    path = run(part, tmp_path, 0, "cpu", changes if part != "yolo" else changes | {"image_size": 96})
    assert path == tmp_path / f"tiny-{part}.safetensors" and path.with_suffix(".json").is_file()
    proposer = open_proposer({"kind": part, "weights": str(path)}, "test", context)
    assert "circle" in (proposer.names if part == "ssd" else proposer.names.values())


@pytest.mark.slow
def test_clip_for_crops(tmp_path, context):
    path = run("clip", tmp_path, 0, "cpu", TINY | {"warm_up": 1})
    encoder = ClipEncoder(ClipOptions(model="tiny-clip", pretrained=str(path)), context)
    table = encoder.model.token_embedding.weight
    assert 10 < int(table.ne(0).any(dim=1).sum()) < 200  # words that shapes lacks stay zero
    assert path.stat().st_size < 3e6


@pytest.mark.slow
def test_clipvg_with_its_clip_in_two_halves(tmp_path):
    """The shipped recipes, cut short: on the CLIP that lies there, and the second half from the first."""
    run("clipvg-clip", tmp_path, 0, "cpu", TINY)
    second = {"shapes": 8, "epochs": 1, "second": {"shapes": 7}}
    path = run("clipvg", tmp_path, 0, "cpu", TINY | {"network": NETWORK, "steps": 2, "warm_up": 1, "second": second})
    assert path == tmp_path / "tiny-clipvg.safetensors"
    before = [tmp_path / folder / "tiny-clipvg.json" for folder in ("first", "first-second")]
    records = [json.loads(record.read_text()) for record in (*before, path.with_suffix(".json"))]
    assert [record["trained_on"]["images"] for record in records][1:] == [8, 7]


SHIPPED = {"model": "tiny-clip-120", "pretrained": "clipvg/weights/tiny-clipvg-clip.safetensors"}
CLIPVG = {"network": NETWORK, "auxiliary": 1.0, "start": "clip", "clip": SHIPPED, "preprocessing": "clean"}
TASKS = {
    "clip": (clip_pretraining.PretrainingTask, {"batch": 3, "save_every": 1}),
    "network": (clipvg.TinyClipVGTask, CLIPVG | {"batch": 8, "reference_batch": 16, "save_every": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", list(TASKS))
def test_it_resumes_to_the_bit(job, part):
    task, table = TASKS[part]
    short = {"epochs": 2, "workers": 0, "learning_rate": 1e-3}
    stop = (OptimisationStep, "step", 2 if part == "clip" else 3)
    stopped_and_resumed(lambda out: task(job(out, **table, **short)), [stop])


@pytest.mark.slow
def test_pre_training_learns_and_refuses_several_processes(job, tmp_path, caplog):
    table = {
        "batch": 6,
        "epochs": 12,
        "learning_rate": 3e-4,
        "clip_norm": 1.0,
        "log_every": 1,
        "save_every": 99,
        "validate_every": 12,
    }
    with caplog.at_level("INFO", "bench.train"):
        train(clip_pretraining.PretrainingTask(job(**table)))
    losses = [float(r.message.partition("loss ")[2].split()[0]) for r in caplog.records if ", loss " in r.message]
    assert losses[-1] < 0.9 * losses[0]
    check_one_process(clip_pretraining.PretrainingTask(job()), tmp_path)


@pytest.mark.slow
def test_an_expression_about_no_object_is_named(job):
    broken = job()
    scene = broken.scenes[0]
    moved = replace(scene.expressions[0], box=(0.0, 0.0, 9.0, 9.0))
    broken = replace(broken, scenes=[replace(scene, expressions=(moved,))])
    with pytest.raises(DataError, match=r"train-000000\.png, expression .* no annotated object"):
        clip_pretraining.PretrainingTask(broken).dataset().sample(0, 0)


@pytest.mark.slow
def test_without_the_auxiliary_the_losses_are_the_products(job):
    """And with it the boxes and the first two losses stay what they are."""
    terms_of = []
    for auxiliary in (0.0, 1.0):
        task = clipvg.TinyClipVGTask(job(**CLIPVG | {"auxiliary": auxiliary}))
        data = task.dataset(augment=False)
        terms = task.losses(task.collate([data.sample(0, row) for row in range(4)]), torch.Generator())
        assert ("auxiliary" in terms) == ("auxiliary" in task.loss_weights) == bool(auxiliary)
        terms_of.append(terms)
    for name in ("l1", "giou", "boxes"):
        torch.testing.assert_close(terms_of[0][name], terms_of[1][name], rtol=1e-4, atol=1e-5)
    assert (terms_of[1]["auxiliary"] > 0).all()


@pytest.fixture
def small_transvg(job):
    """The recipe's TransVG before its training, and the MDETR that it starts from."""
    table = recipe("transvg", {"workers": 0})
    task = transvg.tasks(job(**table))["network"]()
    return task, mdetr_checkpoint.open_network(table["mdetr"], "", task.job.context)


@pytest.mark.slow
def test_a_transvg_starts_as_an_mdetr(small_transvg):
    """Its lower layers give what the MDETR's joint encoder gives of the same tokens, and its text tokens are alike."""
    task, loaded = small_transvg
    theirs, network = loaded.network, task.model.eval()
    batch = transvg.calibration(task)
    with torch.no_grad():
        image, masked, text, padding = task.encoded(batch)
        ids, _ = loaded.tokenizer(batch.texts)
        other = theirs.encode_text(ids, padding)
        assert torch.nn.functional.cosine_similarity(text[~padding], other[~padding], dim=-1).min() > 0.99
        del network.vl_transformer.encoder.layers[-1]
        fused = network.fuse(image, masked, text, padding)[:, 1:]
        places = torch.cat([torch.zeros_like(text), network.vl_pos_embed(network.image_slots()).expand_as(image)], 1)
        ignored = torch.cat([padding, masked], dim=1)
        memory = theirs.transformer.encoder(torch.cat([text, image], dim=1), places, ignored)
    # [REG] is one key more, and words have small positions of their own.
    assert torch.nn.functional.cosine_similarity(fused[~ignored], memory[~ignored], dim=-1).mean() > 0.95


@pytest.mark.slow
def test_only_the_readout_of_a_transvg_is_trained(small_transvg):
    (group,) = small_transvg[0].parameter_groups()
    assert {name.partition(".layers.")[0] for name in group.parameters} == {"vl_transformer.encoder", "bbox_embed"}
    assert all(name.startswith(("vl_transformer.encoder.layers.3.", "bbox_embed.")) for name in group.parameters)


@pytest.mark.slow
def test_transvg(tmp_path):
    path = run("transvg", tmp_path, 0, "cpu", TINY | {"steps": 1})
    assert path == tmp_path / "tiny-transvg.safetensors" and path.stat().st_size < 6e6


@pytest.mark.slow
def test_a_dynamic_mdetr_starts_near_a_transvg(job):
    """Before any training its last boxes are about those of the TransVG; stages and box head alone are trained."""
    task = dynamic_mdetr.tasks(job(**recipe("dynamic-mdetr", {"workers": 0})))["network"]()
    network, batch = task.model.eval(), transvg.calibration(task)
    with torch.no_grad():
        encoded = task.encoded(batch)
        boxes, points = network.decode(*encoded)
        theirs = task.transvg.network.boxes(*encoded)
    assert (layers.giou(boxes, theirs[:, None])[1].mean(dim=0) > 0.5).all()
    spread = points.flatten(0, 1).view(-1, 3, 36, 2).std(dim=2).mean(dim=(0, 2))
    assert spread[0] > spread[1] > spread[2]
    names = {name.partition(".")[0] for group in task.parameter_groups() for name in group.parameters}
    assert names == {
        "vl_transformer", "offset_generators", "update_sampling_queries", "init_sampling_feature", "bbox_embed",
    }  # fmt: skip


@pytest.mark.slow
def test_dynamic_mdetr(tmp_path):
    path = run("dynamic-mdetr", tmp_path, 0, "cpu", TINY | {"steps": 1})
    assert path == tmp_path / "tiny-dynamic-mdetr.safetensors" and path.stat().st_size < 6e6


@pytest.mark.slow
def test_a_hivg_starts_near_a_clipvg(job, tmp_path):
    """Before any training its boxes are about those of the CLIP-VG; CLIP itself is not trained."""
    table = recipe("hivg", {"workers": 0})
    del table["second"]
    task = hivg.tasks(job(**table))["network"]()
    task.model.eval()
    table = load_settings().table("pipelines", "clipvg", "shapes")
    theirs = registry.pipeline_factory("clipvg")(replace(task.job.context, name="clipvg", options=table))
    queries = {scene.id: tuple(e.query for e in scene.expressions) for scene in task.job.scenes}
    loaded = [LoadedScene(scene.id, task.job.images.load(scene), queries[scene.id]) for scene in task.job.scenes]
    with torch.no_grad():
        ours, others = ([p.box for p in pipeline.ground(loaded)] for pipeline in (task.pipeline(), theirs))
    assert np.median(iou_elementwise(ours, others)) > 0.6
    names = [name for group in task.parameter_groups() for name in group.parameters]
    assert all(".cross_" in name or ".lora_" in name for name in names if name.startswith("clip."))
    assert run("hivg", tmp_path, 0, "cpu", TINY | {"steps": 1, "second": False}).stat().st_size < 5e6


@pytest.mark.slow
def test_a_policy_in_two_stages_on_scenes_of_another_seed(tmp_path, monkeypatch):
    seeds, load = [], recipes.load_settings
    monkeypatch.setattr(
        recipes, "load_settings", lambda flags: seeds.append(flags["data.shapes.seed"]) or load(flags=flags)
    )
    stages = [{"method": method, "steps": 1, "episodes": 2} for method in ("imitation", "grpo")]
    path = run("rl-refine", tmp_path, 0, "cpu", {"shapes": 2, "stages": stages, "workers": 0})
    assert path == tmp_path / "tiny-rl-refine.safetensors" and path.stat().st_size < 5e5 and seeds == [7]


@pytest.mark.slow
def test_diffusion_is_a_head_over_the_shipped_clipvg(tmp_path):
    path = run("diffusion", tmp_path, 0, "cpu", TINY | {"steps": 2, "warm_up": 1, "validate_every": 1})
    assert path == tmp_path / "tiny-diffusion.safetensors" and path.stat().st_size <= 7e5
    assert "network" in path.with_suffix(".json").read_text()


ONEREF = {"width": 16, "layers": 3, "heads": 4, "image_size": 120, "patch": 12, "positions": 26, "text": 24}


@pytest.fixture
def small_oneref(tmp_path):
    """A OneRef whose two lower layers were pre-trained for a step, and the recipe that goes on from it."""
    changes = TINY | {"lower": 2, "network": ONEREF, "batch": 6, "warm_up": 1}
    path = run("oneref-pretraining", tmp_path, 0, "cpu", changes)
    options = {"lower": 2, "start_from": str(path), "batch": 9, "reference_batch": 9, "warm_up": 1, "second": False}
    return TINY | options


@pytest.mark.slow
def test_a_grown_oneref_answers_as_before(job, small_oneref):
    table = {k: v for k, v in recipe("oneref", small_oneref).items() if k not in ("shapes", "second")}
    table |= {"compare": False, "head": "both"}
    before, after = (oneref.tasks(job(**table, grow=layers))["network"]().model.eval() for layers in (0, 2))
    assert [len(network.beit3.encoder.layers) for network in (before, after)] == [3, 5] and after.config.layers == 5
    pixels, ids = torch.randn(2, 3, 120, 120), torch.tensor([[0, 5, 9, 2], [0, 7, 2, 1]])
    with torch.no_grad():
        one, other = (network(pixels, ids, ids == 1) for network in (before, after))
    torch.testing.assert_close(one.boxes, other.boxes, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_onerefs_lower_layers_keep_image_and_text_apart(job, small_oneref):
    """So what is computed once an image and once a text is what the network computes of both together."""
    table = recipe("oneref", small_oneref)
    task = oneref.tasks(job(**{k: v for k, v in table.items() if k not in ("shapes", "second")}))["network"]()
    data, network = task.dataset(), task.model.eval()
    batch = task.collate([data.sample(0, row) for row in range(7)])
    with torch.no_grad():
        image, (text, padding) = task._images_of(batch), task._texts_of(batch.texts)
        pixels, ids, pads = task.inputs(batch)
        both = network.embed_image(pixels), network.beit3.text_embed(ids)
        both = both[0][batch.owners], both[1] + network.beit3.encoder.embed_positions.B.weight[2 : 2 + ids.shape[1]]
        keep = torch.cat([pads.new_ones(len(pads), both[0].shape[1]), ~pads], dim=1)[:, None, None]
        for layer in network.beit3.encoder.layers[:2]:
            both = layer(*both, keep)
        alone = task.losses(batch, torch.Generator())
        task.config = task.config.model_copy(update={"lower": 0})
        whole = task.losses(batch, torch.Generator())
    torch.testing.assert_close(image[batch.owners], both[0], atol=2e-2, rtol=0)  # kept in float16
    torch.testing.assert_close(text[~padding], both[1][~pads], atol=2e-2, rtol=0)
    for name in whole:
        torch.testing.assert_close(alone[name], whole[name], atol=2e-2, rtol=2e-2)
    assert {"focal", "dice", "patch_focal", "l1", "auxiliary"} < alone.keys() and alone["focal"].count_nonzero() == 1


@pytest.mark.slow
def test_oneref(tmp_path, small_oneref, context):
    path = run("oneref", tmp_path, 0, "cpu", small_oneref | {"steps": 2})
    assert path == tmp_path / "tiny-oneref.safetensors" and path.stat().st_size < 1.6e6
    network = load_network(path)
    assert network.config.both and network.config.masks
    trained, before = network.state_dict(), load_network(small_oneref["start_from"]).state_dict()
    lower = [name for name in before if name.startswith(("beit3.encoder.layers.0.", "beit3.text_embed"))]
    same = [torch.equal(trained[name], before[name]) for name in lower if not name.endswith("bias")]
    assert all(same) and not torch.equal(trained["visu_proj.weight"], before["visu_proj.weight"])


def test_mistakes_are_named(tmp_path):
    with pytest.raises(SettingsError, match=r"there are clip, detr"):
        recipe("clop", {})
    with pytest.raises(SettingsError, match="'epok'"):
        run("ssd", tmp_path, 0, "cpu", {"shapes": 2, "epok": 1})
