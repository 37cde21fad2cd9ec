"""The prepared index: one small file a split, from which scenes load without network or original files.

    BENCH_HOME/datasets/<data set>/<part>.jsonl     a header line, then one line a scene
    BENCH_HOME/datasets/<data set>/images.json    folders and zips with its images
    BENCH_HOME/datasets/<data set>/*.zip            images that came with a hub mirror

The header says where the scenes came from, their counts and fingerprint, with a sha256 of the lines below it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

from bench.datasets.annotations import Annotations, columns, masks_of_row, scene_row
from bench.datasets.images import Images
from bench.datasets.split import Counts
from bench.errors import DataError
from bench.grounding import Box, Caption, Expression, Scene
from bench.inputs import is_number, opened
from bench.old_names import current
from bench.runs.files import temporary_name
from bench.settings import Resolved

Made = TypeVar("Made")
SCHEMA = 2  # 2: expressions may end in the caption they are a phrase of
WITH_MASKS = 3  # what has no masks is written as before
WITH_NONE = 4  # so is what has a target for each expression
READABLE = (1, SCHEMA, WITH_MASKS, WITH_NONE)
NO_BOX = (math.nan,) * 4


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of an index; `revision` is that of a hub mirror.

    `sources` are the files the scenes were read from, {"path" as it was then, "bytes", "sha256"}; `protocol` is merged
    or any-box, where phrases have several boxes.
    """

    dataset: str
    part: str
    format: str
    counts: Counts
    fingerprint: str
    sources: tuple[Mapping[str, Any], ...] = ()
    protocol: str | None = None
    revision: str | None = None
    partial: bool = False

    @property
    def split(self) -> str:
        """The name of the split."""
        return f"{self.dataset}-{self.part}"


def dataset_folder(home: Path, dataset: str) -> Path:
    """Return where a data set's prepared files lie."""
    return home / "datasets" / dataset


def index_path(home: Path, dataset: str, part: str) -> Path:
    """Return where the index of one split lies."""
    return dataset_folder(home, dataset) / f"{part}.jsonl"


def write_index(path: Path, header: Header, scenes: Iterable[Scene]) -> None:
    """Write an index whole or not at all. Raises DataError when the disk refuses or a box is not finite."""
    try:
        rows = [scene_row(scene, stored=True) for scene in scenes]
        body = "".join(map(_dump, rows)).encode()
    except ValueError:
        raise DataError(f"{header.split}: an annotated box is not finite; check the source") from None
    schema = WITH_MASKS if any(len(row) > 5 for row in rows) else SCHEMA
    schema = WITH_NONE if any(fields[2] is None for row in rows for fields in row[4]) else schema
    first = {"schema": schema, **asdict(header), "body_sha256": hashlib.sha256(body).hexdigest()}
    with _replacing(path) as part:
        part.write_bytes(_dump(first).encode() + body)


def read_header(path: Path) -> Header:
    """Read the header alone, without the scenes. Raises DataError when it is not one."""
    with opened(path) as file:
        return _header(path, file.readline())[0]


class IndexedScenes(Sequence[Scene]):
    """The scenes of a prepared index, made of its lines when the first is wanted; columns are made without them."""

    def __init__(self, path: Path, lines: Sequence[bytes], counts: Counts) -> None:
        self._path, self._lines, self.counts = path, lines, counts

    @cached_property
    def annotations(self) -> Annotations:
        """All scenes as columns."""
        return self._made(columns)

    @cached_property
    def _scenes(self) -> tuple[Scene, ...]:
        return self._made(lambda rows: tuple(map(_scene, rows)))

    def _made(self, make: Callable[[Iterable[list[Any]]], Made]) -> Made:
        """Make something of the rows. Raises DataError where they are none."""
        try:
            return make(map(_checked, map(json.loads, self._lines)))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise DataError(_broken(self._path, "its rows are not those of an index")) from None

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, at: int) -> Scene: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Scene, ...]: ...
    def __getitem__(self, at: int | slice) -> Scene | tuple[Scene, ...]:
        return self._scenes[at]

    def __eq__(self, other: object) -> bool:
        return self._scenes == (other._scenes if isinstance(other, IndexedScenes) else other)

    def __hash__(self) -> int:
        return hash(self._scenes)


def read_index(path: Path) -> tuple[Header, IndexedScenes]:
    """Read header and scenes. Raises DataError, with the command that remakes it, when the file was cut or changed."""
    with opened(path) as file:
        data = file.read()
    first, _, body = data.partition(b"\n")
    header, digest = _header(path, first)
    if hashlib.sha256(body).hexdigest() != digest:
        raise DataError(_broken(path, "cut short or changed"))
    return header, IndexedScenes(path, body.splitlines(), header.counts)


