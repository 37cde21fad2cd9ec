"""Features of frozen encoders, computed once: of texts by string, of images by file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor

AT_ONCE = 32  # images or texts in a pass without gradients
Loaded = TypeVar("Loaded")
Features = tuple[Tensor, ...]


class TextFeatureCache:
    """A frozen encoder's features of texts, each encoded once.

    Texts are encoded in runs whose members are settled in advance, so that not even the last bit of a text depends on
    what else a step holds, or on where the training was resumed.
    """

    def __init__(self, texts: Iterable[str], encode: Callable[[list[str]], Sequence[Features]]) -> None:
        ordered = sorted(set(texts), key=lambda text: (len(text), text))
        runs = [ordered[start : start + AT_ONCE] for start in range(0, len(ordered), AT_ONCE)]
        self._run = {text: run for run in runs for text in run}
        self._encode = encode
        self._known: dict[str, Features] = {}

    def __call__(self, texts: Sequence[str]) -> list[Features]:
        """Return the features of each text, in order."""
        for text in texts:
            if text not in self._known:
                run = self._run.get(text, [text])
                with torch.no_grad():
                    self._known |= dict(zip(run, self._encode(run), strict=True))
        return [self._known[text] for text in texts]


class ImageFeatureCache(Generic[Loaded]):
    """A frozen encoder's features of images, one row each in every table; for trainings in which no image changes.

    One cache serves many trainings on the same encoder and canvas, whatever images they take.
    """

    def __init__(self) -> None:
        self.row: dict[str, int] = {}  # image file -> its row
        self.loaded: list[Loaded] = []  # what `load` returned
        self.tables: list[Tensor] = []

    def fill(
        self,
        files: Sequence[str],
        load: Callable[[str], Loaded],
        encode: Callable[[Sequence[Loaded]], Features],
        keep: Callable[[Loaded], Loaded],
        threads: int = 2,
    ) -> None:
        """Encode the images that are not in it yet; `keep` is what stays of a loaded image. Raises what `load` does."""
        new = [file for file in dict.fromkeys(files) if file not in self.row]
        parts: list[Features] = [tuple(self.tables)] if self.tables else []
        with torch.no_grad(), ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(new), AT_ONCE):
                some = new[start : start + AT_ONCE]
                loaded = list(pool.map(load, some))
                parts.append(encode(loaded))
                for file, one in zip(some, loaded, strict=True):
                    self.row[file] = len(self.loaded)
                    self.loaded.append(keep(one))
        if new:
            self.tables = [torch.cat(columns) for columns in zip(*parts, strict=True)]
