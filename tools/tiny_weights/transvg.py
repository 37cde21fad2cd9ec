"""TransVG for `shapes`: the product's training, from what tiny-mdetr knows.

Published TransVGs start from a DETR and a BERT. Here both are tiny-mdetr's: its backbone by name, as any DETR's, and
its text encoder, whose last norm becomes a scale of `text_proj`. As a small fusion from nothing stays long at the mean
box, the lower layers of the V-L transformer start as its joint encoder, and the last one as the first layer of its
decoder. That layer and the box head are all that is trained. None of this is part of the paper.
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
from pipelines.layers import sine_position
from pipelines.mdetr.checkpoint import LoadedMdetr, open_network
from pipelines.rows import RowBatch
from pipelines.transvg.network import FUSION, TransVG
from pipelines.transvg.recipe import TransVGTraining
from pipelines.transvg.task import TransVGTask

CALIBRATION = 64  # texts and images that set the scale of the start
ROUNDS = 4  # in which the position of [REG] is found
QUIET = 0.02  # deviation of the random position embeddings that are added to known ones


class TinyTransVGTraining(TransVGTraining):
    """[transvg] of shapes.toml."""

    mdetr: str = Field("", description="small MDETR to start from; empty = at random")
    readout: bool = Field(False, description="train the last layer and the box head alone")


class TinyTransVGTask(TransVGTask):
    """A TransVG in training, from a small MDETR."""

    Config = TinyTransVGTraining
    config: TinyTransVGTraining

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        if self.config.mdetr and not self.config.start_from:
            start_as(self.model, open_network(self.config.mdetr, "", job.context), self)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the groups of TransVGTask, or the last layer and the box head."""
        groups = super().parameter_groups()
        if not self.config.readout:
            return groups
        kept = (f"{FUSION}{self.model.config.layers - 1}.", "bbox_embed.")
        return [ParameterGroup({n: p for g in groups for n, p in g.parameters.items() if n.startswith(kept)})]


@torch.no_grad()
def start_as(network: TransVG, mdetr: LoadedMdetr, task: TransVGTask) -> None:
    """Change a network in place, to compute at first what a small MDETR's joint encoder computes.

    Some rows of the task set the scales that a norm of the MDETR set for each token.
    """
    theirs: Any = mdetr.network
    bert, roberta = network.textmodel.bert, theirs.transformer.text_encoder
    # 1. The text encoder: positions of a RoBERTa begin at 2, and words are matched as words.
    rest = {k: t for k, t in roberta.state_dict().items() if not k.startswith(("embeddings.word", "embeddings.pos"))}
    bert.load_state_dict(rest, strict=False)
    places = bert.embeddings.position_embeddings.weight
    places.copy_(roberta.embeddings.position_embeddings.weight[2 : 2 + len(places)])
    known = mdetr.tokenizer.tokenizer.get_vocab()
    for word, row in task.loaded.tokenizer.tokenizer.get_vocab().items():
        if word in known:
            bert.embeddings.word_embeddings.weight[row] = roberta.embeddings.word_embeddings.weight[known[word]]
    # 2. Its projection, with the norm behind it as one scale.
    texts = list(dict.fromkeys(e.text for scene in task.job.scenes[:CALIBRATION] for e in scene.expressions))
    ids, padding = task.loaded.tokenizer(texts[:CALIBRATION])
    projection, norm = theirs.transformer.resizer.fc, theirs.transformer.resizer.layer_norm
    projected = projection(network.textmodel(ids, padding))[~padding]
    scale = norm.weight / projected.std(dim=-1).mean()
    network.text_proj.weight.copy_(scale[:, None] * (projection.weight - projection.weight.mean(dim=0)))
    network.text_proj.bias.copy_(scale * (projection.bias - projection.bias.mean()) + norm.bias)
    # 3. DETR's encoder passes its input on, normalised; visu_proj gives back the mean scale.
    for layer in network.visumodel.transformer.encoder.layers:
        for branch in (layer.self_attn.out_proj, layer.linear2):
            branch.weight.mul_(QUIET)
            branch.bias.zero_()
        for norm in (layer.norm1, layer.norm2):
            norm.weight.fill_(1)
            norm.bias.zero_()
    network.visu_proj.weight.copy_(torch.eye(network.config.hidden) * feature_scale(network.eval(), task))
    network.visu_proj.bias.zero_()
    # 4. The joint encoder, with its sine positions in the slots of the canvas.
    for own, other in zip(network.vl_transformer.encoder.layers, theirs.transformer.encoder.layers, strict=False):
        own.load_state_dict(other.state_dict())
    sine = sine_position(torch.zeros(1, network.side, network.side, dtype=torch.bool), network.config.hidden)
    table = network.vl_pos_embed.weight
    table.mul_(QUIET)
    table[-(network.side**2) :] += sine.flatten(0, 2)
    read_as(network, theirs, *task.encoded(calibration(task)))


