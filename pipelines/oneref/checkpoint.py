"""OneRef's official checkpoints: strict, but for the entries that only training uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import WeightsError
from pipelines import weights
from pipelines.oneref.network import UNUSED, OneRef, OneRefConfig

TRAINING = ("logit_scale", "text_proj.", "beit3.vision_embed.mask_token")  # in every file, of no use to a prediction
PRETRAINING = ("mim_head.", "mlm_head.")  # MRefM's
WIDTH = 64  # of an attention head, in both models
HOW = "the authors' checkpoints are linked in the README of github.com/linhuixiao/OneRef"


def load_network(path: str | Path) -> OneRef:
    """Load the network of an official file (REC or RES, base or large), float32, in eval mode.

    Its forward takes pixels (B, 3, 384, 384), token ids (B, L) and padding (B, L), True on pads, and returns boxes and
    masks (network.Answers). Raises WeightsError: what the file is instead, or how it differs from the network.
    """
    path = Path(path)
    file = weights.read_checkpoint(path)
    state = file.get("model", file) if isinstance(file, dict) else file
    entries = state.items() if isinstance(state, dict) else ()
    if not entries or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries):
        raise WeightsError(f"{path}: holds no weights of a OneRef; expected a table of tensors under `model`")
    table = {key.removeprefix("module."): value for key, value in entries}
    config = variant(table, path)
    own = {
        key: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for key, tensor in table.items()
        if not key.startswith(TRAINING)
    }
    with torch.device("meta"):
        network = OneRef(config)
    weights.load_strictly(network, own, str(path), assign=True)
    return network.eval().requires_grad_(False)


def variant(state: Mapping[str, Tensor], path: Path) -> OneRefConfig:
    """Read the sizes off the shapes of a state dict. Raises WeightsError for what is no fine-tuned OneRef."""
    words, patches = state.get("beit3.text_embed.weight"), state.get("beit3.vision_embed.proj.weight")
    rows = [state.get(f"beit3.encoder.embed_positions.{expert}.weight") for expert in "AB"]
    if words is None or patches is None or rows[0] is None or rows[1] is None:
        some = ", ".join(list(state)[:4])
        raise WeightsError(f"{path}: not a checkpoint of OneRef: it has no beit3.* tables (but {some}, ...); {HOW}")
    if any(key.startswith(PRETRAINING) for key in state):
        raise WeightsError(f"{path}: a checkpoint of MRefM's pre-training, whose box head is not trained; {HOW}")
    if "bbox_embed.layers.0.weight" not in state:
        raise WeightsError(f"{path}: BEiT-3 alone, without OneRef's heads; {HOW}")
    layers = {int(key.split(".")[3]) for key in state if key.startswith("beit3.encoder.layers.")}
    side = round((len(rows[0]) - UNUSED - 1) ** 0.5)
    return OneRefConfig(
        width=words.shape[1],
        layers=1 + max(layers, default=-1),
        heads=max(1, words.shape[1] // WIDTH),
        image_size=side * patches.shape[-1],
        patch=patches.shape[-1],
        words=len(words),
        positions=len(rows[1]),
        masks="seg_conv1.weight" in state,
    )
