"""Dynamic MDETR in training: the recipe, what is trained how, the start on CLIP, and that it resumes bit for bit."""

import pytest
import torch
import torch.nn.functional as F
from deconfounding import check_deconfounder
from training_world import stopped_and_resumed

from bench.errors import SettingsError, WeightsError
from bench.training import trainer
from bench.training.gradient_check import gradient_check
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer
from pipelines.dynamic_mdetr import task as task_module
from pipelines.dynamic_mdetr.network import DynamicMdetr, DynamicMdetrConfig
from pipelines.dynamic_mdetr.pipeline import dynamic_mdetr
from pipelines.dynamic_mdetr.task import DynamicMdetrTask, DynamicMdetrTraining, resized
from pipelines.transvg.recipe import TransVGTraining
from pipelines.two_stage.clip.encoder import empty_model


def test_the_default_config_is_transvgs_but_for_steps_and_clipping():
    ours, theirs = (
        kind().model_dump(exclude={"name", "network", "clip"}) for kind in (DynamicMdetrTraining, TransVGTraining)
    )
    different = {key: value for key, value in ours.items() if theirs.get(key) != value}
    assert different == {"reference_batch": 128, "clip_norm": 1.0, "clip_share": 0.1}


def test_parts_are_trained_as_in_the_official_code():
    """Numbers of the official code's groups, but for BERT's pooler and the last update, which get no gradient there."""
    task = DynamicMdetrTask.__new__(DynamicMdetrTask)
    task.config = DynamicMdetrTraining()
    with torch.device("meta"):
        task.model = DynamicMdetr(DynamicMdetrConfig())
    sizes = [(len(g.parameters), sum(p.numel() for p in g.parameters.values())) for g in task.parameter_groups()]
    update = 512 * 256 + 256 + 256 * 256 + 256
    assert sizes[0] == (162 - 4, 13_778_140 - update)
    assert sizes[1:] == [(42, 23_232_512), (74, 8_414_976), (197, 109_482_240 - 768 * 769)]


def test_points_start_spread_over_the_canvas():
    network = DynamicMdetr(DynamicMdetrConfig(points=64, **SMALLEST))
    for generator in network.offset_generators:
        assert (generator.weight == 0).all() and 0.4 < generator.bias.abs().max() <= 0.5
    assert network.init_reference_point.weight.tolist() == [[0.5, 0.5]]


SMALLEST = {
    "backbone": "small", "widths": [4, 4], "image_size": 32, "hidden": 16, "heads": 2, "feedforward": 16,
    "text_encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "encoder_layers": 1, "layers": 1,
}  # fmt: skip


def test_everything_that_is_trained_gets_a_gradient(job):
    """Offsets and queries of the earlier stages too, through the points alone."""
    task = DynamicMdetrTask(job())
    for generator in task.model.offset_generators:  # they start at 0, so that at first no query moves a point
        torch.nn.init.normal_(generator.weight, std=0.1)
    norms = gradient_check(task)["gradient_norms"]
    assert min(norm for name, norm in norms.items() if "key.bias" not in name) > 0
    assert (
        "update_sampling_queries.0.layers.0.weight" in norms
        and "update_sampling_queries.1.layers.0.weight" not in norms
    )
    assert "init_reference_point.weight" not in norms


def test_a_network_starts_from_a_clip(job, context, tmp_path, monkeypatch):
    clip = empty_model("tiny-clip-120")
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    sizes = {"image_size": 144, "feedforward": 32, "points": 4, "tokens": 12, "heads": 2, "layers": 1}
    start = {"model": "tiny-clip-120", "pretrained": str(tmp_path / "clip.pt")}
    task = DynamicMdetrTask(job(clip=start, network=sizes))
    config, state = task.model.config, task.model.state_dict()
    assert (config.backbone, config.points, config.hidden) == ("clip", 4, clip.text_projection.shape[1])
    assert torch.equal(state["clip.text_projection"], clip.text_projection)
    ids, padding = task.loaded.tokenizer(["red star " * 40])
    assert ids.shape == (1, 32) and padding.tolist() == [[False] * 12]  # as long as the tower takes
    assert len(state["clip.visual.positional_embedding"]) == 1 + (144 // config.clip["vision_cfg"]["patch_size"]) ** 2
    made = resized(clip.visual.positional_embedding.data, task.model.side)
    assert torch.equal(state["clip.visual.positional_embedding"], made) and config.clip["quick_gelu"]
    groups = task.parameter_groups()
    assert [g.lr_scale for g in groups] == [1.0, 0.1]
    assert all(name.startswith("clip.") for name in groups[1].parameters)
    assert "clip.logit_scale" not in groups[1].parameters
    task.save(tmp_path / "own.safetensors")
    with pytest.raises(SettingsError, match="no multiple of the patches"):
        DynamicMdetrTask(job(clip=start, network=sizes | {"image_size": 160}))
    monkeypatch.setattr(task_module, "open_model", lambda options, context: (torch.nn.Linear(2, 2), {}))
    with pytest.raises(WeightsError, match=r"clip\.model = RN50: .* such as ViT-B-16"):
        DynamicMdetrTask(job(clip=start | {"model": "RN50"}, network=sizes))
    opened = dynamic_mdetr(context("dynamic-mdetr", options={"weights": str(tmp_path / "own.safetensors")}))
    assert opened.network.config == config and "on clip at 144 px" in opened.card.summary


def test_positions_are_resized_as_by_the_official_code():
    """torch's bicubic, no antialias; the class token's row stays."""
    positions = torch.randn(1 + 9, 4)
    made = resized(positions, 5)
    square = positions[1:].view(3, 3, 4).permute(2, 0, 1)[None]
    wanted = torch.nn.Upsample(size=(5, 5), mode="bicubic", align_corners=False)(square)[0]
    assert torch.equal(made[0], positions[0]) and torch.allclose(made[1:].view(5, 5, 4).permute(2, 0, 1), wanted)
    assert F.mse_loss(made[1:].mean(0), positions[1:].mean(0)) < 0.1


@pytest.mark.slow
def test_killed_anywhere_it_ends_in_the_same_bits(job):
    kills = [(OptimisationStep, "step", 2, True), (trainer, "save", 1), (Trainer, "finish", 1)]
    assert stopped_and_resumed(lambda out: DynamicMdetrTask(job(out)), kills)[-1] == 8


@pytest.mark.slow
def test_with_a_red_style_deconfounder(job, context, tmp_path):
    def opened(path, **options):
        return dynamic_mdetr(context("dynamic-mdetr", dataset="shapes", options={"weights": str(path), **options}))

    check_deconfounder(lambda out, **changes: DynamicMdetrTask(job(out, **changes)), opened, tmp_path)
