"""Ranking: which region of a scene an expression is about, by one CLIP or the sum of several (spec/pipelines.md 3).

    logits      scale * cosine of text and view, summed over views and models                      (ReCLIP 3.1)
    subtract    less what captions in general like about the region, by a fixed bank of them       (Red Circle)
    relations   where the expression compares, rules multiply what CLIP says of the names in it    (ReCLIP 3.2)

Everything about an image is done once for all its expressions, and the regions of a whole batch share forward passes;
what is done for one expression alone is a row of a matrix product and, where it compares, a few products of (R, R).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.clock import Clock
from bench.grounding import LoadedScene
from bench.settings import Table
from pipelines.two_stage.clip.encoder import ClipEncoder
from pipelines.two_stage.clip.views import Resize, View, make_views
from pipelines.two_stage.language.parse import Phrase, parse
from pipelines.two_stage.language.relations import Geometry, multiplied, reason
from pipelines.two_stage.proposers.proposals import Proposals

Float = NDArray[np.float64]
Relations = Literal["off", "rules", "spacy"]

# A fixed bank: the things of COCO, said plainly. What every one of them likes about a region says nothing about one.
_THINGS = (
    "person bicycle car motorcycle airplane bus train truck boat bench bird cat dog horse sheep cow elephant bear "
    "zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard kite bottle cup fork knife spoon bowl "
    "banana apple sandwich orange broccoli carrot pizza donut cake chair couch bed toilet tv laptop mouse remote "
    "keyboard microwave oven toaster sink refrigerator book clock vase scissors toothbrush"
)
BANK = tuple(_THINGS.split())


class RankerOptions(Table):
    """[pipelines.*.ranker]."""

    views: tuple[View, ...] = Field(("crop", "blur"), min_length=1)
    margin: float = Field(0.0, ge=0, description="widen each crop by this share of its sides")
    resize: Resize = Field("squash", description="how what is no square becomes one: squash, pad, center")
    prompt: str = Field("a photo of {}", pattern=r"\{\}")
    subtract: float = Field(0.0, ge=0, description="weight of the score subtraction; 0 = off")
    relations: Relations = Field("off", description="who reads comparisons: our small parser (rules), spaCy, nobody")
    temperature: float = Field(
        1.0, gt=0, description="of expressions that compare: logits are divided by it; ReCLIP takes 1"
    )


class Ranker:
    """Probabilities over the proposals of each scene, for each of its queries."""

    def __init__(self, options: RankerOptions, encoders: Sequence[ClipEncoder], clock: Clock) -> None:
        """Raises MissingPackage when spaCy is to read and is not there."""
        self.options, self.encoders, self._clock = options, tuple(encoders), clock
        self._read = reader(options.relations)

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """What is kept of texts between calls -> what empties it."""

        def forget() -> None:
            for encoder in self.encoders:
                encoder.forget_texts()

        forget_phrases = getattr(self._read, "cache_clear", None)
        return {"texts": forget} | ({"phrases": forget_phrases} if forget_phrases else {})

    def rank(self, batch: Sequence[LoadedScene], proposals: Sequence[Proposals]) -> list[Float]:
        """One (Q, R) for each scene, every row a distribution. Raises SettingsError for masks that are not there."""
        with self._clock.stage("crop"):
            sizes = dict.fromkeys(encoder.image_size for encoder in self.encoders)
            views = {size: self._views(batch, proposals, size) for size in sizes}  # (V, R, 3, size, size)
        with self._clock.stage("image encode"):
            regions = [self._regions(encoder, views[encoder.image_size]) for encoder in self.encoders]
        return self.chances(batch, proposals, regions)

    def chances(
        self, batch: Sequence[LoadedScene], proposals: Sequence[Proposals], regions: Sequence[Tensor]
    ) -> list[Float]:
        """`rank` for regions encoded elsewhere: of each model's, (R, D) vectors of all the batch's proposals."""
        phrases = [[self._read(query.text) for query in scene.queries] for scene in batch]
        with self._clock.stage("text encode"):
            asked = [query.text.lower() for scene in batch for query in scene.queries]
            names = [text for scene in phrases for phrase in scene if not phrase.plain for text in phrase.texts()]
            rows = {text: row for row, text in enumerate(dict.fromkeys(asked + names))}
            texts = [self._texts(encoder, list(rows)) for encoder in self.encoders]
        with self._clock.stage("rank"):
            pairs = zip(self.encoders, texts, regions, strict=True)
            summed = torch.stack([encoder.scale * text @ region.T for encoder, text, region in pairs]).sum(0)
            logits = summed.double().cpu().numpy()  # (T, R), of the whole batch: one transfer
            parts = np.split(logits, np.cumsum([len(p) for p in proposals])[:-1], axis=1)
            return [self._chances(*each, rows) for each in zip(batch, phrases, proposals, parts, strict=True)]

    def note(self, text: str) -> str:
        """What a reader should know about this one answer: whether a tokenizer cut the text, and whose."""
        cuts = {encoder.options.model: encoder.cut(self._prompted(text)) for encoder in self.encoders}
        if len(self.encoders) == 1:
            return next(iter(cuts.values()))
        return "; ".join(f"{model}: {cut}" for model, cut in cuts.items() if cut)

    def _views(self, batch: Sequence[LoadedScene], proposals: Sequence[Proposals], size: int) -> Tensor:
        options, device = self.options, self.encoders[0].device
        return torch.cat(
            [
                make_views(s.image, p.boxes, options.views, size, options.margin, device, options.resize, p.masks)
                for s, p in zip(batch, proposals, strict=True)
            ],
            dim=1,
        )

    def _regions(self, encoder: ClipEncoder, views: Tensor) -> Tensor:
        """(V, R, 3, S, S) -> (R, D), summed over views: the sum of cosines is the cosine of the sum, but for scale."""
        summed: Tensor = encoder.encode_images(views.flatten(0, 1)).unflatten(0, views.shape[:2]).sum(0)
        return summed

    def _texts(self, encoder: ClipEncoder, texts: Sequence[str]) -> Tensor:
        """(T, D); with the bank's mean taken away, which takes its mean logit away from every logit."""
        vectors = encoder.encode_texts([self._prompted(text) for text in texts])
        if self.options.subtract:
            bank = encoder.encode_texts([self._prompted(text) for text in BANK])
            vectors = vectors - self.options.subtract * bank.mean(0)
        return vectors

    def _prompted(self, text: str) -> str:
        return self.options.prompt.replace("{}", text.lower())

    def _chances(
        self, scene: LoadedScene, phrases: Sequence[Phrase], proposals: Proposals, logits: Float, rows: dict[str, int]
    ) -> Float:
        """(T, R) logits of one scene's regions -> (Q, R)."""
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


def reader(relations: Relations) -> Callable[[str], Phrase]:
    """What makes a Phrase of an expression. Raises MissingPackage."""
    if relations == "rules":
        return parse
    if relations == "spacy":
        from pipelines.two_stage.language.dependency import open_spacy

        return open_spacy()
    return Phrase


def softmax(logits: Float) -> Float:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
