"""What MRefM hides and what it compares with: patches, tokens, words for the target, target-relation scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bench.errors import DataError
from bench.inputs import load_json
from bench.training.task import TrainingJob
from pipelines.augmentation import Augment
from pipelines.oneref.recipe import MRefM
from pipelines.oneref.tokenizer import UNKNOWN, SpmTokenizer
from pipelines.rows import Row, RowBatch, Rows, collate
from pipelines.two_stage.language.dependency import load_spacy
from pipelines.two_stage.language.parse import parse

SUBJECTS = {"subj", "xsubj", "npsubj", "nsubj", "nsubjpass", "csubj", "csubjpass", "agent", "expl"}
OBJECTS = {"dobj", "pobj", "dative", "oprd"}
MODEL = "en_core_web_md"  # the authors'
MASKED, KEPT = 0.8, 0.9  # bounds in 0..1: <mask> below the first, the token itself below the second, else any token
Words = Callable[[str], tuple[str, str]]  # a text's words for its target and for an object; empty where there is none


def hidden_patches(targets: Tensor, side: int, options: MRefM, rng: torch.Generator) -> Tensor:
    """Choose the patches that are hidden of each row, (B, side * side); targets (B, 4) are cxcywh in 0..1.

    Around the target, one patch wider, a share of its own takes the place of the common one.
    """
    device, count = targets.device, side * side
    noise = torch.rand(len(targets), count, generator=rng, device=device)
    everywhere = _rank(noise) >= int(count * (1 - options.image_share))
    # 1. The target's patches: corners cut to whole patches, then one more on each side.
    low, high = targets[:, :2] - targets[:, 2:] / 2, targets[:, :2] + targets[:, 2:] / 2
    low, high = (low * side).long() - 1, (high * side).long() + 1
    at = torch.arange(side, device=device)
    columns, rows = ((at >= low[:, i, None]) & (at < high[:, i, None]) for i in (0, 1))
    around = (rows[:, :, None] & columns[:, None, :]).flatten(1)
    # 2. Their own order; whatever is not around comes last in it.
    noise = torch.rand(noise.shape, generator=rng, device=device).masked_fill(~around, 2.0)
    kept = (around.sum(dim=1, keepdim=True).double() * (1 - options.target_share)).long()
    return torch.where(around, _rank(noise) >= kept, everywhere)


def replaced(
    ids: Tensor, padding: Tensor, first: Tensor, words: int, share: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Replace a share of each text's tokens, (B, L) -> new ids, and which they are (B, L).

    `first` (B, 2) are places that come before all others, -1 where there is none. <s> stays; </s> may go.
    """
    device = ids.device
    # 1. An order of the places: those of the subject and the object, then at random.
    noise = torch.rand(ids.shape, generator=rng, device=device).masked_fill(padding, 2.0)
    noise[:, 0] = 2.0
    for column, rank in ((1, -1.0), (0, -2.0)):
        row = (first[:, column] > 0).nonzero()[:, 0]
        noise[row, first[row, column]] = rank
    others = (~padding).sum(dim=1, keepdim=True) - 1
    count = (others * share + 0.5).long().clamp(min=1).minimum(others)
    hidden = _rank(noise) < count
    # 2. Most become <mask>, some stay, some become any token.
    chance = torch.rand(ids.shape, generator=rng, device=device)
    other = torch.randint(UNKNOWN, words, ids.shape, generator=rng, device=device)
    new = torch.where(chance < MASKED, words - 1, torch.where(chance < KEPT, ids, other))
    return torch.where(hidden, new, ids), hidden


def _rank(noise: Tensor) -> Tensor:
    """Return the place of each number in its row's order."""
    return noise.argsort(dim=1, stable=True).argsort(dim=1)


def first_places(texts: Sequence[str], tokenizer: SpmTokenizer, words: Words) -> Tensor:
    """Find the tokens of each text's words for target and object, (B, 2); -1 where a word is no single token."""
    return torch.tensor([_places(text, tokenizer, words) for text in texts])


def _places(text: str, tokenizer: SpmTokenizer, words: Words) -> list[int]:
    ids, out = tokenizer.encode(text)[: tokenizer.limit - 2], []
    for word in words(text.lower()):
        piece = tokenizer.model.token_to_id(f"▁{word}") if word else None
        out.append(1 + ids.index(piece) if piece in ids else -1)
    return out


def words_of(kind: Literal["rules", "spacy", "off"]) -> Words:
    """Return what finds a text's words for its target and an object. Raises MissingPackage where spaCy is chosen."""
    if kind == "off":
        return lambda _: ("", "")
    if kind == "spacy":
        model = load_spacy('mrefm.words = "spacy"', '"rules"', MODEL)
        return lru_cache(100_000)(lambda text: words_in(model(text)))
    return by_rules


