"""How things look: attributes from a Pseudo-Q attribute file, or by CLIP from a list of words, without training.

The file is the Visual Genome detector's: a score for each of 400 words and box of its own, given to the detection of
the same class that it overlaps (spec clipvg.md 3.2). CLIP stands in for that detector, which nobody maintains: it is
shown the crop of each box and, for each group of words (colours, patterns), a text with each of them; the most likely
word of a group is said when it is likely enough. A group's silent words compete and are never said: "plain", or the
empty word, which stands for the name alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.boxes import iou_pairwise
from bench.errors import DataError, SettingsError
from bench.grounding import Boxes, ImageArray, PipelineContext
from bench.settings import Table
from clipvg.pseudo_labels.pseudo_q_files import Scored, names_of_files, read_attributes
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions
from pipelines.two_stage.clip.views import Resize, View, make_views


class Group(Table):
    """Words that exclude each other: a thing is said to be at most one of them."""

    words: tuple[str, ...] = Field(min_length=2)
    silent: tuple[str, ...] = Field(("",), description="of `words`: recognised and never said; '' is the name alone")
    threshold: float = Field(0.5, ge=0, le=1, description="the probability within the group above which it is said")


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
    file_threshold: float = Field(0.3, ge=0, description="of the files: the score above which an attribute is said")
    file_iou: float = Field(0.5, ge=0, lt=1, description="of the files: the IoU above which two boxes are one thing")
    clip: ClipOptions = ClipOptions()
    groups: tuple[Group, ...] = Field(GROUPS, description="the words it chooses from, in the order in which they go")
    most: int = Field(1, ge=1, description="words said of one thing: the likeliest")
    prompt: str = Field("a photo of a {attribute} {name}", pattern=r"\{attribute\}.*\{name\}")
    view: View = "crop"
    margin: float = Field(0.0, ge=0, description="widen each crop by this share of its sides")
    resize: Resize = "squash"


class Attribute(NamedTuple):
    """The words, empty where nothing is known, and how sure they are (of several words the least sure), 0..1."""

    words: str = ""
    score: float = 0.0


class Described(NamedTuple):
    """What is asked about one image: its key, its pixels, and N names with their boxes (N, 4) xyxy pixels."""

    key: str
    image: ImageArray
    names: Sequence[str]
    boxes: Boxes


# Of many images an attribute for each box; of one thing always the same, whatever is beside it.
Describer = Callable[[Sequence[Described]], list[list[Attribute]]]


def open_describer(options: AttributeOptions, where: str, context: PipelineContext) -> Describer | None:
    """The describer the options declare, None for none. Raises SettingsError, WeightsError, DataError."""
    match options.kind:
        case "file":
            return file_attributes(options, where, context)
        case "clip":
            return ClipAttributes(options, where, context).describe
        case _:
            return None


def file_attributes(options: AttributeOptions, where: str, context: PipelineContext) -> Describer:
    """Read attributes of files, each given to the detection of its class that it overlaps most."""
    files = (options.files,) if isinstance(options.files, str) else options.files
    if not files or not options.vocabulary:
        raise SettingsError(f"{where}: name the attribute `files`, and as `vocabulary` the file of their words")
    (path,) = names_of_files([options.vocabulary], context)
    words = read_vocabulary(path)
    table = read_attributes(names_of_files(files, context), len(words))

    def describe(one: Described) -> list[Attribute]:
        scored = table.get(one.key)
        if scored is None or not len(scored.boxes) or not len(one.names):
            return [Attribute()] * len(one.names)
        index, score = chosen(scored, one.names, one.boxes, words, options)
        return [Attribute(words[i], s) if i >= 0 else Attribute() for i, s in zip(index.tolist(), score, strict=True)]

    return lambda batch: [describe(one) for one in batch]


def read_vocabulary(path: Path) -> list[str]:
    """One attribute a line; of a line's spellings, "gray,grey", the first. Raises DataError."""
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


