"""Weights files: the official layout, plain tables, our own; and everything that is none of them."""

import argparse
from pathlib import Path

import pytest
import torch

from bench.errors import WeightsError
from pipelines.backbones import RESNETS
from pipelines.mdetr import checkpoint
from pipelines.mdetr.checkpoint import config_of, unpack
from pipelines.mdetr.config import ROBERTA_BASE, MdetrConfig
from pipelines.mdetr.model import Mdetr
from pipelines.tokens import small_tokenizer
from pipelines.weights import write_safetensors

WORDS = small_tokenizer(["the red star"], 40)
BERT = ROBERTA_BASE | {"num_hidden_layers": 2, "vocab_size": 30}
POSITIONS = "transformer.text_encoder.embeddings.position_ids"


def same(model, other):
    theirs = dict(other.state_dict())
    return model.state_dict().keys() == theirs.keys() and all(
        torch.equal(v, theirs[k]) for k, v in model.state_dict().items()
    )


def built(path):
    state, config, _ = unpack(path)
    return checkpoint.build(path, state, config)


@pytest.mark.slow
def test_the_official_layout(context, network, official, roberta_folder):
    opened = checkpoint.open_network(official(), str(roberta_folder), context())
    model = opened.network
    assert same(model, network()) and not model.training
    assert opened.tokenizer_json == "" and opened.sizes == (800, 1333)
    assert opened.note == f"model_ema, without {POSITIONS}"
    _, config, about = unpack(official())
    assert about == {"part": "model_ema", "dropped": (POSITIONS,)} and config == network().config
    for name, buffer in network().named_buffers():  # RoBERTa's fixed tables, which no file holds, are there too
        assert torch.equal(dict(model.named_buffers())[name], buffer), name


@pytest.mark.slow
def test_without_an_average_the_model_itself_is_taken(network, official):
    path = official(model=network().state_dict(), model_ema=None)
    assert unpack(path)[2]["part"] == "model" and same(built(path), network())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["small", *RESNETS.values(), *(f"tf_efficientnet_b{i}" for i in (0, 1, 3, 5))])
def test_sizes_are_read_off_the_shapes(backbone):
    config = MdetrConfig(backbone=backbone, widths=(8, 12) if backbone == "small" else (), text_encoder=BERT, queries=7)
    with torch.device("meta"):
        assert config_of(Mdetr(config).state_dict(), 8, Path("x")) == config


@pytest.mark.slow
def test_plain_tables(network, tmp_path):
    state = network().state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "plain.pth")
    assert same(built(tmp_path / "plain.pth"), network())
    torch.save(state | {"backbone.0.body.bn1.num_batches_tracked": torch.tensor(3)}, tmp_path / "counted.pth")
    assert unpack(tmp_path / "counted.pth")[2]["dropped"] == ("backbone.0.body.bn1.num_batches_tracked",)
    write_safetensors(tmp_path / "plain.safetensors", state, {})
    model = built(tmp_path / "plain.safetensors")
    halves = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
    assert all(torch.equal(v, halves[k]) for k, v in model.state_dict().items())


@pytest.mark.slow
def test_a_file_of_ours_says_all_itself(context, network, tmp_path):
    network = network()
    metadata = {"format": "bench-mdetr", "config": network.config.model_dump(), "tokenizer": WORDS}
    path = tmp_path / "tiny.safetensors"
    write_safetensors(path, network.state_dict(), metadata | {"short": 192, "long": 256})
    opened = checkpoint.open_network("tiny.safetensors", "nobody/asks-for-it", context(folder=tmp_path))
    assert opened.network.config == network.config
    assert (opened.tokenizer_json, opened.sizes, len(opened.tokenizer)) == (WORDS, (192, 256), 7)
    write_safetensors(path, network.state_dict(), metadata)
    with pytest.raises(WeightsError, match=r"tiny\.safetensors: its metadata is not that of a small MDETR.*short"):
        unpack(path)
    write_safetensors(path, network.state_dict(), metadata | {"short": 1, "long": 2, "config": {"layers": 3}})
    with pytest.raises(WeightsError, match="its metadata is not"):
        unpack(path)


def test_no_file_says_where_to_get_one(context):
    with pytest.raises(WeightsError, match=r"(?s)refcoco_EB3_checkpoint\.pth.*weights.*zenodo\.org/records/4721981"):
        checkpoint.open_network("refcoco_EB3_checkpoint.pth", "roberta-base", context())


@pytest.mark.slow
def test_a_part_of_the_weights_is_named(network, official):
    state = network().state_dict()
    del state["bbox_embed.layers.2.bias"]
    with pytest.raises(WeightsError, match=r"missing: bbox_embed\.layers\.2\.bias"):
        built(official(model_ema=state))
    del state["query_embed.weight"]
    with pytest.raises(WeightsError, match=r"not the weights of an MDETR, or only a part.*query_embed\.weight"):
        unpack(official(model_ema=state))


def test_other_architectures_and_an_unknown_backbone(network, tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not the weights of an MDETR"):
        unpack(tmp_path / "other.pth")
    for key, task in (("answer_type_head.weight", "question answering"), ("detr.class_embed.weight", "segmentation")):
        torch.save(network().state_dict() | {key: torch.zeros(2)}, tmp_path / "task.pth")
        with pytest.raises(WeightsError, match=f"a checkpoint for {task}"):
            unpack(tmp_path / "task.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds no weights of an MDETR"):
        unpack(tmp_path / "list.pth")
    state = {k: v for k, v in network("resnet18").state_dict().items() if "body.layer3.1" not in k}
    with pytest.raises(WeightsError, match=r"no known backbone.*\(2, 2, 1, 2\)"):
        config_of(state, 8, Path("x"))
    state = {k: v for k, v in network("tf_efficientnet_b0").state_dict().items() if "body.blocks.6" not in k}
    with pytest.raises(WeightsError, match="no EfficientNet ends in 0 blocks of 320 channels"):
        config_of(state, 8, Path("x"))


def test_the_heads_of_the_file_are_taken(network, official):
    _, config, _ = unpack(official(args=argparse.Namespace(nheads=4)))
    assert config == MdetrConfig(**network().config.model_dump() | {"heads": 4})