def words_in(doc: Any) -> tuple[str, str]:
    """Return the words of a parsed text for its subject, or its root, and for its first object."""
    subject = next((t.text for t in doc if t.dep_ in SUBJECTS), "")
    root = next((t.text for t in doc if "ROOT" in t.dep_), "")
    return subject or root, next((t.text for t in doc if t.dep_ in OBJECTS), "")


def by_rules(text: str) -> tuple[str, str]:
    """Return the last words of a text's own name and of the first other object's."""
    phrase = parse(text)
    names = [phrase.text, *(other.text for _, other in phrase.relations[:1]), ""]
    target, other = (name.split()[-1] if name else "" for name in names[:2])
    return target, other


def smoothed(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Compute the divergence (N,) of predictions (N, V) from smoothed labels (N,)."""
    known = logits.log_softmax(dim=-1)
    rest = smoothing / (logits.shape[1] - 1)
    own = known.gather(1, labels[:, None])[:, 0]
    cross = (1 - smoothing - rest) * own + rest * known.sum(dim=-1)
    share = torch.tensor([1 - smoothing, rest], dtype=torch.float64)
    counts = torch.tensor([1, logits.shape[1] - 1], dtype=torch.float64)
    return float((counts * torch.xlogy(share, share)).sum()) - cross


def relations(targets: Tensor, side: int) -> Tensor:
    """Compute visual target-relation scores of patches, (B, 4) cxcywh in 0..1 -> (B, side * side, 4).

    They are the patch's way from the target's centre, as a share of the canvas, and one over the target's sides in
    patches.
    """
    boxes = targets.float() * side
    at = torch.arange(side, device=targets.device)
    across = ((at - boxes[:, :1]) / side)[:, None, :].expand(-1, side, -1)
    down = ((at - boxes[:, 1:2]) / side)[:, :, None].expand(-1, -1, side)
    sizes = (1 / boxes[:, 2:].clamp(min=1))[:, None, None].expand(-1, side, side, -1)
    return torch.cat([torch.stack([across, down], dim=-1), sizes], dim=-1).flatten(1, 2)


@dataclass(frozen=True, slots=True)
class ScoredBatch(RowBatch):
    """Rows with the semantic scores of each, (B, L - 2)."""

    scores: Tensor | None = None


class ScoredRows(Rows):
    """Rows with the semantic target-relation scores of each."""

    def __init__(self, job: TrainingJob, size: int, augment: Augment | None, scores: Mapping[str, Tensor]) -> None:
        super().__init__(job, size, "official", augment)
        self.scores = scores
        names = (expression.id for scene in self.scenes for expression in scene.expressions)
        if missing := next((name for name in names if name not in scores), ""):
            raise DataError(f"expression {missing}: it has no semantic scores in the file of mrefm.scores")

    def sample(self, epoch: int, index: int) -> tuple[Row, Tensor]:  # type: ignore[override]
        """Return the row as that epoch shows it, and its scores. Raises ImageError, DataError."""
        return super().sample(epoch, index), self.scores[self.name(index)]

    def samples(self, epoch: int, indices: Sequence[int]) -> list[tuple[Row, Tensor]]:  # type: ignore[override]
        """Return rows as that epoch shows them, those of one image on one canvas, and their scores."""
        rows = super().samples(epoch, indices)
        return [(row, self.scores[self.name(index)]) for row, index in zip(rows, indices, strict=True)]


def collate_scored(samples: Sequence[tuple[Row, Tensor]]) -> ScoredBatch:
    """Join rows and their scores into a batch."""
    plain = collate([row for row, _ in samples])
    scores = torch.stack([scores for _, scores in samples])
    return ScoredBatch(plain.images, plain.edges, plain.targets, plain.texts, plain.owners, scores)


def read_scores(path: Path, length: int) -> dict[str, Tensor]:
    """Read semantic scores, JSON of expression id -> `length` numbers. Raises DataError."""
    table = load_json(path)
    if not isinstance(table, dict):
        raise DataError(f"{path}: expected a JSON object of expression id -> {length} numbers")
    out = {}
    for name, numbers in table.items():
        fits = isinstance(numbers, list) and len(numbers) == length
        if not fits or not all(isinstance(x, int | float) and abs(x) < 1e6 for x in numbers):
            raise DataError(f"{path}: {name}: expected {length} finite numbers, one for each place of a text")
        out[str(name)] = torch.tensor(numbers, dtype=torch.float32)
    return out
