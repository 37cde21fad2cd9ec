"""Batch norms folded into convolutions: the same function, less rounding in 16 bits, none in training."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForObjectDetection

from pipelines.backbones import Backbone
from pipelines.folding import fold_norms

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1] * 4}
DETR = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "num_queries": 12}
DETR |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "backbone": None}
DETR |= {"backbone_config": RESNET | {"layer_type": "basic", "out_features": ["stage4"]}}


def sane(module):
    """A network in eval mode whose norms keep the scale of what they get, as trained ones do."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        if (mean := getattr(part, "running_mean", None)) is not None:
            mean.uniform_(-0.3, 0.3)
            part.running_var.uniform_(0.6, 1.4)
            part.weight.data.uniform_(0.3, 0.7)
            part.bias.data.uniform_(-0.2, 0.2)
    return module.eval()


def backbone(name):
    return sane(Backbone(name, (8, 12, 16)))


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "resnet101")]


@pytest.mark.parametrize("name", ["small", "resnet18", "tf_efficientnet_b3", *LARGE])
@torch.inference_mode()
def test_a_folded_backbone_computes_the_same(name):
    """Every norm is folded, an EfficientNet's activations stay, and features agree to float32's rounding."""
    plain = backbone(name)
    folded = copy.deepcopy(plain)
    assert fold_norms(folded) == sum("running_var" in key for key in plain.state_dict()) > 6
    assert not [key for key in folded.state_dict() if "running" in key]
    pixels = torch.randn(2, 3, 70, 64)
    expected = plain(pixels)
    assert (folded(pixels) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.slow
@torch.inference_mode()
def test_a_folded_network_rounds_less_in_bfloat16():
    plain = backbone("resnet50")
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    pixels = torch.randn(1, 3, 96, 96)
    expected = plain(pixels)

    def error(network):
        return float((network.bfloat16()(pixels.bfloat16()).float() - expected).norm() / expected.norm())

    assert error(folded) < 0.8 * error(plain)


@torch.inference_mode()
def test_a_detr_of_transformers_computes_the_same():
    plain = sane(AutoModelForObjectDetection.from_config(AutoConfig.for_model("detr", **DETR)))
    folded = copy.deepcopy(plain)
    assert fold_norms(folded) == sum("running_var" in key for key in plain.state_dict()) > 8
    pixels = torch.randn(2, 3, 64, 96)
    expected, out = plain(pixel_values=pixels), folded(pixel_values=pixels)
    torch.testing.assert_close(out.pred_boxes, expected.pred_boxes, atol=1e-6, rtol=0)


def test_a_norm_in_training_and_one_that_follows_no_convolution_stay():
    trained = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    apart = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert fold_norms(trained) == fold_norms(apart) == 0
