"""The formats, and which of them lies at the path that a user names.

A file of its own: every reader is imported here, and none of them may import the others.
"""

from __future__ import annotations

from pathlib import Path

from bench.datasets.catalog import CATALOGUE, Catalogued
from bench.datasets.readers import (
    Annotations,
    Reader,
    ReadOptions,
    expression_rows,
    flickr30k,
    grefs,
    hub,
    hub_rows,
    index_lists,
    jsonl,
    mdetr_json,
    refer,
)
from bench.errors import DataError

READERS: tuple[Reader, ...] = (
    expression_rows,
    grefs,
    refer,
    flickr30k,
    hub_rows,
    index_lists,
    mdetr_json,
    jsonl,
)  # the first that fits opens a path


def find_annotations(
    dataset: Catalogued, place: str, options: ReadOptions, home: Path, offline: bool = False
) -> Annotations:
    """Open the annotations at `place`, a path or a repository of the hub. A single file is taken for `options.part`.

    Mirrors are downloaded to `home` unless `offline`. Raises DataError when nothing there is of a format that holds
    this data set, UsageError for a mirror without a pinned revision.
    """
    path = Path(place).expanduser()
    kinds = ", ".join(filter(None, (reader.expected(dataset) for reader in READERS)))
    if not path.exists():
        if hub.is_repository(place, options):
            return hub.open_mirror(dataset, place, options, home, offline)
        raise DataError(f"{place}: does not exist; {dataset.name} is read from {kinds}")
    for reader in READERS:
        if annotations := reader.open_annotations(dataset, path, options):
            return annotations
    raise DataError(f"{path}: it holds no {dataset.name}, which is read from {kinds}{_hint(path)}")


def _hint(path: Path) -> str:
    """Return what to say of files that are those of another data set, or packed."""
    for other in CATALOGUE:
        if any(True for place in (path, path / other.stem) for _ in place.glob(f"{other.stem}_*.pth")):
            return f"; it holds lists of {other.name}"
    return "; unpack it first" if path.suffix in {".zip", ".gz", ".tar"} else ""
