"""CLIP-VG's weights on disk: the official checkpoints (official.py), and this project's own small files.

A pickle is read as plain tensors, with argparse.Namespace the one class allowed, and mapped, so that the optimiser's
part of it is never touched. A file of ours has what was trained, and in its metadata the name of the frozen CLIP and a
hash of its weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from bench.errors import BenchError, UnknownName, WeightsError, first_line
from bench.fetching.sources import source_of
from bench.grounding import PipelineContext
from bench.hashing import find_file
from clipvg.network import POSITIONS, ClipVG, ClipVGConfig, check_clip, resized_positions
from clipvg.official import official_network
from pipelines import hub, weights
from pipelines.canvas import STATISTICS, Style
from pipelines.deconfounder import attach_stored
from pipelines.two_stage.clip.encoder import ClipOptions, open_model

FORMAT = "bench-clipvg"
HUB_FILES = ("clipvg.safetensors", "model.safetensors", "best_checkpoint.pth")
HOW = (
    "the authors' checkpoints (best_checkpoint.pth of a folder per data set) are linked in the README of "
    "github.com/linhuixiao/CLIP-VG; `bench train --pipeline clipvg` makes one"
)


# Which CLIP is under a network: the options that open it, and the hash of its values.
ClipSource = tuple[ClipOptions, str]
# A network in eval mode, float32, its style, and its CLIP; None where the file brought its own.
OpenedNetwork = tuple[ClipVG, Style, ClipSource | None]


def open_frozen(options: ClipOptions, context: PipelineContext) -> tuple[Any, str]:
    """Open the CLIP that `options` name, in float32, and hash its values. Raises WeightsError, UnknownName."""
    model, _ = open_model(options, replace(context, dtype="float32"))
    check_clip(model, options.model)
    return model.eval().requires_grad_(False), values_hash(model.state_dict())


def open_network(
    path: Path, context: PipelineContext, clip: ClipOptions | None = None, image_size: int = 0
) -> OpenedNetwork:
    """Open the network of a file.

    `clip` says where the CLIP of one of our files lies, if not where it lay in training; another `image_size`
    interpolates the position embeddings.

    Raises WeightsError: what is missing and where to get it, or how the file differs from the network.
    """
    state: Mapping[str, Tensor]
    if path.suffix == ".safetensors":
        state, metadata = weights.read_safetensors(path)
        if metadata.get("format") == FORMAT:
            return _own(path, state, metadata, context, clip, image_size)
    else:
        state = _unpickled(path)
    return at_size(official_network(state, path), image_size), "official", None


def find(name: str, context: PipelineContext) -> Path:
    """Find the file `name` points to: a path, a file in BENCH_HOME/weights, or OWNER/MODEL of the hub. WeightsError."""
    source = source_of(name, "", context, weights.option_of(name, context))
    if source.hub and find_file(name, context) is None:
        return hub.find_weights(source._replace(files=source.files or HUB_FILES), context, "CLIP-VG")
    return weights.find(name, context, HOW)


def at_size(network: ClipVG, image_size: int) -> ClipVG:
    """Fit a network to canvases of another size (0 = its own), in eval mode: position embeddings are interpolated.

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
    resized.deconfounder = network.deconfounder
    state = network.state_dict()
    state[POSITIONS] = resized.clip.visual.positional_embedding.data
    state["vl_pos_embed.weight"] = torch.cat([table[:words], resized_positions(table[words:], side)])
    resized.load_state_dict(state)
    return resized.eval()


def trained_state(network: ClipVG) -> dict[str, Tensor]:
    """Return what training changes: everything but CLIP, and of CLIP the visual position embedding."""
    return {k: t for k, t in network.state_dict().items() if not k.startswith("clip.") or k == POSITIONS}


def save_own(path: Path, network: ClipVG, clip: ClipSource, style: Style, recipe: Mapping[str, Any]) -> None:
    """Write a .safetensors of ours (float16); it appears whole or not at all. Raises RunError."""
    options, values = clip
    metadata = {
        "format": FORMAT,
        "config": network.config.model_dump(mode="json"),
        "clip": {"model": options.model, "pretrained": options.pretrained, "values_sha256": values},
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
) -> OpenedNetwork:
    try:
        config = ClipVGConfig.model_validate(metadata["config"])
        clip, style = metadata["clip"], metadata["preprocessing"]
        named = ClipOptions(model=clip["model"], pretrained=clip["pretrained"])
        wanted = clip["values_sha256"]
        if style not in STATISTICS:
            raise ValueError(f"preprocessing {style!r}, which is none of {', '.join(STATISTICS)}")
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise WeightsError(f"{path}: its metadata is not that of a CLIP-VG ({first_line(error)})") from None
    # Weights and their CLIP are moved together: it is looked for beside them, too, wherever it lay in training.
    beside = named.model_copy(update={"pretrained": str(path.parent / Path(named.pretrained).name)})
    frozen, source = _its_clip(path, config.clip, wanted, [options or named, named, beside], context)
    network = ClipVG(config, frozen)
    attach_stored(network, state)
    whole = {f"clip.{key}": tensor for key, tensor in frozen.state_dict().items()} | dict(state)
    weights.load_strictly(network, whole, str(path))
    return at_size(network, image_size), style, (source, wanted)


def _its_clip(
    path: Path, model: str, wanted: str, places: Sequence[ClipOptions], context: PipelineContext
) -> tuple[Any, ClipOptions]:
    """The CLIP with the values that a file of ours was trained on, from the first of `places` that has it."""
    problem: BenchError | None = None
    for options in dict.fromkeys(places):
        try:
            frozen, values = open_frozen(options, context)
        except (WeightsError, UnknownName) as error:
            problem = problem or error
            continue
        if options.model == model and values == wanted:
            return frozen, options
        problem = problem or WeightsError(
            f"{path}: trained on the CLIP {model} {places[1].pretrained} with the values {wanted[:12]}, but "
            f"{options.model} {options.pretrained} has {values[:12]}; name the CLIP it was trained on in "
            f"[pipelines.{context.name}.clip]"
        )
    assert problem is not None
    raise problem


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    file = weights.read_checkpoint(path)
    state = file.get("model", file) if isinstance(file, dict) else file
    entries = state.items() if isinstance(state, dict) else ()
    if not entries or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries):
        raise WeightsError(f"{path}: holds no weights of a CLIP-VG; expected a table of tensors under `model`")
    return dict(entries)


def values_hash(state: Mapping[str, Tensor]) -> str:
    """Hash a CLIP's weights, rounded to float16: the same whatever file and number type they came from.

    Without the one tensor that CLIP-VG trains.
    """
    out = hashlib.sha256()
    for key in sorted(state):
        if f"clip.{key}" != POSITIONS:
            out.update(f"{key} {tuple(state[key].shape)};".encode())
            out.update(state[key].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return out.hexdigest()
