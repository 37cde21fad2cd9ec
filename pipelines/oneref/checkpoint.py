"""OneRef's official checkpoints: strict, but for the entries that only training uses; and files of our own.

A file of ours is a .safetensors whose metadata has the sizes, and the tokenizer's pieces where it has one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.errors import WeightsError, first_line
from bench.grounding import PipelineContext
from pipelines import weights
from pipelines.oneref.network import UNUSED, OneRef, OneRefConfig
from pipelines.oneref.tokenizer import HOW as SPM
from pipelines.oneref.tokenizer import SpmTokenizer

TRAINING = ("logit_scale", "text_proj.")  # in every file, used by nothing here
MASK = "beit3.vision_embed.mask_token"  # in every file, used by MRefM alone
FORMAT = "grounding-bench/oneref/1"
WIDTH = 64  # of an attention head, in both models
HOW = "the authors' checkpoints are linked in the README of github.com/linhuixiao/OneRef"


class Loaded(NamedTuple):
    """A network from the file `path` with its tokenizer, and the pieces of that where it is not BEiT-3's."""

    network: OneRef
    tokenizer: SpmTokenizer
    pieces: list[tuple[str, float]] | None = None
    path: Path = Path()


def open_network(name: str, tokenizer: str, context: PipelineContext, pretrained: bool = False) -> Loaded:
    """Open weights by name with their tokenizer: the file's own, or BEiT-3's of the name.

    `pretrained` takes a file of MRefM's pre-training too. Raises WeightsError.
    """
    path = weights.find(name, context, HOW)
    network, pieces = load(path)
    if network.config.codes and not pretrained:
        raise WeightsError(
            f"{path}: a checkpoint of MRefM's pre-training, whose box head is not trained; fine-tune it first: bench "
            f"train --pipeline {context.name} --set start_from={path}"
        )
    made = open_tokenizer(tokenizer, pieces, network.config, context)
    made.check_words(network.config.words, path)
    return Loaded(network, made, pieces, path)


def open_tokenizer(
    name: str, pieces: list[tuple[str, float]] | None, config: OneRefConfig, context: PipelineContext
) -> SpmTokenizer:
    """Make the tokenizer of pieces, or open BEiT-3's file. Raises WeightsError."""
    if pieces is not None:
        return SpmTokenizer.of_pieces(pieces, config.text)
    return SpmTokenizer(weights.find(name, context, SPM), config.text)


def save(path: Path, loaded: Loaded, recipe: Mapping[str, Any]) -> None:
    """Write a .safetensors of ours (float16); it appears whole or not at all. Raises RunError."""
    metadata = {
        "format": FORMAT,
        "config": loaded.network.config.model_dump(mode="json"),
        "pieces": loaded.pieces,
        "recipe": dict(recipe),
    }
    weights.write_safetensors(path, loaded.network.state_dict(), metadata)


def load_network(path: str | Path) -> OneRef:
    """Load the network of an official file (REC, RES or MRefM; base or large) or one of ours, float32, in eval mode.

    Its forward takes pixels (B, 3, 384, 384), token ids (B, L) and padding (B, L), True on pads, and returns boxes and
    masks (network.Answers). Raises WeightsError: what the file is instead, or how it differs from the network.
    """
    return load(Path(path))[0]


def load(path: Path) -> tuple[OneRef, list[tuple[str, float]] | None]:
    """Load a network as `load_network` does, and the pieces of its own tokenizer."""
    if path.suffix == ".safetensors":
        state, metadata = weights.read_safetensors(path)
        try:
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            config = OneRefConfig.model_validate(metadata["config"])
            pieces = metadata["pieces"] and [(str(name), float(score)) for name, score in metadata["pieces"]]
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path}: its metadata is not that of a OneRef ({first_line(error)})") from None
        return _loaded(state, config, path), pieces
    file = weights.read_checkpoint(path)
    state = file.get("model", file) if isinstance(file, dict) else file
    entries = state.items() if isinstance(state, dict) else ()
    if not entries or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries):
        raise WeightsError(f"{path}: holds no weights of a OneRef; expected a table of tensors under `model`")
    table = {key.removeprefix("module."): value for key, value in entries}
    config = variant(table, path)
    unused = TRAINING if config.codes else (*TRAINING, MASK)
    return _loaded({k: t for k, t in table.items() if not k.startswith(unused)}, config, path), None


def _loaded(state: Mapping[str, Tensor], config: OneRefConfig, path: Path) -> OneRef:
    own = {
        key: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for key, tensor in state.items()
    }
    with torch.device("meta"):
        network = OneRef(config)
    weights.load_strictly(network, own, str(path), assign=True)
    return network.eval().requires_grad_(False)


def variant(state: Mapping[str, Tensor], path: Path) -> OneRefConfig:
    """Read the sizes off the shapes of a state dict. Raises WeightsError for what is no OneRef."""
    words, patches = state.get("beit3.text_embed.weight"), state.get("beit3.vision_embed.proj.weight")
    rows = [state.get(f"beit3.encoder.embed_positions.{expert}.weight") for expert in "AB"]
    if words is None or patches is None or rows[0] is None or rows[1] is None:
        some = ", ".join(list(state)[:4])
        raise WeightsError(f"{path}: not a checkpoint of OneRef: it has no beit3.* tables (but {some}, ...); {HOW}")
    if "bbox_embed.layers.0.weight" not in state:
        raise WeightsError(f"{path}: BEiT-3 alone, without OneRef's heads; {HOW}")
    layers = {key.split(".")[3] for key in state if key.startswith("beit3.encoder.layers.")}
    side = round((len(rows[0]) - UNUSED - 1) ** 0.5)
    return OneRefConfig(
        width=words.shape[1],
        layers=len(layers),
        heads=max(1, words.shape[1] // WIDTH),
        image_size=side * patches.shape[-1],
        patch=patches.shape[-1],
        words=len(words),
        positions=len(rows[1]),
        masks="seg_conv1.weight" in state,
        codes=len(state.get("mim_head.weight", ())),
    )
