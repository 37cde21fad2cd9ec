"""Describe detections: attributes from a Pseudo-Q attribute file, or by CLIP from a list of words, without training.

The file is the Visual Genome detector's: a score for each of 400 words and box of its own, given to the detection of
the same class that it overlaps. CLIP stands in for that detector, which nobody maintains: it compares the crop of each
box with a text for each word of a group (colours, patterns); the most likely word of a group is used when it is likely
enough. A group's silent words compete and are never used: "plain", or the empty word, which stands for the name alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from bench.boxes import iou_pairwise
from bench.datasets.fingerprint import image_key
from bench.errors import DataError, SettingsError
from bench.grounding import Boxes, PipelineContext
from bench.settings import Table
from clipvg.pseudo_labels.detection_files import AttributeScores, ImageDetections, boxes_of, find_files, read_attributes
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.clip.views import Resize, View, make_views


class Group(Table):
    """Words that exclude each other: an object has at most one of them."""

    words: tuple[str, ...] = Field(min_length=2)
    silent: tuple[str, ...] = Field(("",), description="of `words`: recognised and never used; '' is the name alone")
    threshold: float = Field(0.5, ge=0, le=1, description="the probability within the group above which it is used")


COLOURS = ("", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
MATERIALS = ("", "wooden", "metal", "plastic", "glass", "leather", "stone", "brick", "paper")
PATTERNS = ("", "striped", "checkered", "dotted", "floral", "camouflage")
STATES = ("", "open", "closed", "empty", "full", "wet", "broken", "young", "old")
GROUPS = tuple(Group(words=words) for words in (STATES, PATTERNS, COLOURS, MATERIALS))


class AttributeOptions(Table):
    """[label.SOURCE.objects.attributes]: from files, by CLIP, or none at all."""

    kind: Literal["none", "file", "clip"] = "none"
    files: str | tuple[str, ...] = Field((), description="attribute files in Pseudo-Q's format")
    vocabulary: str = Field("", description="of the files: a text file, one attribute a line, in their order")
    file_threshold: float = Field(0.3, ge=0, description="of the files: the score above which an attribute is used")
    file_iou: float = Field(0.5, ge=0, lt=1, description="of the files: the IoU above which two boxes are one object")
    clip: ClipOptions = ClipOptions()
    groups: tuple[Group, ...] = Field(GROUPS, description="the words it chooses from, in the order in which they go")
    most: int = Field(1, ge=1, description="words for one object: the likeliest")
    prompt: str = Field("a photo of a {attribute} {name}", pattern=r"\{attribute\}.*\{name\}")
    view: View = "crop"
    margin: float = Field(0.0, ge=0, description="widen each crop by this share of its sides")
    resize: Resize = "squash"


Attribute = tuple[str, float]  # the words, empty where nothing is known; the least of their scores, 0..1
NO_ATTRIBUTE: Attribute = ("", 0.0)
# Of many images an attribute for each detection; of one object always the same, whatever is beside it.
Describe = Callable[[Sequence[ImageDetections]], list[list[Attribute]]]


def open_attributes(options: AttributeOptions, where: str, context: PipelineContext) -> Describe | None:
    """Open what describes detections, None for none. Raises SettingsError, WeightsError, DataError."""
    match options.kind:
        case "file":
            return file_attributes(options, where, context)
        case "clip":
            return clip_attributes(options, where, context)
        case _:
            return None


def file_attributes(options: AttributeOptions, where: str, context: PipelineContext) -> Describe:
    """Read attributes of files, each given to the detection of its class that it overlaps most."""
    files = (options.files,) if isinstance(options.files, str) else options.files
    if not files or not options.vocabulary:
        raise SettingsError(f"{where}: name the attribute `files`, and as `vocabulary` the file of their words")
    (path,) = find_files([options.vocabulary], context)
    words = read_vocabulary(path)
    table = read_attributes(find_files(files, context), len(words))

    def describe(image: ImageDetections) -> list[Attribute]:
        scored, names = table.get(image_key(image.scene.file)), [d.name for d in image.detections]
        if scored is None or not scored[0] or not names:
            return [NO_ATTRIBUTE] * len(names)
        index, score = match_attributes(scored, names, boxes_of(image.detections), words, options)
        return [(words[i], s) if i >= 0 else NO_ATTRIBUTE for i, s in zip(index.tolist(), score, strict=True)]

    return lambda batch: [describe(image) for image in batch]


def read_vocabulary(path: Path) -> list[str]:
    """Read one attribute a line; of a line's spellings, "gray,grey", the first. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); expected one attribute a line") from None
    words = [line.partition(",")[0].strip().lower() for line in lines]
    while words and not words[-1]:
        words.pop()
    if not words or "" in words:
        at = words.index("") + 1 if words else 1
        raise DataError(f"{path}: line {at} is empty; expected one attribute a line, as many as there are scores")
    return words


