"""Labels that are no part of a data set: expressions of any file, pseudo-labels too, about a data set's images.

    bench train --split refcoco-train --labels unc_train_pseudo.pth [--labels more.jsonl]

A file is an index list (.pth, boxes as its data set has them) or our JSONL. The split says whose images are meant;
where it is prepared, it lends their sizes. Images of a JSONL that the data set does not hold are looked for beside it.
Rows about the same image become one scene. With several files, ids begin with the number of the file: "2:118". A box
that misses its image is refused here where the size is known, else when the image is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.datasets.catalog import Catalogued
from bench.datasets.fingerprint import image_key
from bench.datasets.images import Images
from bench.datasets.load import FILE, find_split, load_split
from bench.datasets.readers.index_lists import FORMATS, read_index_list, source_of_list
from bench.datasets.readers.jsonl import line_of, read_jsonl, read_provenance
from bench.datasets.readers.rows import gather
from bench.datasets.split import Split
from bench.errors import DataError, UsageError
from bench.grounding import Expression, ImageArray, ImageSource, Scene, SceneObject, check_box_touches
from bench.hashing import sha256_file
from bench.settings import Resolved

NAMED = 3  # images named in a message
Size = tuple[int | None, int | None]
Provenance = Mapping[str, Mapping[str, Any]]  # expression id -> plain JSON


# The split to train on, {"file", "sha256", "rows"} of each label file, and the provenance of rows that have one.
Labelled = tuple[Split, tuple[Mapping[str, Any], ...], Provenance]


@dataclass(frozen=True, slots=True)
class SourceRows:
    """One source of pseudo-labels: its rows as scenes, their provenance, and the files they came from."""

    name: str
    scenes: Sequence[Scene]
    provenance: Provenance = field(default_factory=dict)
    files: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Album:
    """The images of the split's data set; `sizes` and `objects` by image key, `known` files if they are all."""

    split: str
    dataset: str
    images: ImageSource
    sizes: Mapping[str, Size] = field(default_factory=dict)
    objects: Mapping[str, tuple[SceneObject, ...]] = field(default_factory=dict)
    known: frozenset[str] | None = None

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        """List the files of `scenes` that are not among the data set's images."""
        absent = set(self.images.missing(scenes))
        return [s.file for s in scenes if s.file in absent or (self.known is not None and s.file not in self.known)]


@dataclass(frozen=True)
class LabelImages:
    """An ImageSource: the data set's images, and `beside` them those that a label file brought along.

    `load` also raises DataError for a label outside its image, which only the decoded image can tell where no size
    is annotated.
    """

    album: ImageSource
    beside: Mapping[str, ImageSource]
    paths: tuple[Path, ...]

    def load(self, scene: Scene) -> ImageArray:
        """Decode the scene's image, RGB uint8 (H, W, 3), and check that its labels touch it."""
        image = self.beside.get(scene.file, self.album).load(scene)
        height, width = image.shape[:2]
        for expression in scene.expressions:
            if expression.outside(width, height):
                check_box_touches(scene, expression, width, height, self._where(expression.id))
        return image

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        """List the files of `scenes` that are nowhere."""
        return self.album.missing([scene for scene in scenes if scene.file not in self.beside])

    def _where(self, expression_id: str) -> str:
        path, own = self.paths[0], expression_id
        if len(self.paths) > 1:
            number, _, own = expression_id.partition(":")
            path = self.paths[int(number) - 1]
        return f"{path}: {_place(path, own)}"


