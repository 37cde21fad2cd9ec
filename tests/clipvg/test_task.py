"""CLIP-VG in training: what is trained, what is refused, and that it resumes bit for bit."""

import pytest
import torch
from deconfounding import check_deconfounder
from operators import Operators
from training_world import Stepping, lines_of, stopped_and_resumed

import clipvg.task
from bench.errors import SettingsError, UnknownName, UsageError, WeightsError
from bench.grounding import LoadedScene
from bench.training.gradient_check import gradient_check
from bench.training.sampler import MicroBatch
from bench.training.step import OptimisationStep
from bench.training.trainer import train
from clipvg.network import POSITIONS, multi_level_features
from clipvg.official import write_official
from clipvg.pipeline import clipvg as clipvg_pipeline
from clipvg.recipe import ClipVGTraining
from clipvg.task import ClipVGTask
from pipelines.weights import read_safetensors


@pytest.mark.slow
@pytest.mark.parametrize("positions", [True, False])
def test_only_the_fusion_and_the_positions_are_trained(job, positions):
    task = ClipVGTask(job(train_positions=positions))
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    stepping = Stepping(task)
    values = stepping.step()
    moved = {name for name, p in task.model.named_parameters() if not torch.equal(before[name], p)}
    assert moved <= set(stepping.steps.trained) and (POSITIONS in moved) == positions
    assert not any(name.startswith("clip.") for name in moved - {POSITIONS})
    assert not task.model.clip.transformer.training and task.model.vl_transformer.training
    assert values["loss"] == pytest.approx(values["l1"] + values["giou"], rel=1e-6)


def test_the_default_config_is_the_papers():
    config = ClipVGTraining()
    numbers = (config.epochs, config.learning_rate, config.weight_decay, config.l1, config.giou, config.reference_batch)
    assert numbers == (110, 2.5e-4, 1e-4, 1, 1, 320)
    assert (config.warm_up, config.clip_norm, config.ema, config.schedule, config.schedule_by) == (
        0, 0, 0, "cosine", "epoch",
    )  # fmt: skip
    assert (config.augment.crop, config.betas) == ("official", (0.9, 0.999))


@pytest.mark.slow
def test_clean_preprocessing_brings_crops_that_keep_the_referent(job):
    table = {"augment": {}}
    assert ClipVGTask(job(**table)).augmentation.crop == "safe"
    assert ClipVGTask(job(**table, preprocessing="auto")).augmentation.crop == "official"
    assert ClipVGTask(job(augment={"crop": "off"})).augmentation.crop == "off"


@pytest.mark.slow
def test_it_learns_and_its_file_is_what_the_pipeline_opens(job, context):
    frozen = {"cache_features": True, "train_positions": False, "dtype": "float32"}
    mine = job(epochs=12, learning_rate=3e-3, log_every=4, validate_every=12, **frozen)
    made = train(ClipVGTask(mine))
    losses = [line["loss"] for line in lines_of(mine.out) if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    keys = read_safetensors(made.path)[0]
    assert not any(key.startswith("clip.") for key in keys if key != POSITIONS)
    loaded = [LoadedScene(s.id, mine.images.load(s), tuple(e.query for e in s.expressions)) for s in mine.validation]
    pipeline = clipvg_pipeline(context({"weights": str(made.path)}, dataset="shapes"))
    answers = pipeline.ground(loaded)
    assert pipeline.style == "clean" and len(answers) == 6 and all(a.box is not None for a in answers)
    clip = {"model": "tiny-clip", "pretrained": ""}
    again = ClipVGTask(job(start_from=str(made.path), preprocessing="auto", clip=clip))
    assert again.style == "clean"
    check = gradient_check(again)
    assert check["rows"] == 25 and POSITIONS in check["gradient_norms"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"workers": 2}, {"cache_features": True, "train_positions": False, "schedule": "step"},
     {"augment": {"crop": "official", "flip_share": 0.5, "blur_share": 0.5}, "preprocessing": "official"},
     {"dtype": "bfloat16", "recompute": True}],
)  # fmt: skip
def test_stopped_and_resumed_it_ends_in_the_same_bits(job, table, changes):
    network = table()["network"] | {"dropout": 0.2}
    whole = {"ema": 0.8, "save_every": 3, "warm_up": 3, "clip_norm": 1.0, "network": network} | changes
    kills = [(OptimisationStep, "step", 6), (OptimisationStep, "step", 2)]
    stopped_and_resumed(lambda out: ClipVGTask(job(out, **whole)), kills)


