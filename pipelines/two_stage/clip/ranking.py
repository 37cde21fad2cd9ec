"""Ranking: how likely each region of a scene is meant by an expression, by one CLIP or the sum of several.

    logits      scale * cosine of text and view, summed over views and models                      (ReCLIP 3.1)
    roi         a view that costs one pass for all boxes of an image, by attention pooling          (clip/pooling.py)
    subtract    less what captions in general like about the region, by a fixed bank of them       (Red Circle)
    relations   where the expression compares, rules multiply the probabilities of the names in it (ReCLIP 3.2)

An image is processed once for all its expressions, and the regions of a whole batch share forward passes. An expression
alone costs a row of a matrix product and, where it compares, a few products of (R, R).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from bench.clock import Clock
from bench.grounding import Boxes, ImageArray, LoadedScene
from bench.settings import Table
from pipelines.two_stage.clip.encoder import ClipEncoder
from pipelines.two_stage.clip.pooling import PoolingOptions, RegionPooling
from pipelines.two_stage.clip.views import LIMEGREEN, Resize, Tint, View, make_views
from pipelines.two_stage.language.parse import Phrase, parse
from pipelines.two_stage.language.relations import Geometry, multiplied, reason
from pipelines.two_stage.proposers.proposals import Proposals

Float = NDArray[np.float64]
Byte = Annotated[int, Field(ge=0, le=255)]
Relations = Literal["off", "rules", "spacy"]

# A fixed bank: the classes of COCO. Their mean logit of a region carries nothing about one expression.
_CLASSES = (
    "person bicycle car motorcycle airplane bus train truck boat bench bird cat dog horse sheep cow elephant bear "
    "zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard kite bottle cup fork knife spoon bowl "
    "banana apple sandwich orange broccoli carrot pizza donut cake chair couch bed toilet tv laptop mouse remote "
    "keyboard microwave oven toaster sink refrigerator book clock vase scissors toothbrush"
)
BANK = tuple(_CLASSES.split())


class RankerOptions(Table):
    """[pipelines.*.ranker]."""

    views: tuple[View | Literal["roi"], ...] = Field(("crop", "blur"), min_length=1)
    margin: float = Field(0.0, ge=0, description="widen each crop by this share of its sides")
    resize: Resize = Field("squash", description="how a part becomes square: squash, pad, center")
    tint_colour: tuple[Byte, Byte, Byte] = Field(LIMEGREEN.colour, description="RGB of the view tint")
    tint_alpha: float = Field(LIMEGREEN.alpha, ge=0, le=1, description="how much of it is laid over the box")
    tint_line: float = Field(LIMEGREEN.line, ge=0, description="pixels of CLIP's square in plain colour at its edge")
    prompt: str = Field("a photo of {}", pattern=r"\{\}")
    subtract: float = Field(0.0, ge=0, description="weight of the score subtraction; 0 = off")
    relations: Relations = Field("off", description="parser of comparisons: our small one (rules), spaCy, off")
    temperature: float = Field(
        1.0, gt=0, description="of expressions that compare: logits are divided by it; ReCLIP takes 1"
    )

    @model_validator(mode="after")
    def _whole_images(self) -> Self:
        """Refuse "roi" on an image whose ends are cut off, with the boxes there."""
        if "roi" in self.views and self.resize == "center":
            raise ValueError('the view "roi" needs the whole image: resize = "squash" or "pad", not "center"')
        return self

    @property
    def drawn(self) -> tuple[View, ...]:
        """Return the views that are images."""
        return tuple(view for view in self.views if view != "roi")

    @property
    def tint(self) -> Tint:
        """Return how the view tint is drawn."""
        return Tint(self.tint_colour, self.tint_alpha, self.tint_line)


class Ranker:
    """Probabilities over the proposals of each scene, for each of its queries."""

    def __init__(self, options: RankerOptions, encoders: Sequence[ClipEncoder], clock: Clock) -> None:
        """Open the parser. Raises MissingPackage where it is spaCy, which is not installed."""
        self.options, self.encoders, self._clock = options, tuple(encoders), clock
        self._parse = open_parser(options.relations)
        pooled = encoders if "roi" in options.views else ()
        self.poolings = [RegionPooling(one.model, one.options.model, PoolingOptions(fine=1)) for one in pooled]

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """Return the caches of texts: name -> the function that empties it."""

        def forget() -> None:
            for encoder in self.encoders:
                encoder.forget_texts()

        forget_phrases = getattr(self._parse, "cache_clear", None)
        return {"texts": forget} | ({"phrases": forget_phrases} if forget_phrases else {})

    def rank(self, batch: Sequence[LoadedScene], proposals: Sequence[Proposals]) -> list[Float]:
        """Rank each scene's proposals -> (Q, R), every row a distribution. Raises SettingsError without masks."""
        # Images of one size one after the other: their views are made together.
        order = sorted(range(len(batch)), key=lambda number: batch[number].image.shape)
        batch, proposals = [batch[number] for number in order], [proposals[number] for number in order]
        with self._clock.stage("crop"):
            sizes = dict.fromkeys(encoder.image_size for encoder in self.encoders)
            views = {size: self._views(batch, proposals, size) for size in sizes}  # (V, R, 3, size, size)
        with self._clock.stage("image encode"):
            pairs = zip_longest(self.encoders, self.poolings)
            regions = [self._regions(batch, proposals, *pair, views[pair[0].image_size]) for pair in pairs]
        ranked = dict(zip(order, self.probabilities(batch, proposals, regions), strict=True))
        return [ranked[number] for number in range(len(order))]

    def probabilities(
        self, batch: Sequence[LoadedScene], proposals: Sequence[Proposals], regions: Sequence[Tensor]
    ) -> list[Float]:
        """Rank regions encoded elsewhere: for each model, (R, D) vectors of all the batch's proposals."""
        # 1. Every different text once: the expressions, and the names in those that compare.
        phrases = [[self._parse(query.text) for query in scene.queries] for scene in batch]
        with self._clock.stage("text encode"):
            expressions = [query.text.lower() for scene in batch for query in scene.queries]
            names = [text for scene in phrases for phrase in scene if not phrase.plain for text in phrase.texts()]
            rows = {text: row for row, text in enumerate(dict.fromkeys(expressions + names))}
            texts = [self._texts(encoder, list(rows)) for encoder in self.encoders]
        # 2. Logits of all texts and regions, then each scene's own.
        with self._clock.stage("rank"):
            pairs = zip(self.encoders, texts, regions, strict=True)
            summed = torch.stack([encoder.scale * text @ region.T for encoder, text, region in pairs]).sum(0)
            logits = summed.double().cpu().numpy()  # (T, R), of the whole batch: one transfer
            parts = np.split(logits, np.cumsum([len(p) for p in proposals])[:-1], axis=1)
            return [self._of_scene(*each, rows) for each in zip(batch, phrases, proposals, parts, strict=True)]

    def note(self, text: str) -> str:
        """Return a note on one answer: whether a tokenizer cut the text, and whose."""
        cuts = {encoder.options.model: encoder.cut(self._prompted(text)) for encoder in self.encoders}
        if len(self.encoders) == 1:
            return next(iter(cuts.values()))
        return "; ".join(f"{model}: {cut}" for model, cut in cuts.items() if cut)

    def _views(self, batch: Sequence[LoadedScene], proposals: Sequence[Proposals], size: int) -> Tensor:
        options, device = self.options, self.encoders[0].device
        images, boxes, masks = zip(
            *[(s.image, p.boxes, p.masks) for s, p in zip(batch, proposals, strict=True)], strict=True
        )
        return make_views(
            images, boxes, options.drawn, size, options.margin, device, options.resize, masks, options.tint
        )

    @torch.inference_mode()
    def _regions(
        self,
        batch: Sequence[LoadedScene],
        proposals: Sequence[Proposals],
        encoder: ClipEncoder,
        pooling: RegionPooling | None,
        views: Tensor,
    ) -> Tensor:
        """Encode all boxes, of which there are views (V, R, 3, S, S) -> (R, D).

        Vectors are summed over views: the sum of cosines is a scaled cosine.
        """
        vectors = list(encoder.encode_images(views.flatten(0, 1)).unflatten(0, views.shape[:2])) if len(views) else []
        if pooling is not None:

            def pooled(some: Sequence[tuple[ImageArray, Boxes]]) -> Tensor:
                images, boxes = zip(*some, strict=True)
                return pooling.encode_boxes(images, boxes, self.options.margin, self.options.resize)

            pairs = [(scene.image, own.boxes) for scene, own in zip(batch, proposals, strict=True)]
            vectors.append(torch.cat(list(encoder.engine.chunked("images", pairs, pooled))))
        return torch.stack(vectors).sum(0)

    def _texts(self, encoder: ClipEncoder, texts: Sequence[str]) -> Tensor:
        """Encode texts -> (T, D), less the bank's mean, which subtracts its mean logit from every logit."""
        vectors = encoder.encode_texts([self._prompted(text) for text in texts])
        if self.options.subtract:
            bank = encoder.encode_texts([self._prompted(text) for text in BANK])
            vectors = vectors - self.options.subtract * bank.mean(0)
        return vectors

    def _prompted(self, text: str) -> str:
        return self.options.prompt.replace("{}", text.lower())

    def _of_scene(
        self, scene: LoadedScene, phrases: Sequence[Phrase], proposals: Proposals, logits: Float, rows: dict[str, int]
    ) -> Float:
        """Compute probabilities from (T, R) logits of one scene's regions -> (Q, R)."""
        whole = logits[[rows[query.text.lower()] for query in scene.queries]]
        out = softmax(whole)
        compare = [index for index, phrase in enumerate(phrases) if not phrase.plain]
        if compare and len(proposals):
            height, width = scene.image.shape[:2]
            geometry, soft = Geometry(proposals.boxes, (width, height)), self.options.temperature
            for index in compare:
                named = {text: softmax(logits[rows[text]] / soft) for text in phrases[index].texts()}
                out[index] = multiplied(softmax(whole[index] / soft), reason(phrases[index], named, geometry))
        return out


def open_parser(relations: Relations) -> Callable[[str], Phrase]:
    """Open the function that parses an expression into a Phrase. Raises MissingPackage."""
    if relations == "rules":
        return parse
    if relations == "spacy":
        from pipelines.two_stage.language.dependency import open_spacy

        return open_spacy()
    return Phrase


def softmax(logits: Float) -> Float:
    """Compute the softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
