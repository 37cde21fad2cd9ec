"""The head in training: its losses, its caches, its file, and that it resumes bit for bit."""

import numpy as np
import pytest
import torch
from training_world import Stepping, lines_of, stopped_and_resumed

from bench.errors import SettingsError, UsageError, WeightsError
from bench.grounding import LoadedScene
from bench.training.gradient_check import gradient_check
from bench.training.step import OptimisationStep
from bench.training.trainer import train
from pipelines import layers
from pipelines.diffusion.pipeline import diffusion
from pipelines.diffusion.sampling import noised, to_boxes
from pipelines.diffusion.task import DiffusionTask

PLAIN = {"cache_features": False, "augment": {"crop": "off", "scales": [120], "flip_share": 0.5}}


@pytest.mark.slow
def test_only_the_head_is_trained_and_its_losses_are_those_of_the_noised_boxes(job):
    task = DiffusionTask(job())
    below = {name: p.clone() for name, p in task.source.network.named_parameters()}
    stepping = Stepping(task)
    (_, batch), *_ = stepping.batches()
    terms = task.losses(batch, torch.Generator().manual_seed(7))
    # 1. The same noise by hand, sample by sample.
    rng = torch.Generator().manual_seed(7)
    u = torch.rand((4, 3), generator=rng)
    noise = torch.randn((4, 3, 4), generator=rng)
    fused = task.rows.fused(batch)
    for sample in range(3):
        target = batch.targets[:, None]
        noisy = to_boxes(noised(target, u[:, sample : sample + 1, None], noise[:, sample : sample + 1]))
        boxes, _ = task.model(fused, noisy, u[:, sample : sample + 1])
        l1 = layers.l1(boxes, target)[..., 0].mean(dim=0)
        terms["l1"] = terms["l1"] - l1 / 3
    assert torch.allclose(terms["l1"], torch.zeros(4), atol=1e-5)
    # 2. A step moves the head alone.
    values = stepping.step()
    assert values["loss"] == pytest.approx(5 * values["l1"] + 2 * values["giou"] + values["score"], rel=1e-5)
    assert all(torch.equal(p, below[name]) for name, p in task.source.network.named_parameters())


@pytest.mark.slow
def test_it_learns_and_its_file_is_what_the_pipeline_opens(job, whole):
    mine = job(epochs=25, learning_rate=3e-3, log_every=10, validate_every=25, cache_tokens=True)
    made = train(DiffusionTask(mine))
    losses = [line["loss"] for line in lines_of(mine.out) if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    loaded = [LoadedScene(s.id, mine.images.load(s), tuple(e.query for e in s.expressions)) for s in mine.validation]
    pipeline = diffusion(whole(weights=str(made.path)))
    answers = pipeline.ground(loaded)
    assert len(answers) == 6 and all(np.isfinite(a.box).all() and 0 < a.score <= 1.001 for a in answers)
    assert set(made.notes["network"]) == {"clipvg", "clip"}
    again = DiffusionTask(job(start_from=str(made.path)))
    assert gradient_check(again)["rows"] == 25
    state, ours = again.model.state_dict(), pipeline.head.state_dict()
    assert all(torch.equal(state[name], ours[name]) for name in state)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"cache_tokens": True}, PLAIN | {"group": "image", "workers": 2}])
def test_stopped_and_resumed_it_ends_in_the_same_bits(job, changes):
    whole = {"ema": 0.8, "warm_up": 3, "validate_every": 1} | changes
    kills = [(OptimisationStep, "step", 6), (OptimisationStep, "step", 2)]
    stopped_and_resumed(lambda out: DiffusionTask(job(out, **whole)), kills)


@pytest.mark.slow
def test_tokens_that_are_kept_are_those_that_are_computed(job):
    fused = []
    for kept in (False, True):
        task = DiffusionTask(job(cache_tokens=kept, batch=8))
        (_, batch), *_ = Stepping(task).batches()
        fused.append(task.rows.fused(batch))
    computed, cached = fused
    keep = torch.ones_like(computed.cells, dtype=torch.bool) if computed.ignored is None else ~computed.ignored
    assert torch.equal(computed.cells[keep], cached.cells[keep])
    assert torch.allclose(computed.tokens[:, 1:][keep], cached.tokens[:, 1:][keep], atol=5e-3, rtol=2e-3)
    assert torch.allclose(computed.tokens[:, 0], cached.tokens[:, 0], atol=5e-3, rtol=2e-3)
    assert torch.allclose(computed.boxes, cached.boxes, atol=1e-5)


def test_mistakes(job):
    with pytest.raises(SettingsError, match=r"train\.diffusion.*epoch"):
        DiffusionTask(job(epoks=3))
    with pytest.raises(SettingsError, match="cache_tokens keeps what cache_features encodes once"):
        DiffusionTask(job(cache_features=False, cache_tokens=True))
    with pytest.raises(SettingsError, match=r"unknown key 'head\.width'|head\.width"):
        DiffusionTask(job(head={"width": 3}))
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        DiffusionTask(job(start_from="none.safetensors"))
    with pytest.raises(UsageError, match="leave group out"):
        Stepping(DiffusionTask(job(group="image")))