def load_labels(split_name: str, paths: Sequence[Path], resolved: Resolved, album: Album | None = None) -> Labelled:
    """Load the expressions of `paths` about the images of the data set that `split_name` is a part of.

    `album` is what `open_album` returned before, for who loads several times. Raises UnknownName for the split,
    UsageError for a file of no known kind, and DataError, naming file and row, for a row that cannot be used, an image
    that is nowhere, and a box outside an image of known size.
    """
    album = album or open_album(split_name, resolved)
    rows: list[Scene] = []
    files: list[Mapping[str, Any]] = []
    provenance: dict[str, Mapping[str, Any]] = {}
    beside: dict[str, Path] = {}  # image -> the folder of the JSONL that brought it
    for number, path in enumerate(paths, 1):
        # 1. The file's rows, and the images that lie beside it.
        scenes = _read(path, album)
        for file in _beside(path, scenes, album):
            if beside.setdefault(file, path.resolve().parent) != path.resolve().parent:
                raise DataError(f"{path}: {file!r} is another image than in {beside[file]}; rename one of the two")
        # 2. Ids that are unique over all files.
        before, prefix = len(rows), f"{number}:" if len(paths) > 1 else ""
        rows += _rows(path, scenes, album, prefix)
        if path.suffix == ".jsonl":
            provenance |= {prefix + name: record for name, record in read_provenance(path).items()}
        files.append({"file": path.name, "sha256": sha256_file(path), "rows": len(rows) - before})
    # 3. Scenes, with the objects that the data set annotates.
    merged = tuple(
        replace(scene, objects=album.objects.get(image_key(scene.file), ()))
        for scene in gather(rows, " and ".join(str(path) for path in paths))
    )
    images = album.images
    if beside or any(scene.width is None or scene.height is None for scene in merged):
        images = LabelImages(images, {f: Images([p], nested=False) for f, p in beside.items()}, tuple(paths))
    names = ", ".join(path.name for path in paths)
    return Split(album.split, f"{album.split}, labels of {names}", merged, images), tuple(files), provenance


def open_album(split_name: str, resolved: Resolved) -> Album:
    """Collect what is known of the split's images; the split itself is read only where it is at hand."""
    if split_name.startswith(FILE):
        split = load_split(split_name, resolved)
        return Album(split.name, split.dataset, split.images, *_annotated(split.scenes))
    dataset, part = find_split(split_name)
    name = f"{dataset.name}-{part.name}"
    if isinstance(dataset, Catalogued):
        scenes = dataset.load(part.name, resolved).scenes if dataset.ready(part.name, resolved) else ()
        return Album(name, dataset.name, dataset.images_in(resolved), *_annotated(scenes))
    # Another data set's source need not know which images exist (`shapes` draws any).
    split = dataset.load(part.name, resolved)
    known = frozenset(scene.file for scene in split.scenes)
    return Album(name, dataset.name, split.images, *_annotated(split.scenes), known)


def sources_of(
    split_name: str, paths: Sequence[Path], resolved: Resolved, limit: int | None = None, album: Album | None = None
) -> list[SourceRows]:
    """Load the sources in `paths`, in order: a row belongs to the source that it names itself, else to its file's.

    Files that name the same source are one. `limit` takes the first images of each file. Raises DataError for two
    rows of a source with one id, and what `load_labels` raises.
    """
    sources: dict[str, SourceRows] = {}
    album = album or open_album(split_name, resolved)
    for path in paths:
        split, files, rows = load_labels(split_name, [path], resolved, album)
        split = split if limit is None else split.limited(limit)
        file_source = source_name(path, files[0]["rows"], rows)
        for name, scenes in _by_source(split.scenes, rows, file_source).items():
            before = sources.get(name, SourceRows(name, ()))
            known = _ids(before.scenes)
            if again := [row for row in _ids(scenes) if row in known]:
                raise DataError(
                    f"{path}: {len(again):,} ids, {again[0]!r} among them, are those of rows in another file of the "
                    f"source {name!r}; give the rows ids of their own, or leave one file out"
                )
            merged = {**before.provenance, **rows}
            sources[name] = SourceRows(name, (*before.scenes, *scenes), merged, (*before.files, *files))
    return list(sources.values())


def source_name(path: Path, rows: int, provenance: Provenance) -> str:
    """Name the source of a file with `rows` rows.

    It is the one that all rows name; else the one in the name of an official list; else the file's name without suffix.
    """
    sources = [str(each["source"]) for each in provenance.values() if each.get("source")]
    if len(set(sources)) == 1 and len(sources) == rows:
        return sources[0]
    return source_of_list(path.name) or path.stem


