"""OneRef for `shapes`: the product's training above the lower layers that oneref_pretraining.py made.

In the lower layers image and text do not attend to each other, so these are computed once an image and once a text. The
upper layers start by comparing, as tiny-clipvg's do, and are trained with two additions: cosines are divided by a
temperature where they are logits, and each patch has to give the target's box. None of this is part of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from bench.training.task import ParameterGroup, TaskFactory, TrainingJob
from pipelines import layers
from pipelines.canvas import covered, normalised
from pipelines.mask_rows import MaskBatch, MaskRows
from pipelines.oneref.network import OneRef
from pipelines.oneref.recipe import OneRefTraining
from pipelines.oneref.task import OneRefTask
from pipelines.rows import Row, RowBatch, collate
from tools.tiny_weights.oneref_pretraining import CALIBRATION, alone

APART = 6.0  # of a head's first number: + for image, - for text, so that neither attends to the other
SHARP = 6.0  # what a cosine of 1 adds to a score of the upper layers at first
KEPT = 0.3  # share of their random weights that stays


@torch.no_grad()
def part(network: OneRef, lower: int) -> None:
    """Keep image and text apart in the attention of the lower layers, by the first number of every head."""
    for layer in network.beit3.encoder.layers[:lower]:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            for expert, sign in ((projection.A, 1), (projection.B, -1)):
                expert.bias[:: network.config.width // network.config.heads] = sign * APART


@torch.no_grad()
def compare(network: OneRef, lower: int, image: Tensor, text: Tensor) -> None:
    """Let the attention of the upper layers start as the similarity that the pre-training ended with.

    `image` (N, D) and `text` (M, D) are normed tokens whose vectors set the scale.
    """
    encoder, c = network.beit3.encoder, network.config
    alpha = (SHARP * c.heads * (c.width // c.heads) ** 0.5) ** 0.5
    for layer in encoder.layers[lower:]:
        layer.self_attn_layer_norm.load_state_dict(encoder.layer_norm.state_dict())
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            for own, head, tokens in (
                (projection.A, network.vision_head, image), (projection.B, network.language_head, text),
            ):  # fmt: skip
                own.weight.mul_(KEPT).add_(head.weight * (alpha / head(tokens).norm(dim=-1).mean()))


@torch.no_grad()
def grown(network: OneRef, layers: int) -> OneRef:
    """Return a network with that many layers more: each of the last ones twice, the copy adding nothing at first."""
    count = network.config.layers
    order = sorted([*range(count), *range(count - layers, count)])
    larger = OneRef(network.config.model_copy(update={"layers": len(order)}))
    own: Any = larger.beit3.encoder.layers
    state = {key: tensor for key, tensor in network.state_dict().items() if ".encoder.layers." not in key}
    larger.load_state_dict(state, strict=False)
    for place, (layer, source) in enumerate(zip(own, order, strict=True)):
        layer.load_state_dict(network.beit3.encoder.layers[source].state_dict())
        if place and order[place - 1] == source:
            for last in (layer.self_attn.out_proj, layer.ffn.A.fc2, layer.ffn.B.fc2):
                for parameter in last.parameters():
                    parameter.zero_()
    return larger


class TinyOneRefTraining(OneRefTraining):
    """[oneref] of shapes.toml."""

    lower: int = Field(0, ge=0, description="layers that stay as the pre-training left them, image and text apart")
    compare: bool = Field(False, description="let the upper layers start by comparing: the file is the pre-training's")
    grow: int = Field(0, ge=0, description="layers that are added to those of the file")
    auxiliary: float = Field(0.0, ge=0, description="weight of the boxes of single patches; 0 = off")


class KeptRows(MaskRows):
    """Rows as in evaluation with their numbers, drawn once and kept in memory."""

    in_memory = True

    def __init__(self, job: TrainingJob, size: int) -> None:
        super().__init__(job, size, "official", None)
        self._kept: dict[int, list[Row]] = {}

    def sample(self, epoch: int, index: int) -> Any:
        """Return a row and its number. Raises ImageError, DataError."""
        scene, number = self.places[index]
        if scene not in self._kept:
            self._kept[scene] = self._of_image(0, scene)
        return self._kept[scene][number], index

    def samples(self, epoch: int, indices: Sequence[int]) -> Any:
        """Return rows and their numbers."""
        return [self.sample(epoch, index) for index in indices]

    def mask(self, row: Row, index: int) -> NDArray[np.bool_]:
        """Return a row's mask on its canvas."""
        return self._masked(row, index)[1]


