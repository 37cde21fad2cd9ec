"""Official files and our own: variants, strictness, messages, and the way there and back."""

import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import plain_dynamic_mdetr as plain
import plain_transvg
import pytest
import torch

from bench.errors import WeightsError
from bench.evaluation.opening import open_pipeline
from bench.settings import load_settings
from pipelines.dynamic_mdetr.network import DynamicMdetr, DynamicMdetrConfig
from pipelines.transvg import checkpoint
from pipelines.transvg.checkpoint import config_of, open_network, unpack

NOWHERE = Path("none.pth")


def empty(sizes):
    return {key: torch.empty(shape, device="meta") for key, shape in plain.shapes(sizes).items()}


@pytest.mark.parametrize(
    ("sizes", "keys", "numbers", "parameters"),
    [
        (plain.Sizes(), 701, 155_236_510, 155_130_270),
        (plain.Sizes(blocks=plain_transvg.R101), 956, 174_280_862, 174_070_174),
        (plain.ClipSizes(), 461, 205_343_687, 205_343_687),
        (plain.ClipSizes(tokens=80), 461, None, None),
        (plain.Sizes(tokens=40, points=16, stages=2), None, None, None),
    ],
)
def test_the_variant_is_read_off_the_shapes(sizes, keys, numbers, parameters):
    state = empty(sizes)
    assert keys in (None, len(state)) and numbers in (None, sum(math.prod(t.shape) for t in state.values()))
    config = config_of(DynamicMdetr, state, Namespace(), NOWHERE)
    assert (config.tokens, config.image_size, config.points, config.stages, config.layers) == (
        sizes.tokens, 640, sizes.points, sizes.stages, 3,
    )  # fmt: skip
    if plain.on_clip(sizes):
        assert (config.backbone, config.hidden, config.feedforward) == ("clip", 512, 4096)
    else:
        assert config == DynamicMdetrConfig(
            backbone=config.backbone, tokens=sizes.tokens, points=sizes.points, stages=sizes.stages
        )
    with torch.device("meta"):
        network = DynamicMdetr(config)
    assert {key: t.shape for key, t in network.state_dict().items()} == {key: t.shape for key, t in state.items()}
    assert parameters in (None, sum(p.numel() for p in network.parameters()))


def test_one_transformer_for_all_stages():
    state = {key: t for key, t in empty(plain.SMALL).items() if not key.startswith("vl_transformer")}
    names = {key: t for key, t in empty(plain.SMALL).items() if key.startswith("vl_transformer.0.")}
    state |= {key.replace("transformer.0.", "transformer."): t for key, t in names.items()}
    config = config_of(DynamicMdetr, state, Namespace(), NOWHERE)
    assert not config.own_transformers and config.stage_layers == (1, 1)
    with torch.device("meta"):
        assert DynamicMdetr(config).state_dict().keys() == state.keys()
    small = DynamicMdetr(DynamicMdetrConfig(**SMALLEST)).eval()
    inputs = torch.zeros(1, 3, 32, 32), torch.zeros(1, 64, dtype=torch.bool), torch.tensor([[0, 2]])
    assert small(*inputs, torch.zeros(1, 2, dtype=torch.bool)).shape == (1, 4)


SMALLEST = {
    "backbone": "small", "widths": [4, 4], "image_size": 32, "hidden": 16, "heads": 2, "feedforward": 16, "points": 2,
    "text_encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                     "vocab_size": 8},
    "encoder_layers": 1, "layers": 1, "stages": 2, "own_transformers": False,
}  # fmt: skip


def test_a_file_that_differs_is_refused_by_its_keys(official, tables, tmp_path):
    def refused(state, *parts):
        path = plain.write_official(tmp_path / "other.pth", state, plain.SMALL_CLIP)
        with pytest.raises(WeightsError) as caught:
            open_network(DynamicMdetr, str(path), "", official("clip"))
        for part in ("other.pth", *parts):
            assert part in str(caught.value), part

    state = tables["clip"]
    refused({k: t for k, t in state.items() if k != "init_content_feature.weight"}, "missing: init_content_feature")
    refused(state | {"initial_sampled_points": torch.zeros(1, 9, 2)}, "not known to the model: initial_sampled_points")
    refused({k: t for k, t in state.items() if not k.startswith("offset_")}, "not the weights of a Dynamic MDETR")
    with pytest.raises(WeightsError, match=r"github\.com/MCG-NJU/Dynamic-MDETR"):
        open_network(DynamicMdetr, "gone.pth", "", official("clip"))
    with pytest.raises(WeightsError, match="'bench-transvg', not 'bench-dynamic-mdetr'"):
        open_network(DynamicMdetr, "pipelines/weights/tiny-transvg.safetensors", "", official("clip"))


def test_our_own_file_has_sizes_and_style(official, files, tmp_path):
    """On CLIP: no tokenizer is needed, and the same boxes come from either file to float16."""
    loaded = open_network(DynamicMdetr, str(files["clip"]), "", official("clip"))
    checkpoint.save(tmp_path / "own.safetensors", replace(loaded, style="clean"), {"epochs": 1})
    _, config, about = unpack(DynamicMdetr, tmp_path / "own.safetensors")
    assert (config, about["preprocessing"]) == (loaded.network.config, "clean")
    again = open_network(DynamicMdetr, str(tmp_path / "own.safetensors"), "", official("clip"))
    assert again.tokenizer.limit == 12 and again.style == "clean"
    assert torch.equal(again.network.clip.attn_mask, loaded.network.clip.attn_mask)


def test_a_file_on_clip_opens_without_a_tokenizer(files):
    """As the commands open it: they look for every file that bench.toml names, before torch."""
    resolved = load_settings(flags={"run.device": "cpu"})
    opened = open_pipeline("dynamic-mdetr", "refcoco", resolved, {"weights": str(files["clip"])})
    assert "Dynamic MDETR on clip at 80 px" in opened.card.summary


def test_clean_preprocessing_masks_padding_on_clip(official, files):
    network = open_network(DynamicMdetr, str(files["clip"]), "", official("clip")).network
    raw, edges = torch.full((1, 80, 80, 3), 200, dtype=torch.uint8), torch.tensor([[0, 20, 80, 60]])
    (pixels, masked), (clean, clean_masked) = (network.inputs(raw, edges, style) for style in ("official", "clean"))
    assert not masked.any() and clean_masked.view(5, 5).all(dim=1).tolist() == [True, False, False, False, True]
    assert (pixels[0, :, 40, 40] != clean[0, :, 40, 40]).all() and (clean[0, :, 5] == 0).all()
