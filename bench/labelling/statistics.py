"""Statistics, contact sheets and data sets of pseudo-label files, for `bench label stats` and `export`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.datasets.images import Images
from bench.datasets.load import FILE, find_split
from bench.datasets.readers.jsonl import read_jsonl, read_provenance
from bench.datasets.readers.labels import load_labels, source_name
from bench.errors import UsageError
from bench.grounding import ImageSource, Scene
from bench.reporting.label_stats import LabelRow, label_stats
from bench.settings import Resolved


def statistics(files: Sequence[Path], split: str | None, resolved: Resolved) -> list[dict[str, Any]]:
    """Count the rows of every source in `files`.

    With a split the images must be its data set's and lend their sizes; without one only .jsonl is read, and images
    need not be at hand. Raises UsageError, UnknownName, DataError.
    """
    sources: dict[str, list[LabelRow]] = {}
    for path in files:
        if split is not None:
            data, _, provenance = load_labels(split, [path], resolved)
            scenes: Sequence[Scene] = data.scenes
        elif path.suffix == ".jsonl":
            scenes, provenance = read_jsonl(path), read_provenance(path)
        else:
            raise UsageError(
                f"{path}: name the split of the list's images with --split; its box format depends on the data set"
            )
        # A row's source is the one it names itself, else its file's.
        file_source = source_name(path, sum(len(scene.expressions) for scene in scenes), provenance)
        for scene in scenes:
            for expression in scene.expressions:
                record = provenance.get(expression.id, {})
                source = str(record.get("source") or file_source)
                sources.setdefault(source, []).append((scene, expression, record))
    return label_stats(sources)


def draw_sheet(files: Sequence[Path], split: str | None, resolved: Resolved, out: Path, most: int) -> None:
    """Draw up to `most` images, spread over all, with every row about them.

    Without a split it is the one that the files' records name, else images are looked for beside the one file. Raises
    UsageError where the images are unknown, DataError, ImageError.
    """
    from bench.reporting.drawing import contact_sheet, save_image

    split = split or split_of_records(files)
    if split is not None and not split.startswith(FILE):
        labelled = load_labels(split, files, resolved)[0]
        scenes: Sequence[Scene] = labelled.scenes
        images: ImageSource = labelled.images
    elif len(files) == 1:
        scenes, images = read_jsonl(files[0]), Images([files[0].resolve().parent], nested=False)
    else:
        raise UsageError("--sheet needs the split of the images: --split NAME")
    chosen = [scenes[place * len(scenes) // most] for place in range(most)] if len(scenes) > most else scenes
    save_image(contact_sheet(chosen, images), out)


def dataset_of_labels(files: Sequence[Path], split: str | None) -> str:
    """Find the data set of files: that of the split, else of the one their records name. Raises UsageError."""
    name = split or split_of_records(files)
    if name is None:
        raise UsageError("name the split of the images with --split; the box format of a list depends on its data set")
    if name.startswith(FILE):
        return "file"
    return find_split(name)[0].name


def split_of_records(files: Sequence[Path]) -> str | None:
    """Find the split that the records beside the files name (`bench label` writes them), where all name one."""
    names = set()
    for path in files:
        try:
            record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        names.add(record.get("split") if isinstance(record, dict) else None)
    name = names.pop() if len(names) == 1 else None
    return name if isinstance(name, str) else None
