"""CLIP-VG's weights on disk: the official checkpoints, and this project's own small files.

An official file is a pickle of `model`, `optimizer`, `epoch`, `args` and more. It is read as plain tensors, with
argparse.Namespace the one class allowed, and mapped, so that the optimiser's part of it is never touched. It carries
its CLIP, and names it twice more: those aliases are dropped once they are found to agree (spec clipvg.md 6).

A file of ours holds what was trained, and in its metadata the name of the frozen CLIP and a hash of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from bench.errors import BenchError, UnknownName, WeightsError
from bench.grounding import PipelineContext
from bench.hashing import find_file
from clipvg.frozen import FrozenClip, causal_mask, empty_clip, open_frozen
from clipvg.network import OFFICIAL, POSITIONS, ClipVG, ClipVGConfig, resized_positions
from pipelines import hub, weights
from pipelines.canvas import STATISTICS, Style
from pipelines.two_stage.clip.encoder import ClipOptions

FORMAT = "bench-clipvg"
HUB_FILES = ("clipvg.safetensors", "model.safetensors", "best_checkpoint.pth")
HOW = (
    "the authors' checkpoints (best_checkpoint.pth of a folder per data set) are linked in the README of "
    "github.com/linhuixiao/CLIP-VG; `bench train --pipeline clipvg` makes one"
)
ALIASES = {"image_encoder_clip_vg.": "clip.visual.", "text_encoder_clip_vg.": "clip."}
DEAD = "visu_proj."  # in every official file, used by nothing


@dataclass(frozen=True, slots=True)
class Opened:
    """A network in eval mode, float32, and where it came from. `clip` says which CLIP is under it."""

    network: ClipVG
    path: Path
    style: Style
    clip: FrozenClip | None  # None: the file brought its own


def open_network(name: str, context: PipelineContext, clip: ClipOptions | None = None, image_size: int = 0) -> Opened:
    """The network that the file or hub id `name` holds. `clip` says where the CLIP of one of our files lies, if not
    where it lay in training; an `image_size` of its own interpolates the position embeddings.

    Raises WeightsError: what is missing and where to get it, or how the file differs from the network.
    """
    path = find(name, context)
    state: Mapping[str, Tensor]
    if path.suffix == ".safetensors":
        state, metadata = weights.read_safetensors(path)
        if metadata.get("format") == FORMAT:
            return _own(path, state, metadata, context, clip, image_size)
    else:
        state = _unpickled(path)
    network = official_network(state, path, image_size)
    return Opened(network, path, "official", None)


def find(name: str, context: PipelineContext) -> Path:
    """The file `name` points to: a path, a file in BENCH_HOME/weights, or OWNER/MODEL of the hub. WeightsError."""
    if find_file(name, context) is None and hub.is_id(name):
        return hub.find_weights(name, HUB_FILES, context, "CLIP-VG")
    return weights.find(name, context, HOW)


def official_network(state: Mapping[str, Tensor], path: Path, image_size: int = 0) -> ClipVG:
    """The network of an official state dict, loaded strictly. Raises WeightsError with the keys that differ."""
    state = _without_aliases({key.removeprefix("module."): tensor for key, tensor in state.items()}, path)
    config = _variant(state, path)
    with torch.device("meta"):  # drawing 170 million random numbers only to overwrite them would take seconds
        network = ClipVG(config, empty_clip(config.clip))
    # A copy: the file is mapped, and may be gone before the network is.
    whole = {key: tensor.to(torch.float32, copy=True) for key, tensor in state.items()}
    weights.load_strictly(network, whole, str(path), assign=True)
    network.clip.attn_mask = causal_mask(network.context)
    return at_size(network, image_size)


def at_size(network: ClipVG, image_size: int) -> ClipVG:
    """The network, in eval mode, for canvases of another size (0 = its own): position embeddings interpolated.

    Raises WeightsError for a size that is no whole number of patches.
    """
    patch = network.clip.visual.conv1.weight.shape[-1]
    if image_size in (0, network.config.image_size):
        return network.eval()
    if image_size % patch:
        near = max(1, round(image_size / patch)) * patch
        raise WeightsError(f"image_size = {image_size} is no multiple of the patch of {patch} pixels; take {near}")
    side, words = image_size // patch, 1 + network.context
    table = network.vl_pos_embed.weight.data
    resized = ClipVG(network.config.model_copy(update={"image_size": image_size}), network.clip)
    state = network.state_dict()
    state[POSITIONS] = resized.clip.visual.positional_embedding.data
    state["vl_pos_embed.weight"] = torch.cat([table[:words], resized_positions(table[words:], side)])
    resized.load_state_dict(state)
    return resized.eval()


def trained_state(network: ClipVG) -> dict[str, Tensor]:
    """What training changes: everything but CLIP, and of CLIP the visual position embedding."""
    return {k: t for k, t in network.state_dict().items() if not k.startswith("clip.") or k == POSITIONS}


def save_own(path: Path, network: ClipVG, clip: FrozenClip, style: Style, recipe: Mapping[str, Any]) -> None:
    """Writes a .safetensors of ours (float16); it appears whole or not at all. Raises RunError."""
    metadata = {
        "format": FORMAT,
        "config": network.config.model_dump(mode="json"),
        "clip": {"model": clip.options.model, "pretrained": clip.options.pretrained, "values_sha256": clip.values},
        "preprocessing": style,
        "recipe": dict(recipe),
    }
    weights.write_safetensors(path, trained_state(network), metadata)


def _own(
    path: Path,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    context: PipelineContext,
    options: ClipOptions | None,
    image_size: int,
) -> Opened:
    try:
        config = ClipVGConfig.model_validate(metadata["config"])
        said, style = metadata["clip"], metadata["preprocessing"]
        named = ClipOptions(model=said["model"], pretrained=said["pretrained"])
        wanted = said["values_sha256"]
        if style not in STATISTICS:
            raise ValueError(f"preprocessing {style!r}, which is none of {', '.join(STATISTICS)}")
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise WeightsError(f"{path}: its metadata is not that of a CLIP-VG ({weights.first_line(error)})") from None
    # Weights and their CLIP are moved together: it is looked for beside them, too, wherever it lay in training.
    beside = named.model_copy(update={"pretrained": str(path.parent / Path(named.pretrained).name)})
    frozen = _its_clip(path, config.clip, wanted, [options or named, named, beside], context)
    network = ClipVG(config, frozen.model)
    whole = {f"clip.{key}": tensor for key, tensor in frozen.model.state_dict().items()} | dict(state)
    weights.load_strictly(network, whole, str(path))
    return Opened(at_size(network, image_size), path, style, frozen)


def _its_clip(
    path: Path, model: str, wanted: str, places: Sequence[ClipOptions], context: PipelineContext
) -> FrozenClip:
    """The CLIP with the values that a file of ours was trained on, from the first of `places` that has it."""
    problem: BenchError | None = None
    for options in dict.fromkeys(places):
        try:
            frozen = open_frozen(options, context)
        except (WeightsError, UnknownName) as error:
            problem = problem or error
            continue
        if options.model == model and frozen.values == wanted:
            return frozen
        problem = problem or WeightsError(
            f"{path}: trained on the CLIP {model} {places[1].pretrained} with the values {wanted[:12]}, but "
            f"{options.model} {options.pretrained} has {frozen.values[:12]}; name the CLIP it was trained on in "
            f"[pipelines.{context.name}.clip]"
        )
    assert problem is not None
    raise problem


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    held = weights.read_checkpoint(path)
    state = held.get("model", held) if isinstance(held, dict) else held
    if not isinstance(state, dict) or not state or not all(_is_entry(*item) for item in state.items()):
        raise WeightsError(f"{path}: holds no weights of a CLIP-VG; expected a table of tensors under `model`")
    return state


def _is_entry(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _without_aliases(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state dict with every tensor under one name. Raises WeightsError when two names of one tensor disagree."""
    out = {}
    for key, tensor in state.items():
        alias = next((start for start in ALIASES if key.startswith(start)), None)
        if alias is None:
            if not key.startswith(DEAD):
                out[key] = tensor
            continue
        original = ALIASES[alias] + key.removeprefix(alias)
        if original not in state:
            raise WeightsError(f"{path}: it has {key} but not {original}, which is the same tensor in a whole file")
        same = state[original]
        if same.data_ptr() != tensor.data_ptr() and not torch.equal(same, tensor):
            raise WeightsError(
                f"{path}: {key} and {original} should be one tensor and are not; the file is no whole one"
            )
    return out


def _variant(state: Mapping[str, Tensor], path: Path) -> ClipVGConfig:
    """The sizes of a state dict, read off its shapes. Raises WeightsError for what is no ML-CLIP-VG."""
    first = state.get("clip.visual.conv1.weight")
    if first is None or first.ndim != 4:
        shown = ", ".join(list(state)[:4])
        raise WeightsError(f"{path}: no checkpoint of CLIP-VG: it has no clip.visual.conv1.weight (but {shown}, ...)")
    if "language_prompt" in state:
        raise WeightsError(f"{path}: a checkpoint of the ablation ML_CLIP_VG_PROMPT, which is not supported")
    if "ml_visu_proj.weight" not in state:
        raise WeightsError(f"{path}: a checkpoint of an ablation without multi-level features (no ml_visu_proj)")
    width, patch = first.shape[0], first.shape[-1]
    if (width, patch) not in OFFICIAL:
        known = ", ".join(config.clip.removesuffix("-quickgelu") for config in OFFICIAL.values())
        raise WeightsError(f"{path}: its image tower (width {width}, patch {patch}) is of no known variant: {known}")
    return OFFICIAL[width, patch]
