"""Readers of annotation formats, a module a format: what each offers is `Reader`, and sources.py lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from bench.errors import DataError
from bench.grounding import Scene
from bench.inputs import load_text

if TYPE_CHECKING:
    from bench.datasets.catalog import Catalogued

BoxProtocol = Literal["merged", "any-box"]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the user wants of the files: one part or all that are there (None), and whether a `subset` of it will do.

    `protocol` is for a phrase with several boxes, `revision` the commit of a hub mirror, `keep` the annotation ids that
    are kept of it.
    """

    part: str | None = None
    protocol: BoxProtocol = "merged"
    revision: str | None = None
    keep: Collection[str] | None = None
    subset: bool = False


@dataclass(frozen=True, slots=True)
class Annotations:
    """Files that hold parts of a data set.

    `read` returns a part's scenes, `files` the files it comes from; `unpack` writes the images that came with a part to
    a zip file, None where none did.
    """

    format: str
    parts: tuple[str, ...]
    read: Callable[[str], Sequence[Scene]]
    files: Callable[[str], list[Path]]
    protocol: str | None = None
    revision: str | None = None
    unpack: Callable[[str, Path], None] | None = None


def load_ids(path: Path) -> frozenset[str]:
    """Load the annotation ids of a text file, apart by white space. Raises DataError."""
    return frozenset(load_text(path).split())


class Reader(Protocol):
    """What the module of a format offers."""

    def expected(self, dataset: Catalogued) -> str:
        """Name the files of this format that hold the data set; empty where its authors published none."""
        ...

    def open_annotations(self, dataset: Catalogued, path: Path, options: ReadOptions) -> Annotations | None:
        """Open what lies at `path`; None where nothing of this format and this data set does."""
        ...


def part_of_file(dataset: Catalogued, path: Path, options: ReadOptions) -> str:
    """Return the part that a single file holds: the one of the options, the only one, or the one its name ends with.

    Raises DataError where neither says one.
    """
    if options.part is not None:
        return options.part
    if len(dataset.parts) == 1:
        return dataset.part_names[0]
    for name in dataset.part_names:
        if re.fullmatch(rf"(?:.*[_-])?{re.escape(name)}(?:-\d+-of-\d+|_mdetr)?", path.stem):
            return name
    wanted = " or ".join(f"{dataset.name}-{name}" for name in dataset.part_names)
    raise DataError(f"{path}: its name does not say which part it is; prepare {wanted} instead of {dataset.name}")
