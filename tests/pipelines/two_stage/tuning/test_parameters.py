"""What a recipe trains: layers and their rates, adapters, projections; of any CLIP of open_clip."""

import copy
from functools import cache

import pytest
import torch

from bench.errors import SettingsError
from pipelines import weights
from pipelines.two_stage.clip.encoder import empty_model
from pipelines.two_stage.tuning.lora import adapt, merged_state
from pipelines.two_stage.tuning.parameters import levels, parameter_groups
from pipelines.two_stage.tuning.recipe import ClipTraining, _by_size


@cache
def published(name):
    """An architecture of open_clip without weights, for its names."""
    return empty_model(name, device="meta")


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return empty_model("tiny-clip").eval()


def views(count=3):
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def names_of(groups):
    return {name: group.lr_scale for group in groups for name in group.parameters}


def test_layers_are_counted_from_the_top_of_each_tower(tiny):
    above = levels([name for name, _ in tiny.named_parameters()])
    expected = {
        "visual.conv1.weight": 4, "visual.class_embedding": 4, "visual.positional_embedding": 4,
        "visual.ln_pre.weight": 4, "visual.transformer.resblocks.0.attn.in_proj_weight": 3,
        "visual.transformer.resblocks.3.mlp.c_fc.weight": 0, "visual.ln_post.weight": 0, "visual.proj": 0,
        "token_embedding.weight": 3, "positional_embedding": 3, "transformer.resblocks.0.ln_1.bias": 2,
        "transformer.resblocks.2.ln_1.bias": 0, "ln_final.weight": 0, "text_projection": 0, "logit_scale": 0,
    }  # fmt: skip
    assert expected.items() <= above.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "expected"),
    [("RN50", {"visual.conv1.weight": 5, "visual.layer1.0.conv2.weight": 3, "visual.layer4.2.conv1.weight": 0,
               "visual.attnpool.positional_embedding": 0, "visual.attnpool.c_proj.weight": 0}),
     ("ViT-B-16-SigLIP2", {"visual.trunk.patch_embed.proj.weight": 12, "visual.trunk.pos_embed": 12,
                           "visual.trunk.blocks.11.attn.qkv.weight": 0, "visual.trunk.attn_pool.q.weight": 0,
                           "text.token_embedding.weight": 12, "text.transformer.resblocks.4.ln_1.weight": 7,
                           "text.text_projection.weight": 0, "logit_bias": 0})],
)  # fmt: skip
def test_layers_of_published_architectures(model, expected):
    above = levels([name for name, _ in published(model).named_parameters()])
    assert expected.items() <= above.items()


def test_deeper_layers_learn_more_slowly_and_only_matrices_decay(tiny):
    groups = parameter_groups(tiny, ClipTraining(train="all", layer_decay=0.5))
    rates = names_of(groups)
    assert rates.keys() == dict(tiny.named_parameters()).keys()
    assert rates["visual.proj"] == rates["logit_scale"] == 1 and rates["visual.conv1.weight"] == 0.5**4
    decayed = {name for group in groups if group.weight_decay is None for name in group.parameters}
    assert {"visual.proj", "transformer.resblocks.0.mlp.c_fc.weight"} <= decayed
    assert not {"logit_scale", "ln_final.weight", "visual.class_embedding"} & decayed


@pytest.mark.parametrize(
    ("train", "trained", "frozen"),
    [("last", {"visual.transformer.resblocks.3.ln_1.bias", "visual.proj", "text_projection", "logit_scale"},
      {"visual.transformer.resblocks.2.ln_1.bias", "token_embedding.weight"}),
     ("image", {"visual.conv1.weight", "logit_scale"}, {"text_projection", "token_embedding.weight"}),
     ("text", {"token_embedding.weight", "logit_scale"}, {"visual.proj"})],
)  # fmt: skip
def test_a_part_of_it(tiny, train, trained, frozen):
    rates = names_of(parameter_groups(tiny, ClipTraining(train=train)))
    assert trained <= rates.keys() and not frozen & rates.keys()


