"""The layout of the official checkpoints, read and written.

An official file is a pickle of `model`, `optimizer`, `epoch`, `args` and more. It carries its CLIP, and names it twice
more: those aliases are dropped once they are known to agree. The official code loads a file of this layout with
`--resume` or in its evaluation.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.errors import UnknownName, UsageError, WeightsError
from bench.runs.files import write_atomically
from clipvg.network import OFFICIAL, ClipVG, ClipVGConfig, check_clip
from pipelines import weights
from pipelines.two_stage.clip.encoder import empty_model, open_clip

ALIASES = {"image_encoder_clip_vg.": "clip.visual.", "text_encoder_clip_vg.": "clip."}
DEAD = "visu_proj."  # in every official file, used by nothing
DEAD_WIDTH = 512  # in every variant
NAMES = {"ViT-B-16-quickgelu": "ViT-B/16", "ViT-B-32-quickgelu": "ViT-B/32", "ViT-L-14-quickgelu": "ViT-L/14"}


def official_network(state: Mapping[str, Tensor], path: Path) -> ClipVG:
    """Load the network of an official state dict, strictly. Raises WeightsError with the keys that differ."""
    # 1. One name a tensor, and the variant's architecture without weights.
    state = _without_aliases({key.removeprefix("module."): tensor for key, tensor in state.items()}, path)
    config = _variant(state, path)
    if config.clip not in open_clip.list_models():
        raise UnknownName("open_clip model", config.clip, open_clip.list_models())
    with torch.device("meta"):  # drawing 170 million random numbers only to overwrite them would take seconds
        clip = empty_model(config.clip, device="meta")
        check_clip(clip, config.clip)
        network = ClipVG(config, clip.eval().requires_grad_(False))
    # 2. Its weights. A copy: the file is mapped, and may be gone before the network is.
    whole = {key: tensor.to(torch.float32, copy=True) for key, tensor in state.items()}
    weights.load_strictly(network, whole, str(path), assign=True)
    # 3. The mask of CLIP's text tower is in no file: a word attends to none after it.
    network.clip.attn_mask = torch.full((network.context, network.context), -torch.inf).triu(1)
    return network


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
                f"{path}: {key} and {original} should be the same tensor and are not; the file is not complete"
            )
    return out


def _variant(state: Mapping[str, Tensor], path: Path) -> ClipVGConfig:
    """The sizes of a state dict, by its shapes. Raises WeightsError for what is no ML-CLIP-VG."""
    first = state.get("clip.visual.conv1.weight")
    if first is None or first.ndim != 4:
        some = ", ".join(list(state)[:4])
        raise WeightsError(f"{path}: not a checkpoint of CLIP-VG: it has no clip.visual.conv1.weight (but {some}, ...)")
    if "language_prompt" in state:
        raise WeightsError(f"{path}: a checkpoint of the ablation ML_CLIP_VG_PROMPT, which is not supported")
    if "ml_visu_proj.weight" not in state:
        raise WeightsError(f"{path}: a checkpoint of an ablation without multi-level features (no ml_visu_proj)")
    width, patch = first.shape[0], first.shape[-1]
    if (width, patch) not in OFFICIAL:
        known = ", ".join(config.clip.removesuffix("-quickgelu") for config in OFFICIAL.values())
        raise WeightsError(f"{path}: its image tower (width {width}, patch {patch}) is of no known variant: {known}")
    return OFFICIAL[width, patch]


def write_official(network: ClipVG, name: str, out: Path) -> None:
    """Write a network as an official checkpoint.

    Raises UsageError, with the weights' `name`, for a network that the official code cannot build, and RunError.
    """
    if network.deconfounder.label:
        raise UsageError(f"--official: the official code has no deconfounder, and {name} has one")
    config = network.config
    if config not in OFFICIAL.values():
        raise UsageError(
            f"--official: the official code builds {', '.join(NAMES.values())} at 224 pixels; "
            f"{name} is {config.clip} at {config.image_size}"
        )
    # No `args`: torch.load refuses a Namespace where it trusts no file, and the official code never reads it.
    file = io.BytesIO()
    torch.save({"model": official_state(network), "epoch": 0, "val_accu": 0.0}, file)
    write_atomically(out, file.getvalue())


def official_state(network: ClipVG) -> dict[str, Tensor]:
    """Return the official state dict: CLIP's matrices in float16, its aliases, and the dead `visu_proj`."""
    state = network.state_dict()
    for name in _half(network.clip):
        state[f"clip.{name}"] = state[f"clip.{name}"].half()
    for alias, original in ALIASES.items():
        known = {k: t for k, t in state.items() if k.startswith(original)}
        names = {k: k.removeprefix(original) for k in known}
        if original == "clip.":  # the text tower's own: what is neither the image tower's nor the scale
            names = {k: n for k, n in names.items() if not n.startswith("visual.") and n != "logit_scale"}
        state |= {alias + name: known[key] for key, name in names.items()}
    hidden = network.config.hidden
    return state | {"visu_proj.weight": torch.zeros(hidden, DEAD_WIDTH), "visu_proj.bias": torch.zeros(hidden)}


def _half(clip: nn.Module) -> set[str]:
    """The parameters that the official CLIP keeps in float16 on a GPU: convolutions, linear maps, projections."""
    names = {"text_projection", "visual.proj"}
    for prefix, module in clip.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            names |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return names
