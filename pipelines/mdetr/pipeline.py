"""MDETR as a pipeline: referring expressions, and the phrases of captions where a data set has captions.

A picture goes through the backbone once, whatever is asked about it, and pictures of equal size share that pass:
nothing is padded, so an answer never depends on its neighbours. Each different text about a picture goes through the
transformer once; the phrases of one caption share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bench.boxes import box_cxcywh_to_xyxy
from bench.errors import WeightsError
from bench.grounding import LoadedScene, PipelineContext, Prediction, Query
from bench.hashing import sha256_file
from bench.settings import parse_table
from pipelines.card import CardOptions, make_card
from pipelines.mdetr import checkpoint
from pipelines.mdetr.model import Mdetr, Seen
from pipelines.mdetr.phrases import phrase_mask, query_scores
from pipelines.mdetr.preprocessing import normalised, resized
from pipelines.mdetr.text import PAD, Tokenizer

SIZES = (800, 1333)  # of the published models
Place = tuple[int, int]  # of a scene in its batch, of a query in its scene
T = TypeVar("T")


class MdetrOptions(BaseModel):
    """[pipelines.mdetr]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str = Field("pretrained_resnet101_checkpoint.pth", description="a file; here or in BENCH_HOME/weights")
    tokenizer: str = Field("roberta-base", description="a folder or a hub id; a weights file that has its own wins")
    short: int | None = Field(None, ge=1, description="short side in pixels; none = what the weights file says, or 800")
    long: int | None = Field(None, ge=1, description="the most the long side may be; none = the file's, or 1333")
    pictures: int = Field(0, ge=0, description="of one size in a backbone pass; 0 = 8 on a GPU, 1 on a CPU")
    texts: int = Field(0, ge=0, description="in a pass of the transformer; 0 = 64 on a GPU, 8 on a CPU")
    card: CardOptions = CardOptions()


