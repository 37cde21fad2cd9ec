"""`bench data prepare`: make the compact index of the user's files, once their counts are the published ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.datasets.catalog import LOOKALIKES, Catalogued, compared, mismatches
from bench.datasets.fingerprint import difference, fingerprint
from bench.datasets.images import Images
from bench.datasets.load import find_dataset, find_split
from bench.datasets.prepared import (
    Header,
    dataset_folder,
    image_roots,
    index_path,
    read_index,
    store_image_roots,
    store_missing,
    write_index,
)
from bench.datasets.readers import Annotations, ReadOptions
from bench.datasets.readers.sources import find_annotations
from bench.datasets.split import Counts, Split
from bench.errors import DataError, UsageError
from bench.grounding import Scene
from bench.hashing import sha256_file
from bench.settings import Resolved

Log = Callable[[str], None]
ReadPart = tuple[str, Header, Sequence[Scene]]  # its name, header, scenes


# A split made ready: its header, how its content differs from what was prepared before (empty: it does not), and the
# files of its images that are missing, None when no place with images is known.
Prepared = tuple[Header, tuple[str, ...], tuple[str, ...] | None]


def prepare(
    name: str | Catalogued,
    annotations: str | None,
    images: Sequence[Path],
    resolved: Resolved,
    options: ReadOptions,
    log: Log = lambda line: None,
) -> list[Prepared]:
    """Prepare a data set or one split from a path or a hub mirror.

    `images` are where its images are looked for; without `annotations` only these places are stored. Everything is
    loaded and counted before anything is written. Raises UnknownName, UsageError for a data set that is not prepared
    this way, DataError for files that do not hold it or hold other counts than its authors published.
    """
    if isinstance(name, Catalogued):
        dataset = name
    else:
        dataset, part = _target(name)
        options = replace(options, part=part)
    if annotations is None and not images:
        raise UsageError(
            f"nothing to prepare {dataset.name} from: give --annotations, --images or both\n{dataset.where}"
        )
    _check_images(images)
    # 1. Everything is read and counted.
    made: list[ReadPart] = []
    if annotations is not None:
        source = find_annotations(dataset, annotations, options, resolved.home, resolved.settings.run.offline)
        made = _read(dataset, source, options, log)
    # 2. Then it is stored.
    if images and not (made and source.unpack):
        _refuse_other_images(dataset, images, made, options.part, resolved)
    if images:
        store_image_roots(resolved.home, dataset.name, images)
    done: list[Prepared] = []
    for part, header, scenes in made:
        path = index_path(resolved.home, dataset.name, part)
        changed = _changes(path, header, scenes)
        write_index(path, header, scenes)
        if source.unpack:
            log(f"{dataset.name}-{part}: storing the images of the mirror")
            source.unpack(part, dataset_folder(resolved.home, dataset.name) / f"{part}-images.zip")
        done.append((header, changed, None))
    return _with_images(dataset, done, resolved) if made else _already(dataset, options.part, resolved)


def _target(name: str) -> tuple[Catalogued, str | None]:
    """Find the data set and the one part (None: all) that a name means."""
    dataset = find_dataset(name)
    part = None
    if dataset is None:
        dataset, split_part = find_split(name)
        part = split_part.name
    if not isinstance(dataset, Catalogued):
        raise UsageError(f"{dataset.name} is not prepared with this command\n{dataset.where}")
    return dataset, part


def _check_images(images: Sequence[Path]) -> None:
    for path in images:
        if not path.exists():
            raise DataError(f"{path}: no such file; --images is a folder or a zip file with the images")
        Images([path]).missing([])  # a file that is no zip is refused here


def _read(dataset: Catalogued, source: Annotations, options: ReadOptions, log: Log) -> list[ReadPart]:
    """Read every part that is there, with its header. Raises DataError when counts are not the published ones."""
    parts = source.parts if options.part is None else (options.part,)
    if not set(parts) <= set(source.parts):
        raise DataError(
            f"{dataset.name}-{options.part}: not among the files; there: {', '.join(source.parts) or 'nothing'}"
        )
    made: list[ReadPart] = []
    for part in parts:
        log(f"{dataset.name}-{part}: reading")
        scenes = tuple(source.read(part))
        counts = Split("", "", scenes, Images([])).counts
        wrong = mismatches(dataset.part(part), counts)
        published = dataset.part(part).expressions
        if wrong and not (options.subset and counts.expressions <= (published or counts.expressions)):
            raise DataError(_other_counts(dataset, part, source, counts, wrong, options.subset))
        header = Header(
            dataset=dataset.name,
            part=part,
            format=source.format,
            counts=counts,
            fingerprint=fingerprint(scenes),
            sources=tuple(_hashed(path) for path in source.files(part)),
            protocol=source.protocol,
            revision=source.revision,
            partial=bool(wrong),
        )
        made.append((part, header, scenes))
    return made


def _other_counts(
    dataset: Catalogued, part: str, source: Annotations, counts: Counts, wrong: Sequence[str], subset: bool
) -> str:
    files = ", ".join(str(path) for path in source.files(part))
    lines = [f"{dataset.name}-{part}: {files} does not hold what its authors published:", *(f"  {w}" for w in wrong)]
    # A part that shares no kind of count with the file is like it by accident only.
    alike = [name for name, other in LOOKALIKES if compared(other, counts) and not mismatches(other, counts)]
    if alike:
        lines.append(f"these are the counts of {' or '.join(alike)}")
    if subset:
        lines.append("--subset takes a part, and these are more expressions than the whole: name the split's own files")
    else:
        lines.append("if you mean to use only some of its expressions, add --subset: it can be run, no table shows it")
    return "\n".join(lines)


def _hashed(path: Path) -> dict[str, Any]:
    return {"path": str(path.resolve()), "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _changes(path: Path, header: Header, scenes: Sequence[Scene]) -> tuple[str, ...]:
    """Describe how the new content differs from the index at `path`; empty when it does not, or there is none."""
    if not path.is_file():
        return ()
    with suppress(DataError):  # a broken index is no loss: it is being replaced
        old, before = read_index(path)
        if old.fingerprint != header.fingerprint:
            names = (f"what was prepared before ({old.format})", f"these files ({header.format})")
            return tuple(difference(before, scenes, names))
    return ()


def _refuse_other_images(
    dataset: Catalogued, images: Sequence[Path], made: Sequence[ReadPart], part: str | None, resolved: Resolved
) -> None:
    """Raise DataError when no image of the parts read, or else of those prepared before, is in these places."""
    parts = {name: scenes for name, _, scenes in made} or {
        name: read_index(index_path(resolved.home, dataset.name, name))[1]
        for name in ([part] if part else dataset.part_names)
        if dataset.ready(name, resolved)
    }
    source = Images(images)
    missing = {name: source.missing(scenes) for name, scenes in parts.items()}
    if parts and all(len(missing[name]) == len(scenes) for name, scenes in parts.items()):
        count = sum(map(len, missing.values()))
        first = next(iter(missing.values()))[0] if count else ""
        splits = ", ".join(f"{dataset.name}-{name}" for name in parts)
        raise DataError(
            f"{', '.join(map(str, images))}: none of the {count:,} images of {splits} is there (the first is {first}); "
            "nothing was stored"
        )


def _with_images(dataset: Catalogued, done: Sequence[Prepared], resolved: Resolved) -> list[Prepared]:
    """Count the images of `done` that are nowhere."""
    if not image_roots(resolved, dataset.name, dataset.album):
        return list(done)
    images = dataset.images_in(resolved)
    scenes = [read_index(index_path(resolved.home, dataset.name, header.part))[1] for header, *_ in done]
    missing = [tuple(images.missing(own)) for own in scenes]
    store_missing(
        resolved.home, dataset.name, {h.part: len(files) for (h, *_), files in zip(done, missing, strict=True)}
    )
    return [(*each[:2], files) for each, files in zip(done, missing, strict=True)]


def _already(dataset: Catalogued, part: str | None, resolved: Resolved) -> list[Prepared]:
    """List the splits that were prepared before, when only images were given."""
    names = [part] if part else dataset.part_names
    ready = [name for name in names if dataset.ready(name, resolved)]
    return _with_images(dataset, [(dataset.header(name, resolved), (), None) for name in ready], resolved)
