"""Small networks with random weights, as files that the product opens and goes on from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch

from pipelines import weights
from pipelines.two_stage.clip.encoder import empty_model
from pipelines.two_stage.proposers import detr, ssd, yolo


def small_clip(model: str, texts: Iterable[str], seed: int) -> Any:
    """Return a CLIP of open_clip's table `model`; words that are in none of `texts` are zero, for a small file.

    They stay zero in training: they get no gradient.
    """
    torch.manual_seed(seed)
    clip = empty_model(model)
    used = open_clip.get_tokenizer(model)(sorted(set(texts))).unique()
    with torch.no_grad():
        rows = clip.token_embedding.weight[used].clone()
        clip.token_embedding.weight.zero_()
        clip.token_embedding.weight[used] = rows
    return clip


def write_clip(path: Path, model: str, texts: Iterable[str], seed: int) -> None:
    """Write a small CLIP."""
    weights.write_safetensors(path, small_clip(model, texts, seed).state_dict(), {})


def write_detr(
    path: Path, names: Sequence[str], seed: int, image_size: int, width: int, decoder_layers: int, queries: int
) -> None:
    """Write a small RT-DETRv2 (Lv et al., 2024), a ResNet of one basic block a stage and its maps at strides 16 and 32.

    Plain DETR needs hundreds of epochs; queries picked from the encoder's own best places and denoised boxes (Zhang et
    al., DINO, ICLR 2023) make a transformer of this size learn in a few.
    """
    torch.manual_seed(seed)
    levels, channels = 2, [width // 4, 3 * width // 4, width, 3 * width // 2]
    backbone = {
        "model_type": "rt_detr_resnet",
        "embedding_size": channels[0],
        "hidden_sizes": channels,
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_indices": [3, 4],
    }
    config = {
        "model_type": "rt_detr_v2",
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "backbone_config": backbone,
        "freeze_backbone_batch_norms": False,
        "encoder_in_channels": channels[-levels:],
        "feat_strides": [16, 32],
        "encode_proj_layers": [levels - 1],
        "encoder_hidden_dim": width,
        "encoder_ffn_dim": 2 * width,
        "encoder_attention_heads": 4,
        "hidden_expansion": 0.5,
        "d_model": width,
        "num_feature_levels": levels,
        "decoder_n_levels": levels,
        "decoder_in_channels": [width] * levels,
        "decoder_ffn_dim": 2 * width,
        "decoder_layers": decoder_layers,
        "decoder_attention_heads": 4,
        "num_queries": queries,
        "num_denoising": queries,
    }
    detr.write_model(path, detr.build(config), detr.square(image_size), {})


def write_ssd(path: Path, names: Sequence[str], seed: int, **plan: Any) -> None:
    """Write a small SSD; `plan` is what differs from the default plan (pipelines/two_stage/proposers/ssd.py)."""
    torch.manual_seed(seed)
    architecture = {"plan": plan}
    ssd.write_model(path, ssd.build(architecture, len(names), "shapes.toml"), architecture, names, {})


def write_yolo(path: Path, names: Sequence[str], seed: int, width: float) -> None:
    """Write a small YOLO11; `width` multiplies its channels of 32, 64, 128, 192 and 256. Raises MissingPackage."""
    yolo.ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(seed)
    plan = yolo_plan(width, len(names))
    state = DetectionModel(plan, ch=3, nc=len(names), verbose=False).state_dict()
    weights.write_safetensors(path, state, {"format": yolo.FORMAT, "plan": plan, "names": list(names)})


def yolo_plan(width: float, classes: int) -> dict[str, Any]:
    """Return ultralytics' model plan: rows of (from, repeats, module, arguments)."""

    def c(channels: int) -> int:
        return max(8, int(channels * width) // 8 * 8)

    def block(source: int, channels: int) -> list[Any]:
        return [source, 1, "C3k2", [c(channels), False]]

    def halve(source: int, channels: int) -> list[Any]:
        return [source, 1, "Conv", [c(channels), 3, 2]]

    double: list[Any] = [-1, 1, "nn.Upsample", [None, 2, "nearest"]]
    backbone = [halve(-1, 32), halve(-1, 64), block(-1, 64), halve(-1, 128), block(-1, 128)]
    backbone += [halve(-1, 192), block(-1, 192), halve(-1, 256), block(-1, 256), [-1, 1, "SPPF", [c(256), 5]]]
    head = [double, [[-1, 6], 1, "Concat", [1]], block(-1, 192)]
    head += [double, [[-1, 4], 1, "Concat", [1]], block(-1, 128)]
    head += [halve(-1, 128), [[-1, 12], 1, "Concat", [1]], block(-1, 192)]
    head += [halve(-1, 192), [[-1, 9], 1, "Concat", [1]], block(-1, 256)]
    head += [[[15, 18, 21], 1, "Detect", ["nc"]]]
    return {"nc": classes, "backbone": backbone, "head": head}
