"""Files of pseudo-labels read for what `bench label stats` and `export` do with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.datasets.fingerprint import picture_key
from bench.datasets.jsonl import read_jsonl, read_provenance
from bench.datasets.label_names import source_name
from bench.datasets.labels import load_labels
from bench.datasets.load import FILE, find_split
from bench.datasets.pictures import Pictures
from bench.errors import UsageError
from bench.grounding import PictureSource, Scene
from bench.reporting.label_stats import LabelRow, label_stats
from bench.settings import Resolved


def statistics(files: Sequence[Path], split: str | None, resolved: Resolved) -> list[dict[str, Any]]:
    """The statistics of every source in `files`.

    With a split the pictures must be its data set's and lend their sizes; without one only .jsonl is read, and pictures
    need not be at hand. Raises UsageError, UnknownName, DataError.
    """
    rows = []
    for path in files:
        scenes, provenance = _read(path, split, resolved)
        rows += list(_rows(path, scenes, provenance))
    return label_stats(rows)


def draw_sheet(files: Sequence[Path], split: str | None, resolved: Resolved, out: Path, most: int) -> None:
    """Draws up to `most` pictures, spread over all, with every row about them.

    Without a split it is the one that the files' records name, else pictures are looked for beside the one file. Raises
    UsageError where nobody says whose pictures they are, DataError, PictureError.
    """
    from bench.reporting.drawing import contact_sheet, save_picture

    split = split or split_of_records(files)
    if split is not None and not split.startswith(FILE):
        labelled = load_labels(split, files, resolved).split
        scenes: Sequence[Scene] = labelled.scenes
        pictures: PictureSource = labelled.pictures
    elif len({path.resolve().parent for path in files}) == 1 and len(files) == 1:
        scenes, pictures = read_jsonl(files[0]), Pictures([files[0].resolve().parent], nested=False)
    else:
        raise UsageError("--sheet: say with --split whose pictures the files are about")
    chosen = [scenes[place * len(scenes) // most] for place in range(most)] if len(scenes) > most else scenes
    save_picture(contact_sheet(chosen, pictures), out)


def dataset_of_labels(files: Sequence[Path], split: str | None) -> str:
    """The data set that files are about: that of the split, else of the one their records name. Raises UsageError."""
    name = split or split_of_records(files)
    if name is None:
        raise UsageError("say with --split whose pictures the files are about; the boxes of a list go by its data set")
    if name.startswith(FILE):
        return "file"
    return find_split(name)[0].name


def split_of_records(files: Sequence[Path]) -> str | None:
    """The split named by the records beside the files (`bench label` writes them), where all name one; else None."""
    named = set()
    for path in files:
        try:
            held = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        named.add(held.get("split") if isinstance(held, dict) else None)
    found = named.pop() if len(named) == 1 else None
    return found if isinstance(found, str) else None


def _read(path: Path, split: str | None, resolved: Resolved) -> tuple[Sequence[Scene], Mapping[str, Any]]:
    if split is not None:
        labelled = load_labels(split, [path], resolved)
        return labelled.split.scenes, labelled.provenance
    if path.suffix != ".jsonl":
        raise UsageError(f"{path}: of a list say with --split whose pictures it is about; its boxes go by the data set")
    return read_jsonl(path), read_provenance(path)


def _rows(path: Path, scenes: Sequence[Scene], provenance: Mapping[str, Mapping[str, Any]]) -> Iterator[LabelRow]:
    """The rows, each of the source that it names itself, else of its file's."""
    otherwise = source_name(path, sum(len(scene.expressions) for scene in scenes), provenance)
    for scene in scenes:
        area = float(scene.width * scene.height) if scene.width and scene.height else None
        for expression in scene.expressions:
            said = provenance.get(expression.id, {})
            source = str(said.get("source") or otherwise)
            yield LabelRow(source, picture_key(scene.file), expression.text, expression.box, area, said)
