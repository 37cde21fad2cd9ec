"""Samples of MDETR's training: one expression with its image, augmented as in the official training, and batches.

A sample is drawn with a generator seeded by (seed, epoch, index): it depends on nothing else. Images of a batch are
padded with zeros to the largest, and a mask says where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.boxes import box_xyxy_to_cxcywh
from bench.errors import DataError
from bench.grounding import Box, ImageArray, check_box_touches
from bench.training.task import Batch, TrainingJob
from pipelines.mdetr.inputs import resized
from pipelines.tokens import Tokenizer
from pipelines.two_stage.language.dependency import load_spacy

# Short sides for images of 800 in evaluation (datasets/coco.py of the official code); other sizes scale them.
BASE = 800
SCALES = range(480, 801, 32)
BEFORE_CROP = (400, 500, 600)
SMALLEST_CROP = 384
TRIES = 100
NOUNS = ("NN", "NNS", "NNP", "NNPS")
Spans = Callable[[str], Sequence[tuple[int, int]]]
Sample = tuple[Tensor, Tensor, str]
"""An image (3, h, w) uint8, the target (4,) cxcywh in 0..1 of it, and the text."""


@dataclass(frozen=True, slots=True)
class MdetrBatch(Batch):
    """Hold pixels (B, 3, H, W) uint8, targets (B, 4) cxcywh in 0..1 of the unpadded image, and token ids (B, T).

    `image_padding` (B, H, W) and `text_padding` (B, T) are True on padding, `positive` (B, T) on the tokens that refer
    to the target.
    """

    pixels: Tensor
    image_padding: Tensor
    targets: Tensor
    tokens: Tensor
    text_padding: Tensor
    positive: Tensor


class Expressions:
    """Every expression of a job's scenes, with its image at (short, long) sides."""

    def __init__(self, job: TrainingJob, sizes: tuple[int, int], augment: bool) -> None:
        self.job, self.sizes, self.augment = job, sizes, augment
        self.places = [(scene, e) for scene in job.scenes for e in scene.expressions]
        if not self.places:
            raise DataError("no expression to train on")

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        """Return the expression's id."""
        return self.places[index][1].id

    def sample(self, epoch: int, index: int) -> Sample:
        """Draw the sample of that epoch. Raises ImageError, DataError."""
        scene, expression = self.places[index]
        image = self.job.images.load(scene)
        height, width = image.shape[:2]
        check_box_touches(scene, expression, width, height)
        if not self.augment:
            return _sample(resized(image, *self.sizes), expression.box, (width, height), expression.text)
        rng = np.random.default_rng([self.job.context.seed, epoch, index])
        return augmented(image, expression.box, expression.text, self.sizes, rng)


def augmented(image: ImageArray, box: Box, text: str, sizes: tuple[int, int], rng: np.random.Generator) -> Sample:
    """Resize an image (H, W, 3) at random, every other time after a random crop that keeps some of the box.

    No flip: expressions say left and right. `sizes` are the (short, long) sides of evaluation.
    """
    share = sizes[0] / BASE
    short = round(int(rng.choice(SCALES)) * share)
    height, width = image.shape[:2]
    if rng.random() >= 0.5:
        # 1. Resize, without a limit of the long side.
        image = _hwc(resized(image, round(int(rng.choice(BEFORE_CROP)) * share), 10**9))
        across, down = image.shape[1] / width, image.shape[0] / height
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        # 2. Crop; the box moves along and is cut at the edges.
        left, top, right, bottom = _window(image, box, round(SMALLEST_CROP * share), sizes[1], rng)
        image = image[top:bottom, left:right]
        height, width = image.shape[:2]
        box = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    # 3. Resize to one of the scales.
    return _sample(resized(image, short, sizes[1]), box, (width, height), text)


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, spans: Spans) -> MdetrBatch:
    """Join samples into a batch; `spans` gives the characters of a text that refer to the target."""
    images, targets, texts = zip(*samples, strict=True)
    # 1. Images, padded to the largest.
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    pixels = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    image_padding = torch.ones(len(samples), height, width, dtype=torch.bool)
    for row, image in enumerate(images):
        _, h, w = image.shape
        pixels[row, :, :h, :w] = image
        image_padding[row, :h, :w] = False
    # 2. Texts, and the tokens that refer to the target.
    tokens, text_padding = tokenizer(texts)
    positive = pad_sequence([tokenizer.spans(text, spans(text)) for text in texts], batch_first=True)
    positive = F.pad(positive, (0, tokens.shape[1] - positive.shape[1]))
    return MdetrBatch(pixels, image_padding, torch.stack(targets), tokens, text_padding, positive)


def _sample(pixels: Tensor, box: Box, size: tuple[int, int], text: str) -> Sample:
    """Convert an xyxy box in pixels of an image of `size` (width, height), cut at its edges."""
    limits = np.array(size * 2, dtype=np.float64)
    corners = np.clip(np.array(box, dtype=np.float64), 0, limits) / limits
    return pixels, torch.from_numpy(box_xyxy_to_cxcywh(corners)).float(), text


def _window(image: ImageArray, box: Box, least: int, most: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a crop (left, top, right, bottom) with sides in `least` .. `most` that keeps some of the box.

    After too many tries it is the whole image, where the official code trains without a target.
    """
    height, width = image.shape[:2]
    for _ in range(TRIES):
        w, h = (int(rng.integers(min(least, side), min(side, most), endpoint=True)) for side in (width, height))
        left, top = int(rng.integers(width - w, endpoint=True)), int(rng.integers(height - h, endpoint=True))
        if min(box[2], left + w) > max(box[0], left) and min(box[3], top + h) > max(box[1], top):
            return left, top, left + w, top + h
    return 0, 0, width, height


def _hwc(pixels: Tensor) -> ImageArray:
    """Turn (3, h, w) into (h, w, 3)."""
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def root_finder() -> Callable[[str], Sequence[tuple[int, int]]]:
    """Return a function: text -> character spans of its root noun phrase. Raises MissingPackage without spaCy."""
    model = load_spacy('positive_tokens = "root"', '"expression"')
    return lru_cache(maxsize=100_000)(lambda text: root_spans(model(text)))


def root_spans(doc: Any) -> list[tuple[int, int]]:
    """Find the character spans of a parsed text that name its target: the root noun with what stands left of it.

    The whole text where there is one noun at most, or no root noun; as the official annotations were made.
    """
    whole = [(0, len(doc.text))]
    named = [token for token in doc if token.tag_ in (*NOUNS, "PRP")]
    root = next((token for token in doc if token.dep_ == "ROOT" and token.tag_ != "UH"), None)
    if len(named) <= 1 or root is None:
        return whole
    if any(child.dep_ == "compound" and child.tag_.startswith("VB") for child in root.children):
        return whole
    if root.tag_ in NOUNS:
        tokens = _left_of(root)
    else:  # a verb: its first noun
        nouns = [child for child in root.children if child.tag_ in (*NOUNS, "PRP")]
        if not nouns:
            return whole
        tokens = [*nouns[0].lefts, nouns[0]]
    return [(token.idx, token.idx + len(token.text)) for token in tokens]


def _left_of(noun: Any) -> list[Any]:
    """List the noun, what depends on it on its left, and what depends so on nouns among that."""
    return [noun, *(t for left in noun.lefts for t in (_left_of(left) if left.tag_ in NOUNS else [left]))]