def read_as(network: TransVG, theirs: Any, image: Tensor, masked: Tensor, text: Tensor, padding: Tensor) -> None:
    """Make the last layer compute of [REG] what the first layer of an MDETR's decoder computes of a query.

    The decoder starts from zeros, so its attention among queries gives a constant. [REG] comes to the last layer as
    something else: its position makes up for the mean of that.
    """
    decoder, fusion = theirs.transformer.decoder, network.vl_transformer.encoder
    layer, last = decoder.layers[0], fusion.layers[-1]
    last.self_attn.load_state_dict(layer.cross_attn_image.state_dict())
    last.linear1.load_state_dict(layer.linear1.state_dict())
    last.linear2.load_state_dict(layer.linear2.state_dict())
    last.norm1.load_state_dict(layer.norm3.state_dict())
    last.norm2.load_state_dict(decoder.norm.state_dict())
    network.bbox_embed.load_state_dict(theirs.bbox_embed.state_dict())
    # 1. The query that gives most answers.
    places = network.vl_pos_embed(network.image_slots()).expand_as(image)
    logits = theirs.fuse((image, places, masked), text, padding).logits[-1]
    query = theirs.query_embed.weight[logits.softmax(dim=-1)[..., -1].argmin(dim=1).mode().values]
    # 2. Content and position of [REG], so that their sum at the last layer is the query's.
    start = layer.norm1(layer.self_attn.out_proj(layer.self_attn.in_proj_bias[-len(query) :]))
    network.reg_token.weight.copy_(start[None])
    network.vl_pos_embed.weight[0] = query
    lower = copy.deepcopy(network)
    del lower.vl_transformer.encoder.layers[-1]
    for _ in range(ROUNDS):
        lower.load_state_dict(network.state_dict(), strict=False)
        reached = lower.fuse(image, masked, text, padding, only_first=True)[:, 0].mean(dim=0)
        network.vl_pos_embed.weight[0] = start + query - reached


def calibration(task: TransVGTask) -> RowBatch:
    """Return some rows of a task, spread over all, as in evaluation."""
    data = task.dataset(augment=False)
    return task.collate([data.sample(0, row) for row in range(0, len(data), -(-len(data) // CALIBRATION))])


def feature_scale(network: TransVG, task: TransVGTask) -> Tensor:
    """Return the mean deviation of the tokens that the backbone gives, before any encoder, over some rows."""
    batch = calibration(task)
    assert batch.edges is not None
    branch = network.visumodel
    pixels, masked = network.inputs(batch.images, batch.edges, task.loaded.style)
    features: Tensor = branch.input_proj(branch.backbone[0](pixels))
    return features.flatten(2).transpose(1, 2)[~masked].std(dim=-1).mean()


def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return the one part, for `train_pipeline(..., tasks=tasks)`."""
    return {"network": partial(TinyTransVGTask, job)}