class MdetrPipeline:
    """A grounder that is one network."""

    def __init__(self, options: MdetrOptions, context: PipelineContext) -> None:
        self.clock, self.dataset = context.clock, context.dataset
        self.device, self.dtype = torch.device(context.device), getattr(torch, context.dtype)
        gpu = self.device.type == "cuda"
        self.pictures, self.texts = options.pictures or (8 if gpu else 1), options.texts or (64 if gpu else 8)
        held = checkpoint.unpack(checkpoint.find(options.weights, context))
        sizes = held.sizes or SIZES
        self.short, self.long = options.short or sizes[0], options.long or sizes[1]
        limit = int(held.config.text_encoder["max_position_embeddings"]) - PAD - 1
        if held.tokenizer is None:
            self.tokenizer = Tokenizer.open(options.tokenizer, context, limit)
        else:
            self.tokenizer = Tokenizer.from_json(held.tokenizer, limit)
        known = int(held.config.text_encoder["vocab_size"])
        if len(self.tokenizer) > known:
            raise WeightsError(
                f"{options.tokenizer}: a tokenizer of {len(self.tokenizer)} tokens, but {held.path.name} knows {known} "
                "of them; give the one that the weights were trained with"
            )
        self.model = in_precision(checkpoint.build(held), self.dtype).to(self.device)
        transformer = self.model.transformer
        called = [self.model.backbone[0], transformer.text_encoder, transformer]
        accelerated = context.acceleration.apply(self.model, called)
        self.card = make_card(
            context,
            options.card,
            summary=f"MDETR, backbone {held.config.backbone}{_read_as(held)}",
            paper="Kamath et al., MDETR, ICCV 2021",
            weights={"mdetr": options.weights},
            sha256={"mdetr": sha256_file(held.path)},
            parameters=sum(p.numel() for p in self.model.parameters()),
            accelerated=accelerated,
        )

    @torch.inference_mode()
    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order."""
        with self.clock.stage("resize"):
            pictures = [resized(scene.picture, self.short, self.long) for scene in batch]
        groups: dict[torch.Size, list[int]] = {}
        for index, picture in enumerate(pictures):
            groups.setdefault(picture.shape, []).append(index)
        answers: dict[Place, Prediction] = {}
        for indices in groups.values():
            with self.clock.stage("backbone"):
                seen = self._see([pictures[i] for i in indices])
            with self.clock.stage("transformer"):
                answers |= self._answers(batch, indices, seen)
        return [answers[s, q] for s, scene in enumerate(batch) for q in range(len(scene.queries))]

    def _see(self, pictures: Sequence[Tensor]) -> Seen:
        """Pictures of one size, (3, h, w) in 0..1 -> their tokens."""
        parts = []
        for some in chunks(pictures, self.pictures):
            pixels = normalised(torch.stack(list(some)).to(self.device))
            parts.append(self.model.see(pixels.to(self.dtype)))
        tokens, position, padding = zip(*((s.tokens, s.position, s.padding) for s in parts), strict=True)
        return Seen(torch.cat(tokens), torch.cat(position), torch.cat(padding))

    def _answers(self, batch: Sequence[LoadedScene], indices: Sequence[int], seen: Seen) -> dict[Place, Prediction]:
        """The answers about the scenes `indices`, whose pictures are the rows of `seen`."""
        asked: dict[tuple[int, str], list[Place]] = {}
        for row, scene in enumerate(indices):
            for number, query in enumerate(batch[scene].queries):
                asked.setdefault((row, text_of(query)), []).append((scene, number))
        if not asked:
            return {}
        found = [self._ask(batch, seen, some) for some in chunks(list(asked.items()), self.texts)]
        rows = torch.cat(found).cpu().numpy()  # the one point where a GPU is waited for
        places = [place for mine in asked.values() for place in mine]
        sizes = np.array([batch[s].picture.shape[1::-1] * 2 for s, _ in places])
        boxes = (box_cxcywh_to_xyxy(rows[:, :4]) * sizes).tolist()
        answers = {}
        for (s, q), box, (score, index) in zip(places, boxes, rows[:, 4:].tolist(), strict=True):
            query = batch[s].queries[q]
            answers[s, q] = Prediction(query.id, tuple(box), score, note=self._note(query), query_index=int(index))
        return answers

    def _ask(
        self, batch: Sequence[LoadedScene], seen: Seen, some: Sequence[tuple[tuple[int, str], list[Place]]]
    ) -> Tensor:
        """Texts, each with the row of its picture and the places it answers -> (K, 6), a row for every place in order:
        a cxcywh box in 0..1, its score, the index of its query.
        """
        tokens, padding = self.tokenizer([text for (_, text), _ in some])
        rows = torch.tensor([row for (row, _), _ in some], device=self.device)
        view = Seen(seen.tokens[rows], seen.position[rows], seen.padding[rows])
        out = self.model.find(view, tokens.to(self.device), padding.to(self.device))
        owners = [index for index, (_, mine) in enumerate(some) for _ in mine]
        masks = [phrase_mask(batch[s].queries[q].caption, self.tokenizer) for _, mine in some for s, q in mine]
        score, index = query_scores(out.logits[0][owners], masks).max(dim=-1)
        return torch.cat([out.boxes[0][owners, index].double(), torch.stack([score, index], dim=1).double()], dim=1)

    def _note(self, query: Query) -> str:
        alone = self.dataset == "flickr30k" and query.caption is None
        lonely = "asked without its caption, which the index does not hold" if alone else ""
        return "; ".join(note for note in (self.tokenizer.cut(text_of(query)), lonely) if note)


def mdetr(context: PipelineContext) -> MdetrPipeline:
    """mdetr. Raises SettingsError, WeightsError."""
    options = parse_table(MdetrOptions, context.options, f"bench.toml [pipelines.{context.name}]")
    return MdetrPipeline(options, context)


def in_precision(model: Mdetr, dtype: torch.dtype) -> Mdetr:
    """The network in `dtype`, its heads in float32: a box in bfloat16 would be rounded to a 256th of the picture."""
    for part in (model.backbone, model.input_proj, model.transformer, model.query_embed):
        part.to(dtype)
    return model


def text_of(query: Query) -> str:
    """What the text encoder reads: the whole caption of a phrase, else the expression, as it is given."""
    return query.caption.text if query.caption else query.text


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """`items` in runs of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def _read_as(held: checkpoint.Unpacked) -> str:
    """What a reader should know of how the file was read."""
    left_out = f"without {', '.join(held.dropped[:3])}" if held.dropped else ""
    said = ", ".join(part for part in (held.part, left_out) if part)
    return f" ({said})" if said else ""
