"""The parquet files of the hub mirrors as scenes with their images' bytes, a few rows in memory at a time.

Two layouts are known, by the data sets' own cards:

    one row an image   image {bytes, path}, image_info {file_name, width, height, id}, ref_list [{ann_info, ref_info}]
                        where ann_info and ref_info are the refer files' annotation and ref (jxu124/*-benchmark)
    one row an object   question_id (the annotation's id), image, answer [expressions], bbox xywh, file_name (lmms-lab)

A struct may also come as JSON text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets.prepared import store_images
from bench.datasets.readers import Annotations, ReadOptions, part_of_file
from bench.datasets.readers.refer import Text, need, ref_rows
from bench.datasets.readers.rows import checked_box, checked_file, checked_name, checked_text, gather, scene_of_row
from bench.errors import DataError, MissingPackage, short
from bench.grounding import Expression, Scene
from bench.inputs import check_file, parsed_json
from bench.install import pip_install

if TYPE_CHECKING:
    import polars

    from bench.datasets.catalog import Catalogued

ROWS_AT_ONCE = 64  # an image is about 0.1 MB


def expected(dataset: Catalogued) -> str:
    """Name the mirror that holds the data set."""
    return f"the hub mirror {dataset.hub.repo} or its parquet files" if dataset.hub else ""


def open_annotations(dataset: Catalogued, path: Path, options: ReadOptions) -> Annotations | None:
    """Open a parquet file of a mirror, or a folder (or its data/) with <prefix>_<part>-*.parquet."""
    if path.suffix == ".parquet":
        files = {part_of_file(dataset, path, options): [path]}
    elif path.is_dir() and dataset.hub:
        places, prefix = (path, path / "data"), dataset.hub.prefix
        every = {part: [p for f in places for p in f.glob(f"{prefix}_{part}-*.parquet")] for part in dataset.part_names}
        files = {part: sorted(paths) for part, paths in every.items() if paths}
    else:
        return None
    return with_images(tuple(files), files.__getitem__, options.keep, options.revision) if files else None


def with_images(
    parts: tuple[str, ...], files: Callable[[str], list[Path]], keep: Collection[str] | None, revision: str | None
) -> Annotations:
    """Describe parts whose parquet files carry the images."""

    def read(part: str) -> list[Scene]:
        return [scene for scene, _ in read_hub(files(part), part, keep=keep)]

    def unpack(part: str, target: Path) -> None:
        store_images(((scene.file, data) for scene, data in read_hub(files(part), part, keep=keep)), target)

    return Annotations("hub", parts, read, files, revision=revision, unpack=unpack)


def read_hub(
    files: Sequence[Path], part: str, text: Text = "sent", keep: Collection[str] | None = None
) -> Iterator[tuple[Scene, bytes]]:
    """Yield each scene of the part with its image's bytes as stored (JPEG).

    `part` is the last piece of the hub's part name or all of it (val, refcoco_unc_val). `text` chooses between the
    cleaned sentence and the one as typed; `keep` leaves only expressions whose ref or annotation id is in it. Boxes are
    xyxy pixels. Raises MissingPackage without polars, DataError naming file and row, also for refs of another part.
    """
    first = _frame(files[0]) if files else None
    if first is None:
        raise DataError(f"part {part}: no parquet files were given")
    columns = set(first.collect_schema().names())
    if {"image", "ref_list"} <= columns:
        yield from _by_image(files, part, text, keep)
    elif {"image", "answer", "bbox", "file_name", "question_id"} <= columns:
        yield from _by_object(files, keep)
    else:
        raise DataError(
            f"{files[0]}: its columns are {', '.join(sorted(columns))}; expected image and ref_list "
            "(jxu124/*-benchmark) or question_id, image, answer, bbox and file_name (lmms-lab)"
        )


def _by_image(
    files: Sequence[Path], part: str, text: Text, keep: Collection[str] | None
) -> Iterator[tuple[Scene, bytes]]:
    images: set[str] = set()
    ids: set[str] = set()
    for where, row in records(files, ("image", "image_info", "ref_list")):
        image = _struct(row.get("image_info") or {}, where)
        rows: list[Scene] = []
        for item in _list(row["ref_list"], where):
            item = _struct(item, where)
            ref, annotation = (_struct(need(item, key, where), where) for key in ("ref_info", "ann_info"))
            spot = f"{where}, ref {ref.get('ref_id')}"
            if ref.get("split") is not None and not _belongs(str(ref["split"]), part):
                raise DataError(f"{spot}: it belongs to part {ref['split']!r}, not {part!r}")
            if keep is None or {str(ref.get("ref_id")), str(ref.get("ann_id"))} & set(keep):
                rows.extend(ref_rows(ref, annotation, image, spot, text))
        if not rows:
            continue
        for scene in gather(rows, where):
            if scene.file in images or not ids.isdisjoint(e.id for e in scene.expressions):
                raise DataError(f"{where}: image {scene.file} or one of its expressions is there twice")
            images.add(scene.file)
            ids.update(e.id for e in scene.expressions)
            yield scene, image_bytes(row["image"], where)
    if not images:
        raise DataError(f"{files[0]}: it holds no expressions of part {part!r}")


def _belongs(split: str, part: str) -> bool:
    """Whether a ref of `split` is in the part: RefClef's testAB is in testA and testB, and every test in test."""
    last = part.rpartition("_")[2]
    return split == last or (split.startswith("test") and last.startswith("test") and last[4:] in split[4:])