def test_the_projections_are_two_matrices(tiny):
    groups = parameter_groups(tiny, ClipTraining(train="projection"))
    assert names_of(groups).keys() == {"visual.proj", "text_projection"}
    with pytest.raises(SettingsError, match=r"RN50: train = projection needs a matrix.*train = last"):
        parameter_groups(published("RN50"), ClipTraining(train="projection", model="RN50"))


def test_batch_norm_stays_as_it_is():
    model = published("RN50")
    rates = names_of(parameter_groups(model, ClipTraining(train="all")))
    assert "visual.layer1.0.conv1.weight" in rates and "visual.attnpool.q_proj.weight" in rates
    assert not [name for name in rates if ".bn" in name or "downsample.1" in name]


@pytest.mark.parametrize(
    ("model", "train"), [("ViT-B-32", "all"), ("ViT-B-16", "all"), ("RN50", "all"), ("ViT-L-14", "lora"),
                         ("ViT-L-14-336", "lora"), ("RN50x16", "last"), ("tiny-clip", "all")],
)  # fmt: skip
def test_what_is_trained_where_nothing_is_named(model, train):
    assert _by_size(model) == train


def test_adapters_of_rank_nothing_and_fresh_ones_change_nothing(tiny):
    before = tiny.encode_image(views())
    for rank in (0, 4):
        adapted = copy.deepcopy(tiny)
        adapt(adapted, "tiny-clip", rank, 16.0, 0.5)
        assert torch.equal(adapted.encode_image(views()), before)


def test_merged_adapters_are_the_adapted_model_and_open_strictly(tiny, tmp_path):
    model = copy.deepcopy(tiny)
    made = adapt(model, "tiny-clip", 4, 8.0, 0.1)
    assert len(made) == 2 * 2 * (4 + 3)  # A and B, of q, k, v together and of out, in every block of both towers
    torch.manual_seed(2)
    for parameter in made.values():
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([[49406, 320, 736, 49407] + [0] * 28])
    with torch.no_grad():
        image, text = model.eval().encode_image(views(), normalize=True), model.encode_text(ids, normalize=True)
        merged = empty_model("tiny-clip").eval()
        weights.load_strictly(merged, merged_state(model.train()), "merged")
        assert not torch.allclose(tiny.encode_image(views(), normalize=True), image, atol=1e-2)
        torch.testing.assert_close(merged.encode_image(views(), normalize=True), image, rtol=0, atol=1e-5)
        torch.testing.assert_close(merged.encode_text(ids, normalize=True), text, rtol=0, atol=1e-5)
    assert model.training  # the merge had no dropout, and put it back


def test_only_adapters_get_gradients(tiny):
    model = copy.deepcopy(tiny).train()
    groups = parameter_groups(model, ClipTraining(train="lora", lora_rank=2))
    trained = {id(p) for group in groups for p in group.parameters.values()}
    model.requires_grad_(False)
    for group in groups:
        for parameter in group.parameters.values():
            parameter.requires_grad_(True)
            torch.nn.init.normal_(parameter)
    model.encode_image(views()).sum().backward()
    some = [p for p in model.parameters() if p.grad is not None and p.grad.any()]
    assert some and {id(p) for p in some} <= trained


@pytest.mark.slow
def test_a_resnet_has_no_attention_to_adapt():
    with pytest.raises(SettingsError, match="RN50x16: its image tower has no attention for train = lora"):
        adapt(published("RN50x16"), "RN50x16", 2, 4.0, 0.1)


@pytest.mark.slow
def test_adapters_find_the_attention_of_other_towers():
    model = copy.deepcopy(published("ViT-B-16-SigLIP2"))
    made = adapt(model, "ViT-B-16-SigLIP2", 2, 4.0, 0.1)
    assert made["visual.trunk.blocks.3.attn.qkv.lora_up"].shape == (3, 768, 2)
    assert made["visual.trunk.blocks.3.attn.proj.lora_up"].shape == (1, 768, 2)
    assert made["text.transformer.resblocks.0.attn.lora_up"].shape == (3, 768, 2)
