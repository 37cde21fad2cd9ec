"""HiVG's official checkpoints: the adapters merged, the names brought to one form, everything else strict.

A file of ours is a .safetensors of the same names, with the adapters, whose metadata has the sizes.

A stage of the authors' training wraps CLIP once more, so the keys of CLIP have `base_model.model.` up to four times. A
file names tensors that nothing uses; those are left out. Which states of the text tower a bridge takes is read off its
gate; only whether it takes them at all (`mixup_pretrain`) is in the file's arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.errors import WeightsError, first_line
from pipelines import weights
from pipelines.hivg.network import OFFICIAL, HiVG, HiVGConfig

NESTED = re.compile(r"^(base_model\.model\.)+")
DEAD = ("reg_pos_embed.", "condition_text_pos_embed.", "ml_text_feat_perceiver.")
FORMAT = "grounding-bench/hivg/1"
ALPHA = 16.0  # peft's lora_alpha: an adapter counts alpha / rank
FIRST = "clip.vision_model.embeddings.patch_embedding.weight"
STATES = {1: (12,), 2: (6, 12), 12: tuple(range(1, 13))}  # states a gate joins -> which
HOW = "the authors' checkpoints are linked in the README of github.com/linhuixiao/HiVG"


class Stored(NamedTuple):
    """A network's tensors, adapters beside their matrices, under the names of `HiVG`; and its sizes."""

    state: dict[str, Tensor]
    config: HiVGConfig


def open_network(path: Path, clip: Path | None = None) -> HiVG:
    """Open the network of an official file or one of ours, float32, in eval mode; `clip` is the CLIP file beside it.

    Raises WeightsError: what the file is instead, or how it differs from the network.
    """
    state, config = read(path, clip)
    with torch.device("meta"):
        network = HiVG(config)
    weights.load_strictly(network, merge_adapters(state, path), str(path), assign=True)
    return network.eval().requires_grad_(False)