def match_attributes(
    scored: AttributeScores, names: Sequence[str], boxes: Boxes, words: Sequence[str], options: AttributeOptions
) -> tuple[NDArray[np.intp], list[float]]:
    """Return for each of N detections the index of its word and that word's score; -1 and 0 for none.

    A row of the file whose class names its own attribute ("brick wall", brick) counts as of the class without it.
    """
    file_names, file_boxes, scores = scored
    # 1. The best word of each of M rows, and the rows of a detection's class: (N, M).
    best, top = scores.argmax(axis=1), scores.max(axis=1)
    bare = [without(name, words[i]) for name, i in zip(file_names, best, strict=True)]
    same = np.array(names)[:, None] == np.array(bare)[None, :]
    # 2. Of those with a score above the threshold, the one that overlaps the detection most.
    usable = same & (top > np.float32(options.file_threshold))
    overlap = np.where(usable, iou_pairwise(boxes, file_boxes), 0.0)
    row = overlap.argmax(axis=1)
    fits = overlap[np.arange(len(names)), row] > options.file_iou
    return np.where(fits, best[row], -1), np.where(fits, top[row], 0.0).tolist()


def without(name: str, attribute: str) -> str:
    """Remove an attribute's words from a class name, unless nothing would be left: "brick wall", "brick" -> "wall"."""
    words = set(attribute.split())
    return " ".join(word for word in name.split() if word not in words) or name


def clip_attributes(options: AttributeOptions, where: str, context: PipelineContext) -> Describe:
    """Let CLIP choose within each group of words; the crops of a whole batch are one call of the encoder."""
    for group in options.groups:
        if unknown := [word for word in group.silent if word not in group.words and word]:
            raise SettingsError(f"{where}.groups: silent {unknown[0]!r} is not among the words {group.words}")
    encoder = ClipEncoder(options.clip, context)
    views = (options.view,), encoder.image_size, options.margin, encoder.device, options.resize

    def describe(batch: Sequence[ImageDetections]) -> list[list[Attribute]]:
        names = [detection.name for image in batch for detection in image.detections]
        if not names:
            return [[] for _ in batch]
        # 1. A vector for each crop, of all images at once: (N, D).
        images, boxes = zip(*[(i.image, boxes_of(i.detections)) for i in batch if i.detections], strict=True)
        vectors = encoder.encode_images(make_views(images, boxes, *views)[0])
        # 2. For each group a distribution over its words, in texts with the crop's class name: (N, W).
        kinds = {name: row for row, name in enumerate(dict.fromkeys(names))}
        rows = torch.tensor([kinds[name] for name in names], device=vectors.device)
        probabilities = []
        for group in options.groups:
            texts = [prompt_text(options.prompt, word, name) for name in kinds for word in group.words]
            table = encoder.encode_texts(texts).unflatten(0, (len(kinds), len(group.words)))  # (K, W, D)
            cosines = torch.bmm(table[rows], vectors[:, :, None])[:, :, 0]
            probabilities.append((encoder.scale * cosines).double().softmax(dim=1).cpu().numpy())
        # 3. The likeliest words of each detection.
        attributes = iter(likeliest_words(probabilities, options.groups, options.most))
        return [[next(attributes) for _ in image.detections] for image in batch]

    return describe


def prompt_text(prompt: str, word: str, name: str) -> str:
    """Fill a prompt; the empty word leaves the name alone."""
    return " ".join(prompt.replace("{attribute}", word).replace("{name}", name).split())


def likeliest_words(
    probabilities: Sequence[NDArray[np.float64]], groups: Sequence[Group], most: int
) -> list[Attribute]:
    """Choose the attribute of each of N objects, its words in the order of the groups; (N, W) for each group."""
    # 1. A group's winner counts if it is not silent and above the threshold: (N, G).
    winner = np.stack([p.argmax(axis=1) for p in probabilities], axis=1)
    score = np.stack([p.max(axis=1) for p in probabilities], axis=1)
    for g, group in enumerate(groups):
        silent = np.array([word in group.silent or not word for word in group.words])
        score[silent[winner[:, g]] | (score[:, g] <= group.threshold), g] = 0.0
    # 2. Of all groups the `most` likeliest.
    rank = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1)
    score[rank >= most] = 0.0
    out = []
    for words, scores in zip(winner.tolist(), score.tolist(), strict=True):
        chosen = [(group.words[w], s) for group, w, s in zip(groups, words, scores, strict=True) if s > 0]
        out.append((" ".join(w for w, _ in chosen), min((s for _, s in chosen), default=0.0)))
    return out