def store_image_roots(home: Path, dataset: str, roots: Sequence[Path]) -> None:
    """Store where the images of a data set lie, in place of what was stored before."""
    listed = {"schema": SCHEMA, "roots": [str(root.resolve()) for root in roots]}
    with _replacing(dataset_folder(home, dataset) / "images.json") as part:
        part.write_text(_dump(listed), encoding="utf-8")


def store_missing(home: Path, dataset: str, counts: Mapping[str, int]) -> None:
    """Store how many images of each part were missing when it was prepared, beside those of the other parts."""
    path = dataset_folder(home, dataset) / "missing.json"
    with _replacing(path) as part:
        part.write_text(_dump({**missing_images(home, dataset), **counts}), encoding="utf-8")


def missing_images(home: Path, dataset: str) -> dict[str, int]:
    """Return how many images of each part were missing when it was prepared; parts without images are absent."""
    try:
        counts: dict[str, int] = json.loads((dataset_folder(home, dataset) / "missing.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return counts


def image_roots(resolved: Resolved, dataset: str, album: str = "") -> list[Path]:
    """List folders and zips with a data set's images, first wins: [data.images], stored ones, hub mirrors.

    `album` is a second key of [data.images], for data sets that ask about the same images ("coco").
    """
    folder = dataset_folder(resolved.home, dataset)
    named = resolved.settings.data.images
    roots = [(resolved.folder / Path(named[k]).expanduser()).resolve() for k in (dataset, album) if k in named]
    stored = folder / "images.json"
    stored = stored if stored.is_file() else folder / "pictures.json"  # its name before version 0.2
    if stored.is_file():
        try:
            roots += [Path(root) for root in json.loads(stored.read_bytes())["roots"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(_broken(stored, "not a list of image folders", f"{dataset} --images PATH")) from None
    return roots + sorted(folder.glob("*.zip"))


def images_of(resolved: Resolved, dataset: str, album: str = "") -> Images:
    """Return the source of a data set's images. Without a root each load raises ImageError with the command to run."""
    hint = f"`bench data prepare {dataset} --images PATH` or bench.toml [data.images] says where they are"
    return Images(image_roots(resolved, dataset, album), hint=hint)


def store_images(images: Iterable[tuple[str, bytes]], target: Path) -> None:
    """Write (name, bytes) of encoded images to a zip file, uncompressed. Raises DataError."""
    with _replacing(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, data in images:
            archive.writestr(name, data)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write that takes the place of `path`, whole or not at all. Raises DataError naming `path`."""
    part = temporary_name(path, "part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); free space or set BENCH_HOME") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":")) + "\n"


def _checked(row: list[Any]) -> list[Any]:
    id, file, width, height, expressions, *masks = row
    for fields in expressions:
        if fields[2] is None:
            fields[2] = NO_BOX
    if not (isinstance(id, str) and isinstance(file, str) and {type(width), type(height)} <= {int, type(None)}):
        raise TypeError
    if not all(
        isinstance(fields[0], str) and isinstance(fields[1], str) and len(fields[2]) == 4 for fields in expressions
    ):
        raise TypeError
    if len(masks) > 1 or not all(len(mask) == 3 for some in masks for mask in some):
        raise TypeError
    return row


def _scene(row: list[Any]) -> Scene:
    id, file, width, height, expressions, *masks = row
    made = [_expression(*fields[:9]) for fields in expressions]
    if masks:
        drawn = masks_of_row(masks[0])
        numbers = [fields[9] if len(fields) > 9 else None for fields in expressions]
        made = [e if n is None else replace(e, mask=drawn[n]) for e, n in zip(made, numbers, strict=True)]
    return Scene(id, file, width, height, tuple(made))


def _expression(id: str, text: str, box: list[float], *rest: Any) -> Expression:
    if len(rest) > 4:
        also, *caption = rest[4:]
        rest = (*rest[:4], tuple(_box(other) for other in also or ()), *(Caption(*c) for c in caption if c is not None))
    if not isinstance(id, str) or not isinstance(text, str) or len(rest) > 8:
        raise TypeError
    return Expression(id, text, _box(box), *rest)


def _box(values: list[float]) -> Box:
    x1, y1, x2, y2 = values
    if not all(map(is_number, values)):
        raise TypeError
    return (x1, y1, x2, y2)


def _header(path: Path, line: bytes) -> tuple[Header, str]:
    try:
        fields = current(json.loads(line))
        schema, digest = fields.pop("schema"), fields.pop("body_sha256")
        if schema not in READABLE:
            raise DataError(_broken(path, f"of schema {schema}, not {SCHEMA}"))
        fields["counts"] = Counts(**fields["counts"])
        fields["sources"] = tuple(fields["sources"])
        return Header(**fields), digest
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(_broken(path, "not a prepared index")) from None


def _broken(path: Path, what: str, rest: str = "") -> str:
    again = rest or f"{path.parent.name} --annotations PATH"
    return f"{path}: {what}; run `bench data prepare {again}` again"
