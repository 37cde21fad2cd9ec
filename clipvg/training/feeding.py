"""Rows onto the device: pixels normalised there, texts read once, and, where nothing moves, pictures seen once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clipvg.model.network import ClipVG
from clipvg.model.text import PAD, text_features, up_to_longest
from clipvg.model.visual import multi_level_features
from clipvg.training.objective import Batch
from clipvg.training.order import Micro, Order, micros
from clipvg.training.rows import Drawn, Rows
from pipelines.canvas import Canvas, letterboxed, shown, stacked
from pipelines.clip.encoder import cut_note

AT_ONCE = 32  # pictures or texts in a pass without gradients


class Words:
    """CLIP's tokens of a text: a pure function of the string, for CLIP's text tower is frozen. Each is read once.

    Texts are read in runs whose members are settled in advance, so that not even the last bit of a text depends on
    what else a step holds, or on where the training was begun again.
    """

    def __init__(self, network: ClipVG, texts: Iterable[str], device: torch.device) -> None:
        self.clip, self.device = network.clip, device
        self.tokenizer = open_clip.get_tokenizer(network.config.clip)
        self.context = network.context
        ordered = sorted(set(texts), key=lambda text: (len(text), text))
        runs = [ordered[start : start + AT_ONCE] for start in range(0, len(ordered), AT_ONCE)]
        self._run = {text: run for run in runs for text in run}
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, L, E) tokens up to the longest text, and what of it is padding (B, L)."""
        for text in texts:
            if text not in self._known:
                self._read(self._run.get(text, [text]))
        known = [self._known[text] for text in texts]
        words = pad_sequence([tokens for tokens, _ in known], batch_first=True)
        return words, pad_sequence([padding for _, padding in known], batch_first=True, padding_value=True)

    @torch.no_grad()
    def _read(self, texts: list[str]) -> None:
        ids = up_to_longest(self.tokenizer(texts)).to(self.device)
        for text, tokens, row in zip(texts, text_features(self.clip, ids), ids, strict=True):
            length = int((row != PAD).nonzero().max()) + 1
            self._known[text] = (tokens[:length].clone(), row[:length] == PAD)

    @cached_property
    def cut(self) -> frozenset[str]:
        """The texts, of those announced, that are longer than CLIP's context."""
        return frozenset(text for text in self._run if cut_note(self.tokenizer, text, self.context))


class Album:
    """What a frozen CLIP sees of pictures, in float16, each looked at once: for trainings in which no picture changes.

    One album does for many trainings on the same CLIP, canvas and style (a curriculum's), whatever rows they take.
    """

    def __init__(self) -> None:
        self.place: dict[str, int] = {}  # picture file -> its row
        self.features = torch.empty(0)  # (N, 1 + P, W * taps)
        self.masked = torch.empty(0)  # (N, P)
        self.edges: list[Canvas] = []  # without pixels

    def look(self, rows: Rows, network: ClipVG, device: torch.device, threads: int = 2) -> None:
        """Adds the pictures of `rows` that are not in it yet. Raises PictureError, DataError."""
        new = [scene for scene in rows.scenes if scene.file not in self.place]
        features, masks = ([self.features], [self.masked]) if self.place else ([], [])
        patch, nothing = rows.size // network.side, np.empty((rows.size, 0, 3), np.uint8)
        with torch.no_grad(), ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(new), AT_ONCE):
                some = new[start : start + AT_ONCE]
                canvases = list(pool.map(lambda scene: letterboxed(rows.load(scene), rows.size, rows.style), some))
                pixels, masked = stacked(canvases, patch, rows.style, device)
                features.append(multi_level_features(network.clip.visual, pixels, network.config.taps).half())
                masks.append(masked)
                for scene, canvas in zip(some, canvases, strict=True):
                    self.place[scene.file] = len(self.edges)
                    self.edges.append(replace(canvas, pixels=nothing))
        if new:
            self.features, self.masked = torch.cat(features), torch.cat(masks)


@dataclass
class Shared:
    """What trainings on one CLIP have in common, so that none does it again: `texts` are those of all of them."""

    texts: frozenset[str]
    album: Album = field(default_factory=Album)
    words: Words | None = None


class Kept:
    """Rows of an album's pictures: everything a step needs is in memory."""

    def __init__(self, rows: Rows, network: ClipVG, device: torch.device, album: Album | None = None) -> None:
        self.rows, self.album = rows, album or Album()
        self.album.look(rows, network, device)
        places = [self.album.place[scene.file] for scene in rows.scenes]
        targets = [
            rows.target(self.album.edges[place], expression)
            for scene, place in zip(rows.scenes, places, strict=True)
            for expression in scene.expressions
        ]
        self.targets = torch.tensor(np.stack(targets), dtype=torch.float32, device=device)
        self.owners = torch.tensor([places[scene] for scene, _ in rows.places], device=device)

    def batch(self, numbers: Sequence[int], words: Words) -> Batch:
        """Rows by number."""
        index = torch.tensor(numbers, device=self.owners.device)
        owners = self.owners[index]
        said, padding = words([self.rows.expression(row)[1].text for row in numbers])
        return Batch(self.album.features[owners].float(), self.album.masked[owners], said, padding, self.targets[index])

    def batches(
        self, order: Order, steps: tuple[int, int], batch: int, share: tuple[int, int], words: Words
    ) -> Iterator[tuple[Micro, Batch]]:
        """The forward passes of the steps `steps`, of which the second is not one."""
        for micro in micros(order, *steps, batch, *share):
            yield micro, self.batch(micro.rows, words)


def on_device(drawn: Drawn, rows: Rows, patch: int, words: Words) -> Batch:
    """Rows as they were drawn -> a batch."""
    copies = (drawn.pixels, drawn.edges, drawn.targets)
    pixels, edges, targets = (t.to(words.device, non_blocking=True) for t in copies)
    seen, masked = shown(pixels, edges, patch, rows.style)
    return Batch(seen, masked, *words(drawn.texts), targets)
