"""Dynamic MDETR for `shapes`: the product's training, from what tiny-transvg knows.

Its branches, projections and the lower layers of its V-L transformer, which become the encoder over image and text, are
taken as they are. Each stage starts as its last layer, which reads a box from [REG]: of the sampled points in place of
all cells. The points start as grids, smaller from stage to stage. Only stages and box head are trained, with a loss on
the boxes of the earlier stages too. None of this is part of the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from bench.training.task import ParameterGroup, TaskFactory, TrainingJob
from pipelines import layers
from pipelines.dynamic_mdetr.network import DynamicMdetr
from pipelines.dynamic_mdetr.task import DynamicMdetrTask, DynamicMdetrTraining
from pipelines.rows import RowBatch
from pipelines.transvg.checkpoint import Loaded, open_network
from pipelines.transvg.network import TransVG
from tools.tiny_weights.transvg import QUIET, calibration

SPANS = (1.0, 0.5, 0.35)  # of the grids of points, of the canvas's side
SHARED = ("visumodel", "textmodel", "visu_proj", "text_proj", "bbox_embed")


class TinyDynamicMdetrTraining(DynamicMdetrTraining):
    """[dynamic-mdetr] of shapes.toml."""

    transvg: str = Field("", description="small TransVG to start from; empty = at random")
    readout: bool = Field(False, description="train the stages and the box head alone")
    point_share: float = Field(1.0, ge=0, description="of the learning rate, for what places the points")
    stage_loss: float = Field(0.0, ge=0, description="weight of the mean loss of the earlier stages")


class TinyDynamicMdetrTask(DynamicMdetrTask):
    """A Dynamic MDETR in training, from a small TransVG."""

    Config = TinyDynamicMdetrTraining
    config: TinyDynamicMdetrTraining

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        self.loss_weights = {**self.loss_weights, "stages": self.config.stage_loss}
        if self.config.transvg and not self.config.start_from:
            start_as(self.model, self.transvg.network, self)

    def start(self) -> tuple[Loaded, dict[str, Any]]:
        """Return the network to train, with the tokenizer of the TransVG."""
        if not self.config.transvg or self.config.start_from:
            return super().start()
        torch.manual_seed(self.job.context.seed)
        self.transvg = theirs = open_network(TransVG, self.config.transvg, "", self.job.context)
        same = {key: getattr(theirs.network.config, key) for key in theirs.network.config.model_fields_set - {"layers"}}
        network = DynamicMdetr(
            self.config.network.model_copy(update=same | {"layers": theirs.network.config.layers - 1})
        )
        return Loaded(network, theirs.tokenizer, theirs.style, theirs.tokenizer_json), {}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the groups of DynamicMdetrTask, or the stages and the box head."""
        groups = super().parameter_groups()
        if not self.config.readout:
            return groups
        kept = ("vl_transformer.", "update_", "init_", "bbox_embed.")
        points, named = "offset_generators.", {n: p for g in groups for n, p in g.parameters.items()}
        return [
            ParameterGroup({n: p for n, p in named.items() if n.startswith(kept)}),
            ParameterGroup({n: p for n, p in named.items() if n.startswith(points)}, self.config.point_share),
        ]

    def losses(self, batch: RowBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of DynamicMdetrTask, and the mean of the earlier stages' in their weights."""
        boxes = self.model.decode(*self.encoded(batch))[0]
        l1, giou = layers.l1(boxes, batch.targets[:, None]), 1 - layers.giou(boxes, batch.targets[:, None])[0]
        early = (self.config.l1 * l1 + self.config.giou * giou)[:, :-1].mean(dim=1)
        last = {"l1": l1[:, -1], "giou": giou[:, -1], "boxes": boxes[:, -1], "targets": batch.targets}
        return last | {"stages": early}


@torch.no_grad()
def start_as(network: DynamicMdetr, theirs: TransVG, task: DynamicMdetrTask) -> None:
    """Change a network in place, to compute at first what a TransVG does with the points of a stage alone."""
    # 1. What both have.
    for name in SHARED:
        getattr(network, name).load_state_dict(getattr(theirs, name).state_dict())
    fusion = theirs.vl_transformer.encoder.layers
    for own, other in zip(network.vl_encoder.encoder.layers, fusion, strict=False):
        own.load_state_dict(other.state_dict())
    register, words, cells = theirs.vl_pos_embed.weight.split([1, network.config.tokens, network.side**2])
    network.vl_pos_embed.weight.copy_(torch.cat([cells, words]))
    # 2. What [REG] brings to the last layer, and the scale of the tokens there, over some rows.
    image, masked, text, padding = task.encoded(calibration(task))
    below: Any = copy.deepcopy(theirs)
    del below.vl_transformer.encoder.layers[-1]
    reached = below.fuse(image, masked, text, padding)
    brought, tokens = reached[:, 0].mean(dim=0), reached[:, -(network.side**2) :][~masked]
    mean, scale = tokens.mean(), tokens.std(dim=1).mean()
    # 3. The stages.
    for stage, generator in enumerate(network.offset_generators):
        read_as(network.vl_transformer[stage], fusion[-1], brought, register[0], mean, scale)
        side = round(network.config.points**0.5)
        line = ((torch.arange(side) + 0.5) / side - 0.5) * SPANS[stage]
        generator.bias.copy_(torch.cartesian_prod(line, line).flatten())  # type: ignore[operator]


def read_as(transformer: Any, last: Any, brought: Tensor, place: Tensor, mean: Tensor, scale: Tensor) -> None:
    """Make a stage's transformer compute of every text token what a TransVG's last layer does of [REG].

    `brought` (d,) is what [REG] brings there, `place` (d,) its position, `mean` and `scale` those of image tokens.
    """
    # 1. The encoder passes the sampled tokens on, at their mean scale.
    for layer in transformer["encoder"].layers:
        quiet(layer.self_attn.out_proj)
        quiet(layer.linear2)
        for norm in (layer.norm1, layer.norm2):
            norm.weight.fill_(scale)
            norm.bias.fill_(mean)
    # 2. A text token becomes [REG], with little of its own.
    (layer,), norm = transformer["decoder"].layers, transformer["decoder"].norm
    quiet(layer.self_attn.out_proj)
    layer.norm1.weight.fill_(QUIET)
    layer.norm1.bias.copy_(brought)
    # 3. It attends as the last layer does: the position of [REG] becomes a part of the queries' bias.
    layer.multihead_attn.load_state_dict(last.self_attn.state_dict())
    d = len(place)
    layer.multihead_attn.in_proj_bias[:d] += last.self_attn.in_proj_weight[:d] @ place
    layer.norm2.load_state_dict(last.norm1.state_dict())
    layer.linear1.load_state_dict(last.linear1.state_dict())
    layer.linear2.load_state_dict(last.linear2.state_dict())
    norm.load_state_dict(last.norm2.state_dict())  # norm3 before it only normalises


def quiet(linear: Any) -> None:
    """Make a linear layer's output small."""
    linear.weight.mul_(QUIET)
    linear.bias.zero_()


def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return the one part, for `train_pipeline(..., tasks=tasks)`."""
    return {"network": partial(TinyDynamicMdetrTask, job)}
