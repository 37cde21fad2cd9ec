"""A first lesson for a small CLIP: which words fit which place of a picture.

OpenAI's CLIP has read four hundred million captions before CLIP-VG builds on it. A small one that starts from nothing
learns here what CLIP-VG needs of it, on whole scenes at CLIP-VG's own size, from a source of pictures that can name and
describe its objects. An object's vector is the mean of the patches it covers. It is contrasted with texts as CLIP
contrasts pictures with captions:

    within a scene    expression -> object, among the objects of the expression's own scene
    between scenes    object -> description, among all descriptions in the batch
    at every patch    patch -> the description of what covers it, or "nothing"

and every covered patch tells the box of what covers it, through a reader that is thrown away afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from clipvg.loss import coverage
from clipvg.model.text import PAD, text_features, up_to_longest
from clipvg.model.visual import multi_level_features, resized_positions
from pipelines.canvas import Style, shown

NOTHING = "nothing"
COVERED, BARE = 0.5, 0.05  # a patch is an object's from this share on, and nobody's below that one
SHARPEST = math.log(50)


class Lesson(BaseModel):
    """[train.clipvg.lesson]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(0, ge=0, description="0 = the CLIP is taken as it is")
    scenes_in_batch: int = Field(16, ge=1)
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warm_up: int = Field(100, ge=1, description="steps")
    places: float = Field(1.0, ge=0, description="weight of what each patch is told in words")
    boxes: float = Field(5.0, ge=0, description="weight of what each patch is told in boxes")
    log_every: int = Field(50, ge=1)


@dataclass(frozen=True)
class Shown:
    """A scene on its canvas: the boxes of its objects (R, 4) cxcywh in 0..1, their descriptions, and which of them each
    expression means.
    """

    pixels: Tensor
    edges: Tensor
    boxes: Tensor
    descriptions: list[str]
    texts: list[str]
    meant: list[int]


class PatchReader(nn.Module):
    """The CLIP, and what reads boxes off its patches: what is optimised."""

    def __init__(self, clip: Any, lesson: Lesson, size: int, style: Style, tokenizer: Any) -> None:
        super().__init__()
        self.clip, self.lesson, self.style = clip, lesson, style
        self.patch = clip.visual.conv1.weight.shape[-1]
        self.side = size // self.patch
        clip.visual.positional_embedding = nn.Parameter(
            resized_positions(clip.visual.positional_embedding.data, self.side)
        )
        self.boxes = nn.Linear(clip.visual.conv1.weight.shape[0], 4)
        self.seen = torch.zeros(clip.token_embedding.weight.shape[0], dtype=torch.bool)
        self._ids = cache(lambda text: tokenizer([text])[0])

    def loss(self, scenes: Sequence[Shown]) -> Tensor:
        """Scalar."""
        clip, visual = self.clip, self.clip.visual
        device = visual.conv1.weight.device
        with torch.autocast(device.type, torch.bfloat16):
            stream, patches = self.places(scenes)
            names = sorted({name for scene in scenes for name in scene.descriptions})
            asked = self.vectors([text for scene in scenes for text in scene.texts])
            described = self.vectors([*names, NOTHING])
        with torch.no_grad():
            clip.logit_scale.clamp_(0, SHARPEST)
        scale = clip.logit_scale.exp()
        objects, classes, chosen, told, boxed = [], [], [], [], []
        for number, (scene, texts) in enumerate(zip(scenes, asked.split([len(s.texts) for s in scenes]), strict=True)):
            boxes = scene.boxes.to(device)
            share = coverage(boxes, self.side)  # (R, P)
            vectors = mean_over(share, patches[number])
            meant = torch.tensor(scene.meant, device=device)
            chosen.append(F.cross_entropy(scale * texts @ vectors.T, meant, reduction="sum"))
            known = torch.tensor([names.index(name) for name in scene.descriptions], device=device)
            objects.append(vectors)
            classes.append(known)
            most, owner = share.max(dim=0)
            label = torch.where(most > COVERED, known[owner], torch.where(most < BARE, len(names), -100))
            logits = scale * F.normalize(patches[number], dim=1) @ described.T
            told.append(F.cross_entropy(logits, label, ignore_index=-100))
            covered = most > COVERED
            away = (self.boxes(stream[number][covered].float()).sigmoid() - boxes[owner[covered]]).abs()
            boxed.append(away.sum(dim=1).mean() if covered.any() else away.sum())
        loss = torch.stack(chosen).sum() / len(asked)
        loss = loss + F.cross_entropy(scale * torch.cat(objects) @ described[:-1].T, torch.cat(classes))
        mean = [torch.stack(terms).mean() for terms in (told, boxed)]
        out: Tensor = loss + self.lesson.places * mean[0] + self.lesson.boxes * mean[1]
        return out

    def places(self, scenes: Sequence[Shown]) -> tuple[Tensor, Tensor]:
        """What the last block says of every patch (B, P, W), and its place in the space of texts (B, P, E)."""
        visual = self.clip.visual
        device = visual.conv1.weight.device
        raw, edges = (torch.stack([getattr(s, name) for s in scenes]).to(device) for name in ("pixels", "edges"))
        pixels, _ = shown(raw, edges, self.patch, self.style)
        stream = multi_level_features(visual, pixels, (len(visual.transformer.resblocks) - 1,))[:, 1:]
        return stream, (visual.ln_post(stream) @ visual.proj).float()

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """(N, E) unit vectors."""
        ids = up_to_longest(torch.stack([self._ids(text) for text in texts])).to(
            self.clip.token_embedding.weight.device
        )
        self.seen[ids.flatten().cpu()] = True
        ends = (ids != PAD).sum(dim=1) - 1
        vectors = text_features(self.clip, ids)[torch.arange(len(ids), device=ids.device), ends]
        return F.normalize(vectors.float(), dim=1)


def mean_over(share: Tensor, patches: Tensor) -> Tensor:
    """Shares of patches (R, P) that objects cover, patches (P, E) -> unit vectors of the objects (R, E)."""
    return F.normalize(share @ patches / share.sum(dim=1, keepdim=True).clamp(min=1e-6), dim=1)