def chosen(
    scored: Scored, names: Sequence[str], boxes: Boxes, words: Sequence[str], options: AttributeOptions
) -> tuple[NDArray[np.intp], list[float]]:
    """Of each of N detections the index of its word and that word's score; -1 and 0 for none.

    A row of the file whose class names its own attribute ("brick wall", brick) counts as of the class without it.
    """
    best, top = scored.scores.argmax(axis=1), scored.scores.max(axis=1)
    bare = [without(name, words[i]) for name, i in zip(scored.names, best, strict=True)]
    same = np.array(names)[:, None] == np.array(bare)[None, :]
    overlap = np.where(
        same & (top > np.float32(options.file_threshold)), iou_pairwise(boxes, scored.boxes), 0.0
    )  # (N, M)
    row = overlap.argmax(axis=1)
    fits = overlap[np.arange(len(names)), row] > options.file_iou
    return np.where(fits, best[row], -1), np.where(fits, top[row], 0.0).tolist()


def without(name: str, attribute: str) -> str:
    """A class name less the words of an attribute, unless nothing would be left: "brick wall", "brick" -> "wall"."""
    said = set(attribute.split())
    return " ".join(word for word in name.split() if word not in said) or name


class ClipAttributes:
    """CLIP's choice within each group of words; the crops of a whole batch in one call of the encoder."""

    def __init__(self, options: AttributeOptions, where: str, context: PipelineContext) -> None:
        for group in options.groups:
            if unknown := [word for word in group.silent if word not in group.words and word]:
                raise SettingsError(f"{where}.groups: silent {unknown[0]!r} is not among the words {group.words}")
        self.options = options
        self.encoder = ClipEncoder(options.clip, context)

    def describe(self, batch: Sequence[Described]) -> list[list[Attribute]]:
        """For every image an attribute for each of its boxes."""
        names = [name for asked in batch for name in asked.names]
        if not names:
            return [[] for _ in batch]
        crops = torch.cat([self._crops(asked) for asked in batch if len(asked.names)])
        vectors = self.encoder.encode_images(crops)  # (N, D)
        kinds = {name: row for row, name in enumerate(dict.fromkeys(names))}
        rows = torch.tensor([kinds[name] for name in names], device=vectors.device)
        chances = [self._chances(vectors, rows, list(kinds), group) for group in self.options.groups]
        said = iter(spoken(chances, self.options.groups, self.options.most))
        return [[next(said) for _ in asked.names] for asked in batch]

    def _crops(self, asked: Described) -> Tensor:
        """(N, 3, S, S) in 0..1."""
        o, size = self.options, self.encoder.image_size
        return make_views(asked.image, asked.boxes, (o.view,), size, o.margin, self.encoder.device, o.resize)[0]

    def _chances(self, vectors: Tensor, rows: Tensor, kinds: Sequence[str], group: Group) -> NDArray[np.float64]:
        """(N, D) vectors of crops and the row of each one's name in `kinds` -> (N, W), a distribution over words."""
        texts = [self._text(word, name) for name in kinds for word in group.words]
        table = self.encoder.encode_texts(texts).unflatten(0, (len(kinds), len(group.words)))  # (K, W, D)
        cosines = torch.bmm(table[rows], vectors[:, :, None])[:, :, 0]
        return (self.encoder.scale * cosines).double().softmax(dim=1).cpu().numpy()

    def _text(self, word: str, name: str) -> str:
        return " ".join(self.options.prompt.replace("{attribute}", word).replace("{name}", name).split())


def spoken(chances: Sequence[NDArray[np.float64]], groups: Sequence[Group], most: int) -> list[Attribute]:
    """(N, W) for each group -> what is said of each of N things, its words in the order of the groups."""
    winner = np.stack([c.argmax(axis=1) for c in chances], axis=1)  # (N, G)
    score = np.stack([c.max(axis=1) for c in chances], axis=1)
    for g, group in enumerate(groups):
        silent = np.array([word in group.silent or not word for word in group.words])
        score[silent[winner[:, g]] | (score[:, g] <= group.threshold), g] = 0.0
    rank = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1)
    score[rank >= most] = 0.0
    out = []
    for words, scores in zip(winner.tolist(), score.tolist(), strict=True):
        said = [(group.words[w], s) for group, w, s in zip(groups, words, scores, strict=True) if s > 0]
        out.append(Attribute(" ".join(w for w, _ in said), min((s for _, s in said), default=0.0)))
    return out