def _by_object(files: Sequence[Path], keep: Collection[str] | None) -> Iterator[tuple[Scene, bytes]]:
    """Yield scenes in two passes: rows of one image lie apart, so all are gathered before the first image is read."""
    rows: list[Scene] = []
    for where, row in records(files, ("question_id", "answer", "bbox", "file_name")):
        ann_id = checked_name(row["question_id"], where, "question_id")
        if keep is not None and ann_id not in keep:
            continue
        box = checked_box(row["bbox"], where, "xywh")
        for n, answer in enumerate(_list(row["answer"], where)):
            expression = Expression(f"{ann_id}#{n}", checked_text(answer, where), box, ref_id=ann_id)
            rows.append(scene_of_row(_own_name(row["file_name"], where), expression))
    scenes = {scene.file: scene for scene in gather(rows, str(files[0]))}
    for where, row in records(files, ("image", "file_name")):
        scene = scenes.pop(_own_name(row["file_name"], where), None)
        if scene is not None:
            yield scene, image_bytes(row["image"], where)


def records(files: Sequence[Path], columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of every file as a dict of the wanted columns, with the file and row for messages."""
    for file in files:
        frame = _frame(file)
        wanted = [name for name in columns if name in frame.collect_schema().names()]
        start = 0
        while True:
            try:
                chunk = frame.select(wanted).slice(start, ROWS_AT_ONCE).collect().to_dicts()
            except Exception as error:
                raise DataError(
                    f"{file}: cannot be read from row {start} on ({error!s:.200}); fetch it again"
                ) from error
            yield from ((f"{file}: row {start + n}", row) for n, row in enumerate(chunk))
            start += ROWS_AT_ONCE
            if len(chunk) < ROWS_AT_ONCE:
                break


def _frame(file: Path) -> polars.LazyFrame:
    try:
        import polars
    except ImportError:
        raise MissingPackage(f"parquet files need polars: {pip_install('hub')}") from None
    check_file(file)
    try:
        frame = polars.scan_parquet(file)
        frame.collect_schema()
    except Exception as error:
        raise DataError(f"{file}: not a readable parquet file ({error!s:.200}); fetch it again") from error
    return frame


def _struct(value: object, where: str) -> Mapping[str, Any]:
    """A struct, or JSON text of one; fields that parquet fills up with null are left out."""
    return {key: cell for key, cell in _parsed(value, Mapping, "struct", where).items() if cell is not None}


def _list(value: object, where: str) -> list[Any]:
    return list(_parsed(value, list, "list", where))


def _parsed(value: object, kind: type, name: str, where: str) -> Any:
    value = parsed_json(value, where) if isinstance(value, str) else value
    if not isinstance(value, kind):
        raise DataError(f"{where}: expected a {name}, not {short(value)}")
    return value


def image_bytes(image: object, where: str) -> bytes:
    data = image.get("bytes") if isinstance(image, Mapping) else image
    if not isinstance(data, bytes) or not data:
        raise DataError(f"{where}: its image has no bytes")
    return data


def _own_name(name: object, where: str) -> str:
    """COCO_train2014_000000581857_16.jpg (16 is the annotation) -> COCO_train2014_000000581857.jpg."""
    return checked_file(re.sub(r"(\d{12})_\d+(\.\w+)$", r"\1\2", str(name)), where)