def _ids(scenes: Sequence[Scene]) -> dict[str, None]:
    return {expression.id: None for scene in scenes for expression in scene.expressions}


def _by_source(scenes: Sequence[Scene], provenance: Provenance, file_source: str) -> dict[str, list[Scene]]:
    """Split scenes by the source of their rows."""
    out: dict[str, list[Scene]] = {}
    for scene in scenes:
        rows: dict[str, list[Expression]] = {}
        for expression in scene.expressions:
            name = provenance.get(expression.id, {}).get("source")
            rows.setdefault(name if isinstance(name, str) and name else file_source, []).append(expression)
        for name, own in rows.items():
            out.setdefault(name, []).append(replace(scene, expressions=tuple(own)))
    return out


def _annotated(scenes: Iterable[Scene]) -> tuple[dict[str, Size], dict[str, tuple[SceneObject, ...]]]:
    """Return the annotated sizes and objects of images, by image key."""
    by_key = {image_key(scene.file): scene for scene in scenes}
    return {k: (s.width, s.height) for k, s in by_key.items()}, {k: s.objects for k, s in by_key.items()}


def _read(path: Path, album: Album) -> list[Scene]:
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix != ".pth":
        raise UsageError(f"--labels {path}: labels are an index list (.pth) or a .jsonl")
    if album.dataset not in FORMATS:
        raise UsageError(
            f"--labels {path}: the boxes of an index list go by its data set, and of {album.dataset} none are known "
            f"(known: {', '.join(FORMATS)}); write the labels as .jsonl"
        )
    return read_index_list(path, album.dataset)


def _beside(path: Path, scenes: Sequence[Scene], album: Album) -> list[str]:
    """List images that lie beside a JSONL instead of in the data set. Raises DataError for those that are nowhere."""
    absent = set(album.missing(scenes))
    if not absent:
        return []
    lost = [scene for scene in scenes if scene.file in absent]
    nowhere = set(Images([path.resolve().parent], nested=False).missing(lost)) if path.suffix == ".jsonl" else absent
    if nowhere:
        raise DataError(_nowhere(path, [scene for scene in lost if scene.file in nowhere], len(scenes), album))
    return [scene.file for scene in lost]


def _nowhere(path: Path, lost: Sequence[Scene], total: int, album: Album) -> str:
    named = "; ".join(f"{_place(path, scene.expressions[0].id)}: {scene.file}" for scene in lost[:NAMED])
    more = "; ..." if len(lost) > NAMED else ""
    message = f"{path}: {len(lost):,} of its {total:,} images are not among those of {album.dataset}: {named}{more}"
    if isinstance(album.images, Images):
        places = ", ".join(str(p) + ("" if p.exists() else " (which is not there)") for p in album.images.paths)
        message += f"\nlooked in: {places}" if places else f"\n{album.images.hint}"
    return message


def _place(path: Path, expression_id: str) -> str:
    """Say where an expression stands: "row 3" of a list, whose ids are row numbers; "line 4" of a JSONL."""
    return line_of(path, expression_id) if path.suffix == ".jsonl" else f"row {expression_id}"


def _rows(path: Path, scenes: Sequence[Scene], album: Album, prefix: str) -> Iterator[Scene]:
    """Yield every row with the size of its image where anyone knows it, its box checked, its id made unique."""
    for scene in scenes:
        width, height = album.sizes.get(image_key(scene.file), (None, None))
        sized = replace(scene, width=scene.width or width, height=scene.height or height)
        if (width and sized.width != width) or (height and sized.height != height):
            raise DataError(
                f"{path}: {_place(path, scene.expressions[0].id)}: {scene.file} is given as {sized.width} x "
                f"{sized.height} pixels, and {album.split} says {width} x {height}"
            )
        for expression in scene.expressions:
            if sized.width and sized.height and expression.outside(sized.width, sized.height):
                where = f"{path}: {_place(path, expression.id)}"
                check_box_touches(sized, expression, sized.width, sized.height, where)
            yield replace(sized, expressions=(replace(expression, id=prefix + expression.id),))
