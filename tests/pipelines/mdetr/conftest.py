"""Small networks in the official layout, and a tokenizer in roberta-base's."""

import argparse
from dataclasses import replace
from functools import cache

import pytest
import torch
from training_world import SCENES, make_job  # noqa: F401 - a fixture

from pipelines.mdetr.config import ROBERTA_BASE, MdetrConfig
from pipelines.mdetr.model import Mdetr

BERT = ROBERTA_BASE | {"vocab_size": 340, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 64, "max_position_embeddings": 42}


def make_network(backbone, **sizes):
    """A small MDETR in eval mode; frozen norms get statistics of their own, as trained ones have."""
    torch.manual_seed(0)
    few = {"hidden": 64, "feedforward": 96, "encoder_layers": 2, "decoder_layers": 2, "queries": 9, "tokens": 40}
    config = MdetrConfig(backbone=backbone, contrastive=16, text_encoder=BERT, **(few | sizes))
    model = Mdetr(config).eval()
    for key, buffer in model.named_buffers():
        low = {"weight": 0.9, "running_var": 0.5}.get(key.rpartition(".")[2])
        if low is not None:
            buffer.uniform_(low, low + 0.5)
        elif key.endswith(("bias", "running_mean")):
            buffer.uniform_(-0.2, 0.2)
    torch.nn.init.normal_(model.transformer.text_encoder.embeddings.word_embeddings.weight)
    # At random every query looks everywhere and all give one answer: sharper ones give each its own.
    for key, parameter in model.named_parameters():
        if "decoder" in key and key.endswith("in_proj_weight"):
            parameter.data *= 4
        elif key.startswith(("class_embed", "bbox_embed")) and key.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.fixture(scope="session")
def network():
    """network(backbone="small"): one of each backbone a session."""

    @cache
    def get(backbone="small"):
        return make_network(backbone, **({"widths": (8, 12, 16)} if backbone == "small" else {}))

    return get


@pytest.fixture(scope="session")
def official(network, tmp_path_factory):
    """official(**changes): a file laid out as the published checkpoints are, with the network's weights as its EMA."""

    def write(**changes):
        ema = dict(network().state_dict())
        ema["transformer.text_encoder.embeddings.position_ids"] = torch.arange(42)[None]
        file = {
            "model": {k: torch.zeros_like(v) for k, v in ema.items()},
            "model_ema": ema,
            "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
            "epoch": 4,
            "args": argparse.Namespace(nheads=8, lr=1e-4, dataset_config="configs/refcoco.json", device="cuda"),
        }
        path = tmp_path_factory.mktemp("official") / "refcoco_small_checkpoint.pth"
        torch.save(file | changes, path)
        return path

    unchanged = cache(write)
    return lambda **changes: write(**changes) if changes else unchanged()


FEW = tuple(replace(scene, expressions=scene.expressions[:4]) for scene in SCENES)
SMALL = {
    "backbone": "small", "widths": [8, 16, 16], "hidden": 16, "heads": 2, "feedforward": 32, "encoder_layers": 1,
    "decoder_layers": 2, "queries": 4, "tokens": 31, "contrastive": 8,
    "text_encoder": ROBERTA_BASE | {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 40,
    },
}  # fmt: skip


@pytest.fixture
def job(make_job):  # noqa: F811
    """job(out, scenes, **changes of the recipe): 2 epochs of 4 steps of a network from nothing."""

    def make(out="out", scenes=FEW, **changes):
        recipe = {
            "start_from": "", "network": SMALL, "short": 64, "long": 120, "epochs": 2, "batch": 4, "reference_batch": 4,
            "learning_rate": 1e-3, "text_share": 1.0, "backbone_share": 1.0, "ema": 0.8, "workers": 0, "save_every": 3,
            "log_every": 1,
        }  # fmt: skip
        return make_job("mdetr", recipe | changes, out, scenes=scenes)

    return make