class TinyOneRefTask(OneRefTask):
    """A OneRef in training, its lower layers frozen."""

    Config = TinyOneRefTraining
    config: TinyOneRefTraining

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        if self.config.grow:
            larger = grown(self.loaded.network, self.config.grow).to(job.context.device)
            self.loaded, self.model = self.loaded._replace(network=larger), larger
        if self.config.auxiliary:
            self.loss_weights["auxiliary"] = self.config.auxiliary
        self.images: dict[int, Tensor] = {}
        self.texts: dict[str, Tensor] = {}
        if self.config.compare:
            self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Start from the pre-training: image and text apart below, compared above."""
        part(self.model, self.config.lower)
        data = self.dataset()
        some = [data.sample(0, row) for row in range(0, len(data), -(-len(data) // CALIBRATION))]
        batch, norm = self.collate(some), self.model.beit3.encoder.layer_norm
        text = torch.stack([tokens[0] for tokens in self._texts_of(batch.texts)[0]])
        compare(self.model, self.config.lower, norm.A(self._images_of(batch)[:, 1:].flatten(0, 1)), norm.B(text))

    def dataset(self, augment: bool = True) -> KeptRows:
        """Return one sample an expression."""
        self.kept = KeptRows(self.job, self.model.config.image_size)
        return self.kept

    def collate(self, samples: Sequence[tuple[Row, int]]) -> RowBatch:
        """Join rows into a batch, with the masks of those that the mask head is trained on."""
        plain = collate([row for row, _ in samples])
        if not self.masks:
            return plain
        drawn = [self.kept.mask(*sample) for sample in samples[: math.ceil(self.config.mask_share * len(samples))]]
        masks = np.zeros((len(samples), *drawn[0].shape), np.bool_)
        masks[: len(drawn)] = drawn
        return MaskBatch(plain.images, plain.edges, plain.targets, plain.texts, plain.owners, torch.from_numpy(masks))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return one group: all that is above the lower layers."""
        below: tuple[str, ...] = ("beit3.text_embed.", "beit3.vision_embed.", "beit3.encoder.embed_positions.")
        below += tuple(f"beit3.encoder.layers.{n}." for n in range(self.config.lower))
        (group,) = super().parameter_groups()
        if not self.config.lower:
            return [group]
        return [ParameterGroup({n: p for n, p in group.parameters.items() if not n.startswith(below)})]

    def losses(self, batch: RowBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of OneRefTask, on what the lower layers give; and the further one, (B,)."""
        if not self.config.lower:
            return super().losses(batch, rng)
        # 1. The lower layers, once an image and once a text.
        with torch.no_grad():
            image, (text, padding) = self._images_of(batch), self._texts_of(batch.texts)
        if batch.owners is not None:
            image = image[batch.owners]
        # 2. The upper ones.
        keep = torch.cat([padding.new_ones(len(padding), image.shape[1]), ~padding], dim=1)[:, None, None]
        encoder = self.model.beit3.encoder
        for layer in encoder.layers[self.config.lower :]:
            image, text = layer(image, text, keep)
        image, text = encoder.layer_norm(image, text)
        return self.terms(image, text, batch)

    def _images_of(self, batch: RowBatch) -> Tensor:
        """The lower layers' output for a batch's images (N, 1 + P, D)."""
        assert batch.edges is not None
        names = [hash(image.numpy().tobytes()) for image in batch.images]
        if new := [n for n, name in enumerate(names) if name not in self.images]:
            pixels = normalised(batch.images[new], covered(batch.edges[new], batch.images.shape[1]), "official")
            given = alone(self.model, self.model.embed_image(pixels), None, self.config.lower)
            self.images |= {names[n]: one.half() for n, one in zip(new, given, strict=True)}
        return torch.stack([self.images[name] for name in names]).float()

    def _texts_of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The lower layers' output for texts (B, L, D), and their padding (B, L)."""
        ids, padding = self.loaded.tokenizer(texts)
        for text, row, pads in zip(texts, ids, padding, strict=True):
            if text not in self.texts:
                self.texts[text] = alone(self.model, None, row[None, ~pads], self.config.lower)[0]
        return nn.utils.rnn.pad_sequence([self.texts[text] for text in texts], batch_first=True), padding

    def terms(self, image: Tensor, text: Tensor, batch: Any) -> dict[str, Tensor]:
        """Return the losses of OneRefTask, and the boxes of single patches, those of the target as much as all."""
        terms, patches = super().terms(image, text, batch), image[:, 1:]
        if self.config.auxiliary:
            own = self.inside(batch.targets).float()
            share = own / (2 * own.sum(dim=1, keepdim=True)).clamp(min=1) + 0.5 / own.shape[1]
            boxes = self.model.bbox_embed(self.model.visu_proj(patches)).sigmoid().flatten(0, 1)
            wanted = batch.targets.repeat_interleave(own.shape[1], dim=0)
            each = layers.l1(boxes, wanted) + 1 - layers.giou(boxes, wanted)[0]
            terms["auxiliary"] = (each.view_as(share) * share).sum(dim=1)
        return terms


def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return the one part, for `train_pipeline(..., tasks=tasks)`."""
    return {"network": partial(TinyOneRefTask, job)}