def read(path: Path, clip: Path | None = None) -> Stored:
    """Read what a network is made of, without the tensors that nothing uses. Raises WeightsError."""
    if path.suffix == ".safetensors":
        state, metadata = weights.read_safetensors(path)
        try:
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            return Stored(state, HiVGConfig.model_validate(metadata["config"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path}: its metadata is not that of a HiVG ({first_line(error)})") from None
    state, mixup = read_official(path)
    if clip is not None:
        own = {f"clip.{key}": tensor for key, tensor in read_clip(clip).items()}
        state = {key: tensor for key, tensor in state.items() if not key.startswith("clip.")} | own
    config = variant(state, mixup, path)
    unused = (*DEAD, *([] if mixup and config.bridges else ["condition_text_proj."]))
    # The bridges of mixup take the text's features; what would mix states is in the file, too.
    mixing = ("cross_gate.", "cross_adaptive") if mixup else ()
    kept = {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith(unused) and not any(part in key for part in mixing)
    }
    return Stored(kept, config)


def save(path: Path, network: HiVG, recipe: Mapping[str, Any]) -> None:
    """Write a .safetensors of ours (float16), adapters as they are; it appears whole or not at all. Raises RunError."""
    config = network.config.model_dump(mode="json")
    metadata = {"format": FORMAT, "config": config, "recipe": dict(recipe)}
    weights.write_safetensors(path, network.state_dict(), metadata)


def read_official(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Read an official file -> its tensors, and whether it was trained with `--mixup_pretrain`. Raises WeightsError."""
    file = weights.read_checkpoint(path)
    state = _tensors(file, path)
    if not any(key.startswith("clip.") for key in state):
        if any(NESTED.sub("", key).startswith("vision_model.") for key in state):
            raise WeightsError(f"{path}: the CLIP alone of a HiVG; name best_checkpoint.pth, and this file as `clip`")
        some = ", ".join(list(state)[:4])
        raise WeightsError(f"{path}: not a checkpoint of HiVG: it has no clip.* (but {some}, ...); {HOW}")
    arguments = vars(file["args"]) if "args" in file and hasattr(file["args"], "__dict__") else {}
    own = _one_name({key.removeprefix("clip."): t for key, t in state.items() if key.startswith("clip.")}, path)
    rest = {key: t for key, t in state.items() if not key.startswith("clip.")}
    return rest | {f"clip.{key}": t for key, t in own.items()}, bool(arguments.get("mixup_pretrain"))


def read_clip(path: Path) -> dict[str, Tensor]:
    """Read `clip_lora_stage_with_bridge.pth`: CLIP with its bridge and adapters. Raises WeightsError."""
    state = _one_name(_tensors(weights.read_checkpoint(path), path), path)
    if FIRST.removeprefix("clip.") not in state:
        raise WeightsError(f"{path}: not the CLIP of a HiVG: it has no {FIRST.removeprefix('clip.')}")
    return state


def _tensors(file: Any, path: Path) -> dict[str, Tensor]:
    state = file.get("model", file) if isinstance(file, dict) else file
    entries = state.items() if isinstance(state, dict) else ()
    if not entries or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries):
        raise WeightsError(f"{path}: holds no weights of a HiVG; expected a table of tensors under `model`")
    return {key.removeprefix("module."): value for key, value in entries}


def _one_name(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Take peft's prefixes off the keys of CLIP, and drop its tables of positions."""
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = NESTED.sub("", key)
        if name in out:
            raise WeightsError(f"{path}: it has {name} at two levels of `base_model.model.`; the file is not whole")
        if not name.endswith(".position_ids"):
            out[name] = tensor
    return out


def merge_adapters(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Add each low-rank adapter to its matrix, W + alpha / rank * B A, in float32. Raises WeightsError."""
    out = {key: t.to(torch.float32, copy=True) for key, t in state.items() if ".lora_" not in key}
    for key, a in state.items():
        if ".lora_A." not in key:
            continue
        place, _, adapter = key.partition(".lora_A.")
        b, matrix = state.get(f"{place}.lora_B.{adapter}"), out.get(f"{place}.weight")
        if b is None or matrix is None or (b.shape[0], a.shape[1]) != tuple(matrix.shape) or b.shape[1] != len(a):
            raise WeightsError(f"{path}: {key} has no matrix and no lora_B of its shape; the file is not whole")
        matrix += ALPHA / len(a) * (b.float() @ a.float())
    return out


def variant(state: Mapping[str, Tensor], mixup: bool, path: Path) -> HiVGConfig:
    """Read the sizes off the shapes of a state dict. Raises WeightsError for what is no HiVG."""
    first = state.get(FIRST)
    if first is None or first.ndim != 4 or (first.shape[0], first.shape[-1]) not in OFFICIAL:
        shape = None if first is None else tuple(first.shape)
        raise WeightsError(f"{path}: no HiVG of B/16 or L/14 at 224 pixels: {FIRST} has the shape {shape}; {HOW}")
    config = OFFICIAL[first.shape[0], first.shape[-1]]
    blocks = "clip.vision_model.encoder.layers."
    bridged = sorted(int(key[len(blocks) :].split(".")[0]) for key in state if key.endswith(".cross_norm.weight"))
    if bridged and tuple(bridged) != config.bridges:
        raise WeightsError(f"{path}: bridges in blocks {bridged}; HiVG has them in {list(config.bridges)}")
    if not bridged or mixup:
        return config.model_copy(update={"bridges": tuple(bridged), "states": () if mixup else config.states})
    gate = state.get(f"{blocks}{bridged[0]}.cross_gate.weight")
    joined = 0 if gate is None else gate.shape[1] // config.text
    if joined not in STATES:
        raise WeightsError(f"{path}: its bridges join {joined} states of the text tower; known are 1, 2 and 12")
    return config.model_copy(update={"states": STATES[joined]})
