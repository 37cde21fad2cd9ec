"""What lies at the path that a user names: which format, which parts of the data set, and how each is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.datasets.catalog import CATALOGUE, Catalogued
from bench.datasets.prepared import store_images
from bench.datasets.readers.flickr30k import read_entities
from bench.datasets.readers.hub import MIRRORS, MIXING_OWNERS, download
from bench.datasets.readers.hub_rows import read_hub
from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.readers.jsonl import read_jsonl
from bench.datasets.readers.refer import read_refer
from bench.errors import DataError
from bench.grounding import Scene

EntitiesProtocol = Literal["merged", "any-box"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user wants of the files: one part or all that are there; Flickr30k's protocol; the commit of a hub
    mirror and the annotation ids to keep of it; whether a part of a split will do (`subset`)."""

    part: str | None = None
    protocol: EntitiesProtocol = "merged"
    revision: str | None = None
    keep: Collection[str] | None = None
    subset: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Files that hold parts of a data set. `read` gives a part's scenes, `files` the files it came from; `unpack`
    writes the images that came with a part to a zip file, where any did."""

    format: str
    parts: tuple[str, ...]
    read: Callable[[str], Sequence[Scene]]
    files: Callable[[str], list[Path]]
    protocol: str | None = None
    revision: str | None = None
    unpack: Callable[[str, Path], None] | None = None


def find_source(dataset: Catalogued, annotations: str, asked: Asked, home: Path, offline: bool) -> Source:
    """The source that `annotations`, a path or a repository of the hub, is. A single file is taken for `asked.part`.

    Mirrors are downloaded to `home` unless `offline`. Raises DataError when nothing there is of a format that holds
    this data set, UsageError for a mirror without a pinned revision.
    """
    path = Path(annotations).expanduser()
    if not path.exists():
        if _is_repository(annotations, asked):
            return _mirror(dataset, annotations, asked, home, offline)
        raise DataError(f"{annotations}: not there; {dataset.name} is read from {_readable(dataset)}")
    source = (
        _refer(dataset, path)
        or _entities(dataset, path, asked.protocol)
        or _parquet(dataset, path, asked)
        or _lists(dataset, path, asked.part)
        or _own(dataset, path, asked.part)
    )
    if source is None:
        raise DataError(f"{path}: nothing of {dataset.name} in it; it is read from {_readable(dataset)}{_other(path)}")
    return source


def _refer(dataset: Catalogued, path: Path) -> Source | None:
    """`path` is the folder with refs(...).p, the folder above it, or the file itself."""
    if dataset.refer is None:
        return None
    name, split_by = dataset.refer
    folder = path.parent if re.fullmatch(r"refs\(.+\)\.p", path.name) else path
    place = next((p for p in (folder, folder / name) if list(p.glob("refs(*).p"))), None)
    if place is None:
        return None
    files = [place / f"refs({split_by}).p", place / "instances.json"]
    return Source("refer", _part_names(dataset), lambda part: read_refer(place, split_by, part), lambda _: files)


def _entities(dataset: Catalogued, path: Path, protocol: EntitiesProtocol) -> Source | None:
    """`path` holds Annotations/, Sentences/ and the lists train.txt, val.txt, test.txt."""
    if dataset.name != "flickr30k" or not ((path / "Annotations").is_dir() and (path / "Sentences").is_dir()):
        return None
    parts = tuple(part for part in _part_names(dataset) if (path / f"{part}.txt").is_file())
    return Source(
        "entities",
        parts,
        lambda part: read_entities(path, part, protocol),
        # The lists alone: hashing 60,000 little files would say no more than the fingerprint does.
        lambda part: [path / f"{part}.txt"],
        protocol=protocol,
    )


def _lists(dataset: Catalogued, path: Path, part: str | None) -> Source | None:
    """`path` is one .pth list, or a folder with <stem>_<part>.pth in it or in <stem>/."""
    if path.suffix == ".pth":
        found = {_one_part(dataset, path, part): path}
    else:
        names = {p: f"{dataset.stem}_{p}.pth" for p in _part_names(dataset)}
        places = (path, path / str(dataset.stem))
        found = {p: place / name for p, name in names.items() for place in places if (place / name).is_file()}
    if not found:
        return None
    protocol = "merged" if dataset.name == "flickr30k" else None
    return Source(
        "index",
        tuple(found),
        lambda p: read_index_list(found[p], dataset.name),
        lambda p: [found[p]],
        protocol=protocol,
    )


def _own(dataset: Catalogued, path: Path, part: str | None) -> Source | None:
    """`path` is a .jsonl of our own format."""
    if path.suffix != ".jsonl":
        return None
    return Source("jsonl", (_one_part(dataset, path, part),), lambda _: read_jsonl(path), lambda _: [path])


def _is_repository(name: str, asked: Asked) -> bool:
    """A known mirror, or any owner/name that comes with a revision: a mistyped folder is not looked for on the hub."""
    known = {mirror.repo for mirror in MIRRORS.values()}
    named = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None
    return name in known or (named and (asked.revision is not None or name.partition("/")[0] in MIXING_OWNERS))


def _mirror(dataset: Catalogued, repo: str, asked: Asked, home: Path, offline: bool) -> Source:
    """A repository of the hub. Only data sets with a mirror have their own names there; others use the part's name."""
    own = dataset.hub if dataset.hub and dataset.hub.repo == repo else None
    if own is None and repo in {mirror.repo for mirror in MIRRORS.values()}:
        raise DataError(f"{repo} does not hold {dataset.name}\n{dataset.where}")
    parts = own.parts if own else _part_names(dataset)
    revision = asked.revision or (own.revision if own else None)
    fetched: dict[str, list[Path]] = {}

    def files(part: str) -> list[Path]:
        if part not in fetched:
            name = f"{own.prefix}_{part}" if own else part
            fetched[part] = download(repo, revision, name, home, offline, asked.keep)
        return fetched[part]

    return _with_bytes(parts, files, asked, revision)


