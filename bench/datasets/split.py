"""A split: the scenes of one part of a data set, where their images lie, and what makes it what it claims to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from bench.grounding import ImageSource, Scene

if TYPE_CHECKING:
    from bench.settings import Resolved


@dataclass(frozen=True, slots=True)
class Counts:
    """How many expressions, referred objects and images; None where the source does not tell objects apart."""

    expressions: int
    refs: int | None
    images: int


@dataclass(frozen=True, repr=False)
class Split:
    """One part of one data set. `partial` says that scenes were left out (`--limit`), so no table may show it.

    `known_fingerprint` is the one a prepared index carries, so that a run need not compute it again. `several` says
    that an expression may mean nothing or several objects, all of which are wanted.
    """

    name: str
    title: str
    scenes: Sequence[Scene]
    images: ImageSource
    terms: str = ""
    partial: bool = False
    known_fingerprint: str | None = None
    several: bool = False

    def __repr__(self) -> str:
        counts, part = self.counts, ", a part of it" if self.partial else ""
        return f"<{self.name}: {counts.expressions:,} expressions on {counts.images:,} images{part}>"

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over image keys, texts and boxes, whatever file format they came from."""
        from bench.datasets.fingerprint import fingerprint

        return self.known_fingerprint or fingerprint(self.scenes)

    @property
    def dataset(self) -> str:
        """The data set's name: the split's name without its last part, and "file" for people's own data."""
        if self.name.startswith("file:"):
            return "file"
        return self.name.rpartition("-")[0] or self.name

    @property
    def protocol(self) -> str:
        """The protocol that the split's expressions are scored by, where nobody names another."""
        return "several" if self.several else "iou"

    @property
    def argument(self) -> str:
        """What `--split` takes for it: own data goes by its path."""
        return f"file:{self.title}" if self.dataset == "file" else self.name

    @property
    def counts(self) -> Counts:
        if isinstance(known := getattr(self.scenes, "counts", None), Counts):  # of a prepared index
            return known
        expressions = [e for scene in self.scenes for e in scene.expressions]
        refs = {e.ref_id for e in expressions}
        return Counts(len(expressions), None if None in refs else len(refs), len(self.scenes))

    def limited(self, images: int) -> Split:
        """The first `images` scenes, marked partial (unless that is all of them)."""
        if images >= len(self.scenes):
            return self
        return replace(self, scenes=self.scenes[:images], partial=True, known_fingerprint=None)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a data set as its authors published it; None where a count was never published.

    `images` counts those with an expression; `listed` is the length of the authors' list of image ids, where it has
    others too.
    """

    name: str
    expressions: int | None = None
    refs: int | None = None
    images: int | None = None
    listed: int | None = None


class Dataset(Protocol):
    """What an entry point of the group `bench.datasets` names: a data set that knows where it is and loads parts."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def parts(self) -> Sequence[Part]: ...
    @property
    def terms(self) -> str:
        """Terms of use, one line."""
        ...

    @property
    def where(self) -> str:
        """Where to get it and the command that prepares it, a few lines."""
        ...

    def ready(self, part: str, resolved: Resolved) -> bool:
        """Whether `load` would find the annotations."""
        ...

    def load(self, part: str, resolved: Resolved) -> Split:
        """The split. Raises DataError, naming the command that prepares it, when it is not at hand."""
        ...
