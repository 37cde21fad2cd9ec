"""HiVG in training: its first step from the plain reference, what each stage trains, resuming, and its files."""

import numpy as np
import plain_clipvg
import plain_hivg_losses
import pytest
import torch
from fake_world import make_context
from small_hivg import FIRST, config_of
from training_world import IMAGES, SCENES, stopped_and_resumed

from bench.errors import SettingsError, WeightsError
from bench.settings import PROJECT
from bench.training.gradient_check import gradient_check
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer
from pipelines.canvas import covered
from pipelines.hivg import checkpoint, task
from pipelines.hivg.network import OFFICIAL, HiVG
from pipelines.hivg.pipeline import masked_patches
from pipelines.hivg.recipe import STAGES, HiVGTraining, attach, of_open_clip, take_clip
from pipelines.hivg.task import HiVGTask
from pipelines.two_stage.clip.encoder import ClipOptions, open_model


@pytest.mark.parametrize("bridge", ["correct", "official"])
def test_the_first_step_is_that_of_the_plain_reference(job, official, bridge):
    path, state = official()
    mine = job(start_from=str(path), bridge=bridge, batch=64, reference_batch=64, fields={"scenes": SCENES[:1]})
    got = gradient_check(HiVGTask(mine))
    samples, targets, masks = [], [], []
    scene, image = SCENES[0], IMAGES.load(SCENES[0])
    for expression in scene.expressions:
        pixels, _, place = plain_clipvg.preprocessed(image, FIRST.image, FIRST.patch)
        ratio, left, top = place
        height, width = (round(side * ratio) for side in image.shape[:2])
        edges = torch.tensor([[left, top, left + width, top + height]])
        masked = masked_patches(~covered(edges, FIRST.image), FIRST.image // FIRST.patch)[0]
        samples.append((pixels, masked, plain_clipvg.token_ids(expression.text)))
        targets.append(plain_clipvg.ground_truth(expression.box, place, "xyxy", FIRST.image))
        masks.append(plain_hivg_losses.object_mask(expression.box, image.shape, place, FIRST.image))
    wanted = plain_hivg_losses.terms(state, FIRST, samples, targets, masks, mixed=bridge == "official")
    assert got["rows"] == len(samples) > 3
    for name, value in wanted.items():
        assert got[name] == pytest.approx(float(value), rel=1e-5), name
    whole = sum(plain_hivg_losses.WEIGHTS[name] * float(value) for name, value in wanted.items())
    assert got["loss"] == pytest.approx(whole, rel=1e-5)
    assert min(norm for name, norm in got["gradient_norms"].items() if "k_proj" not in name) > 0


def test_each_stage_trains_as_many_numbers_as_the_official_code():
    """B/16 on RefCOCO; what no loss reaches, and this network leaves out, is counted there."""
    sizes = OFFICIAL[768, 16]
    with torch.device("meta"):
        network = HiVG(sizes)
        attach(network, 32)
    dead = 512 + 77 * 768 + 2 * (512 * 768 + 768)
    counts = []
    for stage in STAGES:
        made = HiVGTask.__new__(HiVGTask)
        made.config, made.model = HiVGTraining(**stage.model_dump()), network
        (group,) = made.parameter_groups()
        counts.append(dead + sum(p.numel() for p in group.parameters.values()))
    assert counts == [59_691_780, 62_247_684, 62_837_508, 63_623_940]
    assert [s.learning_rate for s in STAGES] == [2.5e-4, 1e-4, 5e-5, 2.5e-5]
    assert [(s.epochs, s.batch, s.reference_batch) for s in STAGES] == [(60, 80, 560), (20, 60, 420), (20, 60, 420),
                                                                       (20, 40, 280)]  # fmt: skip


def test_a_clip_of_open_clip_is_the_same_tower():
    """The shipped CLIP of tiny-clipvg, under the names of the transformers library."""
    options = ClipOptions(model="tiny-clip-120", pretrained="clipvg/weights/tiny-clipvg-clip.safetensors")
    clip, _ = open_model(options, make_context(PROJECT))
    sizes = {"patch": 12, "image_size": 120, "vision": 128, "vision_layers": 4, "vision_heads": 4, "text": 96,
             "text_layers": 3, "text_heads": 4, "embed": 96, "context": 32, "taps": (3,), "bridges": (), "states": (3,),
             "hidden": 16, "heads": 2, "layers": 1, "feedforward": 8, "inner": 8}  # fmt: skip
    network = HiVG(config_of(FIRST).model_copy(update=sizes)).eval()
    take_clip(network, of_open_clip(clip.state_dict()), "it")
    pixels, ids = torch.randn(2, 3, 120, 120), torch.randint(1, 400, (2, 32))
    ids[:, -1] = 49407
    with torch.no_grad():
        *_, last = network.clip.vision_model.finish(network.clip.vision_model.begin(pixels), ())
        got = network.compare(last[:, 0], network.encode_text(ids).features[:, -1])
        wanted = clip.encode_text(ids, normalize=True) @ clip.encode_image(pixels, normalize=True).T
        got = got / clip.logit_scale.exp()
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    with pytest.raises(WeightsError, match=r"it: its .* has the shape"):
        take_clip(HiVG(config_of(FIRST)), of_open_clip(clip.state_dict()), "it")


def test_what_it_saves_is_the_network_with_its_adapters_merged(job, tmp_path):
    made = HiVGTask(job())
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    made.save(tmp_path / "it.safetensors")
    network, batch = (
        checkpoint.open_network(tmp_path / "it.safetensors"),
        made.collate([made.dataset(False).sample(0, 0)]),
    )
    made.model.eval()
    ids, masked, text, image, _ = made.encoded(batch)
    wanted = made.model.box(made.model.fuse(image, masked, text.tokens, ids == 0)[:, 0])
    made.model = network
    got = made.losses(batch, torch.Generator())["boxes"]
    torch.testing.assert_close(got, wanted, atol=5e-3, rtol=0)
    assert not any("lora" in name for name, _ in network.named_parameters())
    again = HiVGTask(job("again", start_from=str(tmp_path / "it.safetensors"))).model.state_dict()
    assert sum("lora_A" in key for key in again) == 4 * (12 + 4 + 2)


@pytest.mark.slow
def test_killed_anywhere_a_stage_ends_in_the_same_bits(job):
    kills = [(OptimisationStep, "step", 2, False), (Trainer, "validate", 1, True), (Trainer, "finish", 1)]
    changes = {"text_adapters": True, "image_adapters": 2}
    assert stopped_and_resumed(lambda out: HiVGTask(job(out, **changes)), kills)[-1] == 8


def test_warmed_up_without_bridges_the_next_stage_has_new_ones(job, tmp_path):
    cold = HiVGTask(job(bridged=False))
    assert not any(".cross_" in name for name, _ in cold.model.named_parameters())
    cold.save(tmp_path / "cold.safetensors")
    warm = HiVGTask(job("warm", start_from=str(tmp_path / "cold.safetensors")))
    assert warm.model.config.bridges == FIRST.bridges
    assert torch.allclose(warm.model.reg_token.weight, cold.model.reg_token.weight, atol=1e-3)


def test_adapters_of_a_detector_are_taken(job, official, tmp_path):
    _, state = official()
    debiased = {f"base_model.model.{k.removeprefix('clip.')}": t for k, t in state.items() if k.startswith("clip.")
                and "cross" not in k}  # fmt: skip
    torch.save({"model": debiased}, tmp_path / "debiased.pth")
    key = "clip.text_model.encoder.layers.1.self_attn.q_proj.lora_B.default.weight"
    assert torch.equal(HiVGTask(job(adapters=str(tmp_path / "debiased.pth"))).model.state_dict()[key], state[key])
    torch.save({"model": {k: t for k, t in debiased.items() if "lora" not in k}}, tmp_path / "debiased.pth")
    with pytest.raises(WeightsError, match="no adapters for this network"):
        HiVGTask(job("other", adapters=str(tmp_path / "debiased.pth")))


def test_mistakes(job):
    with pytest.raises(SettingsError, match=r"train\.hivg.*stages"):
        task.training(job(stages=[{"epoks": 3}]))
    with pytest.raises(SettingsError, match="flip_share: masks are not mirrored"):
        HiVGTask(job(augment={"flip_share": 0.5}))
    with pytest.raises(WeightsError, match=r"clip_b_ml"):
        HiVGTask(job(adapters="clip_b_ml_cascade_maskrcnn_model_224.pth"))
