"""What a training begins with: its processes, its network, and the CLIP under it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from bench.errors import UsageError, WeightsError
from bench.grounding import PipelineContext
from bench.runs.shards import from_environment
from bench.trainable import TrainingJob
from clipvg.checkpoint import at_size, open_network
from clipvg.frozen import FrozenClip, open_frozen, values_hash
from clipvg.model.network import ClipVG
from clipvg.training.history import usable_tracker
from clipvg.training.recipe import ClipVGRecipe
from clipvg.training.teaching import clip_file


def accelerator_for(job: TrainingJob, recipe: ClipVGRecipe, folder: Path) -> Any:
    """This process among those that torchrun or `accelerate launch` started. Raises MissingPackage."""
    from accelerate import Accelerator

    cpu = job.context.device == "cpu"
    if not cpu and "LOCAL_RANK" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = job.context.device
    launched = from_environment().size
    trackers = usable_tracker(recipe.track)
    accelerator = Accelerator(cpu=cpu, mixed_precision="no", log_with=trackers or None, project_dir=str(folder))
    if accelerator.num_processes != launched:
        raise UsageError(
            f"{launched} processes were started, but training sees {accelerator.num_processes}: start it with torchrun "
            "or accelerate launch (under Slurm: one task a node, `srun torchrun ...`)"
        )
    if trackers:
        plain = {key: value for key, value in recipe.model_dump().items() if isinstance(value, int | float | str)}
        accelerator.init_trackers(recipe.name, config=plain)
    return accelerator


def begin(recipe: ClipVGRecipe, context: PipelineContext, out: Path) -> tuple[ClipVG, FrozenClip]:
    """The network, float32, and its CLIP. Raises WeightsError, UnknownName."""
    if recipe.start_from:
        opened = open_network(recipe.start_from, context, recipe.clip if recipe.clip.pretrained else None)
        clip = opened.clip or _named(opened.network, recipe, context)
        return at_size(opened.network, recipe.network.image_size), clip
    options = recipe.clip
    if recipe.lesson.epochs:
        options = options.model_copy(update={"pretrained": str(clip_file(out, recipe).resolve())})
    clip = open_frozen(options, context)
    torch.manual_seed(context.seed)
    return ClipVG(recipe.network.config(recipe.clip.model), clip.model), clip


def _named(network: ClipVG, recipe: ClipVGRecipe, context: PipelineContext) -> FrozenClip:
    """The CLIP that came with an official file, by the name under which what is trained will look for it."""
    clip = open_frozen(recipe.clip, context)
    if recipe.clip.model != network.config.clip or clip.values != values_hash(network.clip.state_dict()):
        raise WeightsError(
            f"{recipe.start_from} stands on a CLIP {network.config.clip} of its own, but [train.clipvg.clip] names "
            f"{recipe.clip.model} {recipe.clip.pretrained}, where the trained weights would look for it; name its own "
            "with --set clip.model=... and clip.pretrained=..."
        )
    return FrozenClip(network.clip, recipe.clip, clip.values, clip.sha256)


def in_half(network: ClipVG) -> None:
    """CLIP in bfloat16, but for the position embedding that is trained."""
    positions = network.clip.visual.positional_embedding
    before = positions.data.clone()
    network.clip.to(torch.bfloat16)
    positions.data = before
