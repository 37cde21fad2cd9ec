"""MDETR's fine-tuning as a task: the first step against plain losses, what is trained how, padding, learning."""

import json
from dataclasses import replace

import plain_mdetr
import pytest
import torch
from torch import nn
from training_world import stopped_and_resumed

from bench.errors import SettingsError, WeightsError
from bench.grounding import LoadedScene, Query
from bench.settings import load_settings
from bench.training import trainer
from bench.training.config import batch_plan
from bench.training.gradient_check import gradient_check, without_dropout
from bench.training.log import TrainingLog
from bench.training.optimiser import learning_rate, make_optimiser
from bench.training.step import OptimisationStep, weighted
from bench.training.trainer import Trainer, train
from pipelines.mdetr import checkpoint
from pipelines.mdetr.pipeline import mdetr
from pipelines.mdetr.task import MdetrTask, MdetrTraining, tasks

OFFICIAL = {"short": 64, "long": 120, "epochs": 1, "workers": 0}


@pytest.fixture
def published(job, network, official, roberta_folder):
    """published(backbone, **changes): a task on a file laid out as the published ones, four expressions."""

    def make(backbone="resnet18", **changes):
        path = official(model_ema=dict(network(backbone).state_dict()))
        one = job()
        scenes = [replace(scene, expressions=scene.expressions[:1]) for scene in one.scenes]
        recipe = OFFICIAL | {"start_from": str(path), "tokenizer": str(roberta_folder)} | changes
        return MdetrTask(replace(one, scenes=scenes, recipe=recipe))

    return make


@pytest.mark.slow
def test_the_first_step_is_the_plain_one(published, monkeypatch):
    monkeypatch.setattr("bench.training.gradient_check.AT_ONCE", 1)  # a ResNet is not blind to padding at its border
    task = published()
    numbers = gradient_check(task)
    table = {k: t.detach().double() for k, t in task.network.state_dict().items() if t.is_floating_point()}
    trained = {k: table[k].requires_grad_() for group in task.parameter_groups() for k in group.parameters}
    sums, data = {}, task.dataset(augment=False)
    for index in range(len(data)):
        _, target, text = data.sample(0, index)
        tokens, _ = task.loaded.tokenizer([text])
        pixels = plain_mdetr.preprocessed(data.job.images.load(data.places[index][0]), 64, 120).double()
        positive = list(range(1, tokens.shape[1] - 1))
        for name, loss in plain_mdetr.losses(table, pixels, tokens[0], target.double(), positive).items():
            sums[name] = sums.get(name, 0) + loss / len(data)
    total = sums["token"] + 5 * sums["l1"] + 2 * sums["giou"] + sums["contrastive"]
    assert numbers["rows"] == 4 and numbers["loss"] == pytest.approx(total.item(), rel=1e-3)
    assert {name: numbers[name] for name in sums} == {k: pytest.approx(v.item(), rel=1e-3) for k, v in sums.items()}
    total.backward()
    norms = {name: float(t.grad.norm()) for name, t in trained.items()}
    assert numbers["gradient_norms"].keys() == norms.keys()
    largest = max(norms.values())
    for name, norm in norms.items():
        assert numbers["gradient_norms"][name] == pytest.approx(norm, rel=0.01, abs=1e-5 * largest), name


def test_everything_that_is_trained_gets_a_gradient(job):
    task = MdetrTask(job())
    norms = gradient_check(task)["gradient_norms"]
    still = {name for name, norm in norms.items() if norm == 0}
    first = "transformer.decoder.layers.0."  # whose input is 0
    assert still <= {f"{first}{part}weight" for part in ("self_attn.out_proj.", "norm1.", "self_attn.in_proj_")}
    heads = [name for name in norms if name.startswith("contrastive_align_projection")]
    assert len(heads) == 4 and min(norms[name] for name in heads) > 1e-6


