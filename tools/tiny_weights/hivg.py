"""HiVG for `shapes`: the product's training, from what tiny-clipvg knows.

Published HiVGs start from OpenAI's CLIP. Here it is the CLIP of tiny-clipvg, and as a small fusion from nothing stays
long at the mean box, the V-L transformer starts as tiny-clipvg's: the same parts, but with the norms before attention
and feed-forward network, so that the stream behind them is not normed. One scale a layer makes up for the norm of each
token. The bridge starts at nothing. None of this is part of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from bench.training.task import TaskFactory, TrainingJob
from clipvg.checkpoint import open_network
from clipvg.network import ClipVG
from pipelines.canvas import CLIP, IMAGENET
from pipelines.hivg.network import PAD, HiVG
from pipelines.hivg.recipe import HiVGTraining, of_open_clip, take_clip
from pipelines.hivg.task import HiVGTask

CALIBRATION = 64  # rows that set the scales of the start
QUIET = 0.1  # of what the bridge adds at first


class TinyHiVGTraining(HiVGTraining):
    """[hivg] of shapes.toml."""

    clipvg: str = Field("", description="small CLIP-VG to start from; empty = at random")


class TinyHiVGTask(HiVGTask):
    """A HiVG in training, from a small CLIP-VG."""

    Config = TinyHiVGTraining
    config: TinyHiVGTraining

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        if self.config.clipvg and not self.config.start_from:
            theirs, style, _ = open_network(Path(self.config.clipvg), job.context)
            start_as(self.model, theirs, self, style == "clean")


@torch.no_grad()
def start_as(network: HiVG, theirs: ClipVG, task: HiVGTask, clean: bool) -> None:
    """Change a network in place, to compute at first nearly what a small CLIP-VG computes."""
    # 1. CLIP; where it was trained with its own statistics, the first layer takes those of ImageNet.
    take_clip(network, of_open_clip(theirs.clip.state_dict()), "CLIP")
    parts: Any = network.clip.vision_model.embeddings
    if clean:
        mean, std = (torch.tensor([one, other]) for one, other in zip(IMAGENET, CLIP, strict=True))
        kernel, table = parts.patch_embedding.weight, parts.position_embedding.weight
        table[1:] += (kernel * ((mean[0] - mean[1]) / std[1])[:, None, None]).sum(dim=(1, 2, 3))
        kernel *= (std[0] / std[1])[:, None, None]
    for block in (network.clip.vision_model.encoder.layers[n] for n in network.config.bridges):
        block.cross_mlp.fc2.weight *= QUIET
        block.cross_mlp.fc2.bias.zero_()
    # 2. Projections, positions in this network's order, the box head.
    d, count = network.config.hidden, network.side**2
    network.ml_visual_projection.load_state_dict(theirs.ml_visu_proj.state_dict())
    network.visu_proj.weight.copy_(torch.eye(d))
    network.visu_proj.bias.zero_()
    for name in ("text_proj", "reg_token", "bbox_embed"):
        getattr(network, name).load_state_dict(getattr(theirs, name).state_dict())
    register, words, image = theirs.vl_pos_embed.weight.split([1, theirs.context, 1 + count])
    network.vl_pos_embed.weight.copy_(torch.cat([register, image, words]))
    # 3. The V-L transformer, layer by layer, with the scale of the stream that each half adds to.
    ids, masked, text, views, _ = task.encoded(calibration(task))
    x, position, ignored = network.sequence(views, masked, text.tokens, ids == PAD)
    own: Any = network.vl_transformer["encoder"]
    kept = ~ignored
    first = own.layers[0].norm1
    first.weight.fill_(x[kept].std(dim=-1).mean())
    first.bias.zero_()
    for n, (layer, other) in enumerate(zip(own.layers, theirs.vl_transformer.encoder.layers, strict=True)):
        layer.load_state_dict(other.state_dict() | {f"norm1.{k}": t for k, t in layer.norm1.state_dict().items()})
        layer.norm2.load_state_dict(other.norm1.state_dict())
        follow = own.layers[n + 1].norm1 if n + 1 < len(own.layers) else own.norm
        follow.load_state_dict(other.norm2.state_dict())
        scale(layer.self_attn.out_proj, deviation(x[kept]) / deviation(layer.norm1(x[kept])), layer.norm1.bias)
        half = x + layer.self_attn(*[layer.norm1(x) + position] * 2, layer.norm1(x), key_padding_mask=ignored)[0]
        scale(layer.linear2, deviation(half[kept]) / deviation(layer.norm2(half[kept])), layer.norm2.bias)
        x = layer(x, position, ignored)


def deviation(tokens: Tensor) -> Tensor:
    """Return the mean deviation of tokens (N, d)."""
    return tokens.std(dim=-1).mean()


def scale(linear: Any, factor: Tensor, shift: Tensor) -> None:
    """Scale what a linear layer adds, and let it add the shift of the norm that the stream went without."""
    linear.weight.mul_(factor)
    linear.bias.add_(shift).mul_(factor)


def calibration(task: HiVGTask) -> Any:
    """Return some rows of a task, spread over all, as in evaluation."""
    data = task.dataset(augment=False)
    return task.collate([data.sample(0, row) for row in range(0, len(data), -(-len(data) // CALIBRATION))])


def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return the one part, for `train_pipeline(..., tasks=tasks)`."""
    return {"network": partial(TinyHiVGTask, job)}
