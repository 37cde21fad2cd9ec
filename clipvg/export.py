"""A CLIP-VG in the layout of the official code, which loads the file with `--resume` or in its evaluation."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.errors import UsageError
from bench.grounding import PipelineContext
from bench.runs.files import write_atomically
from clipvg.checkpoint import ALIASES, open_network
from clipvg.network import OFFICIAL, ClipVG
from clipvg.pipeline import options_of

NAMES = {"ViT-B-16-quickgelu": "ViT-B/16", "ViT-B-32-quickgelu": "ViT-B/32", "ViT-L-14-quickgelu": "ViT-L/14"}

DEAD_WIDTH = 512  # of `visu_proj` in every variant


def export_official(context: PipelineContext, out: Path) -> Path:
    """Writes the pipeline's weights as an official checkpoint. Raises WeightsError, UsageError for a network that the
    official code cannot build, RunError.
    """
    options = options_of(context)
    network = open_network(options.weights, context, options.clip).network
    if network.config not in OFFICIAL.values():
        raise UsageError(
            f"--official: the official code builds {', '.join(NAMES.values())} at 224 pixels; "
            f"{options.weights} is {network.config.clip} at {network.config.image_size}"
        )
    arguments = argparse.Namespace(model=NAMES[network.config.clip], imsize=224, max_query_len=network.context)
    file = io.BytesIO()
    torch.save({"model": official_state(network), "epoch": 0, "val_accu": 0.0, "args": arguments}, file)
    write_atomically(out, file.getvalue())
    return out


def official_state(network: ClipVG) -> dict[str, Tensor]:
    """Every key of the official state dict: CLIP's matrices in float16, its aliases, and the dead `visu_proj`."""
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
    """The parameters that the official CLIP holds in float16 on a GPU: convolutions, linear maps, projections."""
    names = {"text_projection", "visual.proj"}
    for prefix, module in clip.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            names |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return names