@pytest.mark.slow
def test_parts_are_trained_as_in_the_official_code(published):
    task = published()
    parts = {name: group for group in task.parameter_groups() for name, p in group.parameters.items()}
    frozen = {name for name, _ in task.network.named_parameters()} - parts.keys()
    still = ("backbone.0.body.conv1.", "backbone.0.body.layer1.", "transformer.text_encoder.pooler.")
    assert frozen == {name for name, _ in task.network.named_parameters() if name.startswith(still)} and frozen
    config = task.config
    optimiser = make_optimiser(task.parameter_groups(), config, batch_plan(config, 2))
    rates = {}
    for group, part in zip(optimiser.param_groups, ("rest", "backbone", "text"), strict=True):
        assert group["weight_decay"] == 1e-4
        full = config.learning_rate * group["lr_scale"]
        warm_up = 0 if group["warm_up"] is None else round(group["warm_up"] * 5000)
        rates[part] = [
            learning_rate(full, config, group["schedule"], step, 5000, step // 1000, 5, warm_up)
            for step in (0, 24, 49, 2999, 3000, 4999)
        ]
    assert rates["rest"] == pytest.approx([5e-5] * 4 + [5e-6] * 2)
    assert rates["backbone"] == pytest.approx([1e-5] * 4 + [1e-6] * 2)
    text = [2e-7, 5e-6, 1e-5, 1e-5 * 2001 / 4950, 1e-5 * 2000 / 4950, 1e-5 / 4950]
    assert rates["text"] == pytest.approx(text, rel=1e-6)


def test_the_defaults_are_the_official_ones():
    config = MdetrTraining()
    assert (config.epochs, config.reference_batch, config.clip_norm, config.ema) == (5, 8, 0.1, 0.9998)
    assert (config.schedule, config.betas, config.weight_decay) == ("drop", (0.9, 0.999), 1e-4)
    assert vars(config)["loss"].contrastive == 1.0
    assert MdetrTraining(**load_settings().table("train", "mdetr", "refcocog")).epochs == 3
    assert MdetrTraining(**load_settings().table("train", "mdetr", "refcoco")) == config


class Patches(nn.Module):
    """A backbone whose features do not reach into the padding."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, channels, 8, stride=8)

    def forward(self, pixels):
        return self.body(pixels)


def test_padding_changes_nothing(job):
    """Two sizes and two lengths in one batch: each sample's losses are those it has alone."""
    task = MdetrTask(job())
    task.network.backbone[0] = Patches(16)
    data = task.dataset(augment=False)
    samples = [data.sample(0, index) for index in range(len(data))]
    cut = [(p[:, : p.shape[1] // 8 * 8, : p.shape[2] // 8 * 8], target, text) for p, target, text in samples]
    assert len({p.shape for p, _, _ in cut}) > 1 and len({len(text.split()) for _, _, text in cut}) > 1
    without_dropout(task.model.train())
    rng = torch.Generator()
    together = task.losses(task.collate(cut), rng)
    for row, sample in enumerate(cut):
        alone = task.losses(task.collate([sample]), rng)
        for name, loss in alone.items():
            torch.testing.assert_close(together[name][row], loss[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_it_learns_and_its_file_runs(job, context):
    network = job().recipe["network"] | {"dropout": 0.0}
    few = {"steps": 24, "learning_rate": 3e-3, "augment": False, "ema": 0.5, "schedule": "constant", "clip_norm": 1.0}
    mine = job(network=network, validate_every=99, save_every=999, log_every=1, text_schedule="constant", **few)
    one = replace(mine, scenes=mine.scenes[:1])
    made = train(MdetrTask(one))
    lines = [json.loads(line) for line in (mine.out / "mdetr.run/training.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    assert made.path.name == "mdetr.safetensors" and 0 <= made.score["accuracy"] <= 1
    pipeline = mdetr(context("mdetr", options={"weights": str(made.path)}))
    assert (pipeline.short, pipeline.long) == (64, 120)
    scene = one.scenes[0]
    queries = tuple(Query(e.id, e.text) for e in scene.expressions)
    answers = pipeline.ground([LoadedScene(scene.id, one.images.load(scene), queries)])
    assert len(answers) == len(queries) and all(a.box is not None for a in answers)


@pytest.mark.slow
def test_it_goes_on_from_a_file_of_ours_with_its_sizes_and_words(job, tmp_path):
    path = train(MdetrTask(job(epochs=1))).path.rename(tmp_path / "first.safetensors")
    again = MdetrTask(job("again", start_from=str(path), short=None, long=None))
    assert again.loaded.sizes == (64, 120) and again.loaded.tokenizer_json
    assert all(p.dtype == torch.float32 for p in again.network.parameters())
    larger = MdetrTask(job("larger", start_from=str(path), short=96, long=None))
    assert larger.loaded.sizes == (96, 120)


@pytest.mark.slow
def test_published_weights_are_saved_without_a_tokenizer(published, tmp_path, context, roberta_folder):
    task = published()
    task.save(tmp_path / "tuned.safetensors")
    options = task.options(tmp_path / "tuned.safetensors")
    assert options["tokenizer"] == str(roberta_folder)
    assert len(checkpoint.open_network(options["weights"], options["tokenizer"], context()).tokenizer) > 4


def test_mistakes_are_named(job):
    with pytest.raises(SettingsError, match=r"train\.mdetr.*epochs"):
        MdetrTask(job(epoks=3))
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        MdetrTask(job(start_from="nowhere.pth"))
    assert list(tasks(job())) == ["mdetr"]


def test_the_weights_of_losses_are_the_configs(job):
    task = MdetrTask(job(loss={"contrastive": 0.0, "l1": 3.0}))
    assert task.loss_weights == {"token": 1.0, "l1": 3.0, "giou": 2.0, "contrastive": 0.0}
    ones = {name: torch.ones(2) for name in (*task.loss_weights, "boxes")}
    assert weighted(ones, task.loss_weights).tolist() == [6.0, 6.0]


@pytest.mark.slow
def test_killed_anywhere_it_ends_in_the_same_bits(job):
    kills = [(OptimisationStep, "step", call, after) for call, after in ((2, False), (5, True), (1, True))]
    kills += [(Trainer, "validate", 1, True), (trainer, "save", 1), (TrainingLog, "draw", 1), (Trainer, "finish", 1)]
    assert stopped_and_resumed(lambda out: MdetrTask(job(out, workers=1)), kills)[-1] == 8