@pytest.mark.slow
def test_trainings_of_one_process_share_the_frozen_towers_features(job, monkeypatch):
    shared = {}
    cached = {"cache_features": True, "train_positions": False, "epochs": 1}
    first = ClipVGTask(job("a", fields={"shared": shared}, **cached))
    alone = train(first)
    second = ClipVGTask(job("b", fields={"shared": shared}, **cached))
    assert second.images is first.images and second.texts is first.texts
    monkeypatch.setattr(ClipVGTask, "_encode_images", lambda *_: pytest.fail("an image was encoded again"))
    train(second, last=False)
    tensors = [read_safetensors(path)[0] for path in (alone.path, second.job.out / "small.safetensors")]
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])


def test_mistakes(job):
    with pytest.raises(SettingsError, match=r"train\.clipvg.*epoch"):
        ClipVGTask(job(epoks=3))
    with pytest.raises(SettingsError, match="cache_features"):
        ClipVGTask(job(cache_features=True))
    with pytest.raises(SettingsError, match="leave one out"):
        ClipVGTask(job(cache_features=True, train_positions=False, augment={}, cache_images="auto"))
    with pytest.raises(SettingsError, match="48 is more than the canvas's 32 pixels"):
        ClipVGTask(job(augment={"crop": "safe", "scales": [48]})).dataset()
    with pytest.raises(UnknownName, match="tiny-clop"):
        ClipVGTask(job(clip={"model": "tiny-clop", "pretrained": "x"}))
    with pytest.raises(WeightsError, match=r"none\.pth"):
        ClipVGTask(job(start_from="none.pth"))


@pytest.mark.slow
def test_an_image_goes_through_its_tower_once_a_step_with_the_same_loss_and_gradient(job, monkeypatch):
    plain = {"augment": {"crop": "off", "jitter_share": 0.0, "translate": False, "scales": (32,)}}
    results = {}
    for group in ("row", "image"):
        task = ClipVGTask(job(group=group, batch=32, reference_batch=32, **plain))
        images = []
        monkeypatch.setattr(
            clipvg.task,
            "multi_level_features",
            lambda visual, pixels, *rest, n=images: (
                n.append(len(pixels)) or multi_level_features(visual, pixels, *rest)
            ),
        )
        stepping, rows = Stepping(task), tuple(range(len(task.dataset())))
        batch = stepping.data.draw(MicroBatch(0, 0, rows, len(rows), True, True))
        terms = task.losses(batch, torch.Generator())
        task.model.zero_grad()
        (terms["l1"] + terms["giou"]).sum().backward()
        grads = {name: p.grad.clone() for name, p in stepping.steps.trained.items()}
        results[group] = (images, terms, grads)
        values = stepping.step()
        assert values["loss"] == pytest.approx(values["l1"] + values["giou"], rel=1e-6)
    (each, alone, one), (once, together, other) = results["row"], results["image"]
    assert each[0] == 25 and once[0] == 4
    assert all(torch.allclose(alone[key], together[key], atol=1e-6) for key in ("l1", "giou", "boxes"))
    assert one.keys() == other.keys() and POSITIONS in one
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["row", "image"])
def test_a_step_is_not_waited_for(job, group):
    stepping = Stepping(ClipVGTask(job(group=group)))
    stepping.step()
    batches = stepping.batches()
    with Operators() as operators:
        stepping.steps.step(0, batches)
    assert operators.waiting == [] and operators.launched.total() > 100


@pytest.mark.slow
def test_grouped_by_image_it_resumes_bit_for_bit(job):
    def make(out):
        return ClipVGTask(job(out, group="image"))

    stopped_and_resumed(make, [(OptimisationStep, "step", 3), (OptimisationStep, "step", 2)])


def test_features_that_are_cached_are_not_grouped(job):
    with pytest.raises(UsageError, match="cache_features encodes each image once as it is; leave group out"):
        Stepping(ClipVGTask(job(group="image", cache_features=True, train_positions=False, augment={})))


@pytest.mark.slow
def test_with_a_red_style_deconfounder(job, context, tmp_path):
    def make(out, **changes):
        clip = {"clip": {"model": "tiny-clip", "pretrained": ""}} if "start_from" in changes else {}
        return ClipVGTask(job(out, cache_features=True, train_positions=False, dtype="float32", **clip, **changes))

    def opened(path, **options):
        return clipvg_pipeline(context({"weights": str(path), **options}, dataset="shapes"))

    check_deconfounder(make, opened, tmp_path)
    (path,) = (tmp_path / "whole").glob("*.safetensors")
    with pytest.raises(UsageError, match="the official code has no deconfounder"):
        write_official(opened(path).network, "small", tmp_path / "out.pth")
