"""Load a split by its name: `refcoco-testA`, `refcocog-umd-val`, `shapes-val`, or own data as `file:PATH.jsonl`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from bench import registry
from bench.datasets.images import Images
from bench.datasets.readers.jsonl import read_jsonl
from bench.datasets.readers.mdetr_json import read_mdetr_json
from bench.datasets.split import Dataset, Part, Split
from bench.errors import BenchError, RunError, UnknownName, UsageError
from bench.inputs import as_utf8
from bench.printing import is_text
from bench.runs.record import FILE as FILE
from bench.runs.record import RECORD, read_record, slug, split_command
from bench.settings import Resolved


def load_split(name: str, resolved: Resolved) -> Split:
    """Load the split called `name`; `resolved` says where prepared data and images lie.

    Raises UnknownName with the nearest names, and DataError with the command that prepares it when it is not at hand.
    """
    if name.startswith(FILE):
        return _own(_file_of(name, resolved), resolved)
    dataset, part = find_split(name)
    with registry.guarded(f"{name} cannot be loaded"):
        split = dataset.load(part.name, resolved)
        if not isinstance(split, Split):
            raise BenchError(f"{name}: its data set loaded {type(split).__name__}, not a Split")
    return split


def find_split(name: str) -> tuple[Dataset, Part]:
    """Find the data set and the part that a split's name means. Raises UnknownName with the nearest split names.

    UsageError for `file:` names, which belong to no data set.
    """
    if name.startswith(FILE):
        raise UsageError(f"{name}: own data has no parts and needs no preparing")
    head, _, tail = name.rpartition("-")
    dataset = find_dataset(head)
    part = next((p for p in dataset.parts if p.name == tail), None) if dataset else None
    if dataset is None or part is None:
        raise UnknownName(
            "split", name, split_names(), hint="`bench data list` shows them; your own data: file:PATH.jsonl"
        )
    return dataset, part


def splits_of(name: str) -> list[str]:
    """List the splits that `name` means: every part of a data set, or the one split. Raises UnknownName."""
    if dataset := find_dataset(name):
        return [f"{dataset.name}-{part.name}" for part in dataset.parts]
    dataset, part = find_split(name)
    return [f"{dataset.name}-{part.name}"]


def find_dataset(name: str) -> Dataset | None:
    """Find the data set called `name` or known under it (`refcocog-umd` is `refcocog`); None when there is none."""
    if name in registry.names(registry.DATASETS):
        return _dataset(name)
    return next((d for d in datasets() if name in getattr(d, "aliases", ())), None)


def datasets() -> Iterable[Dataset]:
    """Yield every registered data set that can be loaded, in order of name; a warning names the others."""
    for name in registry.names(registry.DATASETS):
        try:
            dataset = _dataset(name)
        except BenchError as error:
            _warn(f"{error}; it is left out")
        else:
            yield dataset


@cache
def _warn(line: str) -> None:
    """Log a line once a process."""
    logging.getLogger("bench.data").warning(line)


def _dataset(name: str) -> Dataset:
    """Load a data set. Raises MissingPackage, BenchError, also for an object that is none."""
    dataset: Dataset = registry.load(registry.DATASETS, name)
    what = f"dataset {name!r}"
    with registry.guarded(f"{what} cannot be used"):
        texts = (dataset.name, dataset.title, dataset.terms, dataset.where)
        if not all(map(is_text, texts)) or not all(isinstance(part, Part) for part in dataset.parts):
            raise BenchError(f"{what}: its texts or parts are of another type (bench.datasets.split.Dataset)")
        if not (callable(dataset.ready) and callable(dataset.load)):
            raise BenchError(f"{what}: `ready` and `load` are not functions (bench.datasets.split.Dataset)")
    return dataset


def split_names() -> list[str]:
    """List every split of every registered data set, by data set and then in the data set's own order."""
    return [f"{dataset.name}-{part.name}" for dataset in datasets() for part in dataset.parts]


def _file_of(name: str, resolved: Resolved) -> Path:
    """Return the path of file:PATH, or of the short form file:STEM the file that stored runs were on.

    Raises UsageError where these are several.
    """
    path = Path(name.removeprefix(FILE)).expanduser()
    if path.suffix or path.exists():
        return path
    stored = set()
    for record in Path(resolved.settings.results).glob(f"runs/*/{slug(name)}*/*/{RECORD}"):
        with suppress(RunError):
            given = Path(split_command(read_record(record.parent)).removeprefix(FILE)).expanduser()
            if given.stem == path.name and given.is_file():
                stored.add(given.resolve())
    if len(stored) > 1:
        paths = ", ".join(f"{FILE}{each}" for each in sorted(stored))
        raise UsageError(f"{name} could mean several files; give the path of one: {paths}")
    return stored.pop() if stored else path


def _own(path: Path, resolved: Resolved) -> Split:
    """Load a JSONL of the user's, or MDETR's JSON; images lie relative to it, or in [data.images] file."""
    scenes = tuple(read_mdetr_json(path, several=True, folders=True) if path.suffix == ".json" else read_jsonl(path))
    several = any(len(expression.targets) != 1 for scene in scenes for expression in scene.expressions)
    roots = [path.resolve().parent]
    if named := resolved.settings.data.images.get("file"):
        roots.insert(0, (resolved.folder / Path(named).expanduser()).resolve())
    # Not nested: a missing image must not set off a search through all of the user's files.
    images = Images(roots, nested=False, hint=f"names of images start at {roots[0]}")
    return Split(f"{FILE}{as_utf8(path.stem)}", as_utf8(path), scenes, images, "your own data", several=several)
