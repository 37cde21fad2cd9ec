"""Weights of the TransVG family: the official checkpoints, and this project's own small files.

An official file is a pickle of `model`, `optimizer`, `lr_scheduler`, `epoch`, `args` and `val_accu`. It is read as
plain tensors, with argparse.Namespace the one class allowed, and mapped, so that the optimiser's part of it is never
touched. The variant (backbone, length of texts) is read off the shapes; the number of heads, which leaves no trace in
them, off `args`. A file of ours is a .safetensors whose metadata has sizes, tokenizer and preprocessing.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from bench.errors import WeightsError, first_line
from bench.grounding import PipelineContext
from pipelines import weights
from pipelines.backbones import backbone_of, count_modules, text_encoder_of
from pipelines.canvas import STATISTICS, Style
from pipelines.deconfounder import attach_stored
from pipelines.transvg.branches import BERT_BASE, TEXT, VISUAL, Branches, BranchesConfig

BODY = f"{VISUAL}backbone.0.body."
ENCODER = f"{VISUAL}transformer.encoder.layers."
# Kept by some libraries, computed by others: they carry no training.
DEAD = (f"{TEXT}embeddings.position_ids", "num_batches_tracked")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network in eval mode with its tokenizer and style.

    `tokenizer_json` goes into a weights file; "" where the tokenizer has a name. `path` is the file.
    """

    network: Any  # a subclass of Branches
    tokenizer: Any  # as `network.tokenizer` opens it: a Tokenizer, or what takes its place
    style: Style
    tokenizer_json: str = ""
    path: Path = Path()


def open_network(kind: type[Branches], name: str, tokenizer: str, context: PipelineContext) -> Loaded:
    """Open a weights file of a network of the family.

    `tokenizer` names a folder or a hub id for a file that brings none. Raises WeightsError.
    """
    path = weights.find(name, context, kind.how)
    state, config, about = unpack(kind, path)
    table, style = about.get("tokenizer") or "", about.get("preprocessing", "official")
    opened = kind.tokenizer(table, tokenizer, config, context, path.name)
    return Loaded(build(kind, state, config, path), opened, style, table, path)


def save(path: Path, loaded: Loaded, recipe: Mapping[str, Any]) -> None:
    """Write a .safetensors of ours (float16); it appears whole or not at all. Raises RunError."""
    network: Branches = loaded.network
    metadata = {
        "format": network.format,
        "config": network.config.model_dump(mode="json"),
        "tokenizer": loaded.tokenizer_json or None,
        "preprocessing": loaded.style,
        "recipe": dict(recipe),
    }
    weights.write_safetensors(path, network.state_dict(), metadata)


def unpack(kind: type[Branches], path: Path) -> tuple[Mapping[str, Tensor], BranchesConfig, Mapping[str, Any]]:
    """Take a weights file apart: its tensors, the network's sizes, and its metadata ({} for an official one).

    Raises WeightsError for anything that is no weights of that kind of network.
    """
    if path.suffix != ".safetensors":
        return (*_official(kind, path), {})
    state, metadata = weights.read_safetensors(path)
    try:
        if metadata.get("format") != kind.format:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {kind.format!r}")
        if metadata["preprocessing"] not in STATISTICS:
            raise ValueError(f"preprocessing {metadata['preprocessing']!r}, none of {', '.join(STATISTICS)}")
        return state, kind.Config.model_validate(metadata["config"]), metadata
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise WeightsError(f"{path}: its metadata is not that of a {kind.title} ({first_line(error)})") from None


def build(kind: type[Branches], state: Mapping[str, Tensor], config: BranchesConfig, path: Path) -> Branches:
    """Build the network in eval mode, loaded strictly. Raises WeightsError with the keys that differ."""
    with torch.device("meta"):  # drawing 150 million random numbers only to overwrite them would take seconds
        network = kind(config)
        attach_stored(network, state)
    # A copy: the file is mapped, and may be gone before the network is.
    whole = {k: t.to(torch.float32, copy=True) if t.is_floating_point() else t.clone() for k, t in state.items()}
    weights.load_strictly(network, whole, str(path), assign=True)
    network.restore_tables()
    return network.eval()


def _official(kind: type[Branches], path: Path) -> tuple[Mapping[str, Tensor], BranchesConfig]:
    content = weights.read_checkpoint(path)
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise WeightsError(f"{path}: holds no weights of a {kind.title}; expected a table of tensors under `model`")
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    state = {key: tensor for key, tensor in state.items() if not key.endswith(DEAD) or f"{BODY}stages." in key}
    args = content.get("args") if content is not state else None
    return state, config_of(kind, state, args if isinstance(args, Namespace) else Namespace(), path)


def config_of(kind: type[Branches], state: Mapping[str, Tensor], args: Namespace, path: Path) -> BranchesConfig:
    """Find the sizes of a table under the official key names. Raises WeightsError, naming `path`, when it is none."""
    try:
        own = kind.own_sizes(state, args)
        # A network on other branches finds all sizes itself.
        return kind.Config.model_validate(own if "image_size" in own else _branches(kind, state, args) | own)
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: not the weights of a {kind.title}, or only a part of them ({first_line(error)})"
        ) from None


def _branches(kind: type[Branches], state: Mapping[str, Tensor], args: Namespace) -> dict[str, Any]:
    """Find the sizes of ResNet, DETR's encoder and BERT. Raises KeyError, ValueError."""
    if (layers := getattr(args, "bert_enc_num", 12)) != 12:
        raise ValueError(f"it takes its text tokens from BERT's layer {layers}; only the last one is supported")
    backbone, widths = backbone_of(state, BODY)
    slots, hidden = state["vl_pos_embed.weight"].shape
    side, tokens = _grid(slots - kind.registers, getattr(args, "max_query_len", None))
    return {
        "backbone": backbone,
        "widths": widths,
        "image_size": side * (2 ** len(widths) if widths else 32),
        "hidden": hidden,
        "heads": getattr(args, "nheads", 8),
        "feedforward": len(state[f"{ENCODER}0.linear1.weight"]),
        "encoder_layers": count_modules(state, ENCODER),
        "tokens": tokens,
        "text_encoder": BERT_BASE | text_encoder_of(state, TEXT),
    }


def _grid(slots: int, tokens: int | None) -> tuple[int, int]:
    """Part slots into a square of cells and the text's tokens -> (side, tokens). Raises ValueError.

    420 is 20 x 20 and 20, 440 is 20 x 20 and 40: the largest square that leaves a text three tokens, unless `tokens`,
    the file's own word, leaves a square too.
    """
    if isinstance(tokens, int) and slots > tokens > 0 and math.isqrt(slots - tokens) ** 2 == slots - tokens:
        return math.isqrt(slots - tokens), tokens
    if slots < 4:
        raise ValueError(f"{slots} slots of text and image in vl_pos_embed")
    side = math.isqrt(slots - 3)
    return side, slots - side**2