def _parquet(dataset: Catalogued, path: Path, asked: Asked) -> Source | None:
    """`path` is a parquet file of a mirror, or a folder (or its data/) with <prefix>_<part>-*.parquet."""
    if path.suffix == ".parquet":
        found = {_one_part(dataset, path, asked.part): [path]}
    elif path.is_dir() and dataset.hub:
        prefix = dataset.hub.prefix
        found = {
            part: held
            for part in _part_names(dataset)
            if (held := sorted(p for p in (path, path / "data") for p in p.glob(f"{prefix}_{part}-*.parquet")))
        }
    else:
        return None
    return _with_bytes(tuple(found), lambda part: found[part], asked, asked.revision) if found else None


def _with_bytes(
    parts: tuple[str, ...], files: Callable[[str], list[Path]], asked: Asked, revision: str | None
) -> Source:
    def read(part: str) -> list[Scene]:
        return [scene for scene, _ in read_hub(files(part), part, keep=asked.keep)]

    def unpack(part: str, target: Path) -> None:
        store_images(((scene.file, data) for scene, data in read_hub(files(part), part, keep=asked.keep)), target)

    return Source("hub", parts, read, files, revision=revision, unpack=unpack)


def _one_part(dataset: Catalogued, path: Path, part: str | None) -> str:
    """Which part a single file is: the one asked for, else the one its name ends with."""
    if part is not None:
        return part
    for name in _part_names(dataset):
        if re.fullmatch(rf"(?:.*[_-])?{re.escape(name)}(?:-\d+-of-\d+)?", path.stem):
            return name
    wanted = " or ".join(f"{dataset.name}-{name}" for name in _part_names(dataset))
    raise DataError(f"{path}: its name does not say which part it is; prepare {wanted} instead of {dataset.name}")


def _part_names(dataset: Catalogued) -> tuple[str, ...]:
    return tuple(part.name for part in dataset.parts)


def _readable(dataset: Catalogued) -> str:
    kinds = []
    if dataset.refer:
        kinds.append(f"a folder with refs({dataset.refer[1]}).p and instances.json")
    if dataset.name == "flickr30k":
        kinds.append("a folder with Annotations, Sentences and val.txt")
    if dataset.stem:
        kinds.append(f"index lists {dataset.stem}_<part>.pth")
    if dataset.hub:
        kinds.append(f"the hub mirror {dataset.hub.repo} or its parquet files")
    return ", ".join([*kinds, "or a .jsonl"])


def _other(path: Path) -> str:
    """A hint when the files are those of another data set."""
    for dataset in CATALOGUE:
        if dataset.stem and any(
            True for place in (path, path / dataset.stem) for _ in place.glob(f"{dataset.stem}_*.pth")
        ):
            return f"; it holds lists of {dataset.name}"
    if path.suffix in {".zip", ".gz", ".tar"}:
        return "; unpack it first"
    return ""
