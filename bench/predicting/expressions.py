"""Expressions about images without annotations: a JSONL, or a folder of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.datasets.images import Images
from bench.datasets.readers.jsonl import read_questions
from bench.datasets.readers.rows import checked_text, gather, scene_of_row
from bench.errors import UsageError
from bench.grounding import Box, Expression, ImageSource, Scene
from bench.inputs import load_text
from bench.settings import Resolved

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
UNKNOWN_BOX: Box = (float("nan"), float("nan"), float("nan"), float("nan"))


Requested = tuple[tuple[Scene, ...], ImageSource]  # one scene an image, in order of first appearance, with NaN boxes


def requested(
    file: Path | None, image: Path | None, text: str | None, draw: Path | None, resolved: Resolved
) -> Requested:
    """List what `bench predict` grounds of many: the lines of `file`, or the images of the folder `image`.

    What lies under `draw`, the folder of drawings, is left out. Raises UsageError, DataError.
    """
    if file is None:
        assert image is not None
        return expressions_of_folder(image, text, but=[draw] if draw else [])
    if image is not None or text is not None:
        raise UsageError("--input names its own images and texts; leave out --image and --text")
    return expressions_of_file(file, resolved)


def expressions_of_file(path: Path, resolved: Resolved) -> Requested:
    """Read `{"image": ..., "text": ...}` lines (keys: bench/datasets/readers/jsonl.py), images beside the file.

    Raises DataError naming the line.
    """
    rows = (scene_of_row(file, Expression(query.id, query.text, UNKNOWN_BOX)) for file, query in read_questions(path))
    roots = [path.resolve().parent]
    if named := resolved.settings.data.images.get("file"):
        roots.insert(0, (resolved.folder / Path(named).expanduser()).resolve())
    images = Images(roots, nested=False, hint=f"names of images start at {roots[0]}")
    return tuple(gather(rows, str(path))), images


def expressions_of_folder(folder: Path, text: str | None, but: Sequence[Path] = ()) -> Requested:
    """Pair every image of a folder and its sub-folders with `text`; an expression's id is the image's path.

    Without a text, `street.txt` holds the expressions of `street.jpg`, one a line, with ids `street.jpg:LINE`; images
    without such a file are left out, as is what lies under one of the folders `but`. Raises UsageError where there is
    no expression, DataError.
    """
    files = list(_images(folder, [path.resolve() for path in but]))
    if not files:
        raise UsageError(f"--image {folder}: the folder holds no image ({', '.join(SUFFIXES)})")
    if text is not None:
        if not text.strip():
            raise UsageError("--text is empty: say what to look for")
        rows = [scene_of_row(file, Expression(file, text, UNKNOWN_BOX)) for file in files]
    else:
        rows = [row for file in files for row in _beside(folder, file)]
        if not rows:
            raise UsageError(
                f"--image {folder}: give --text for all of its {len(files):,} images, or write the expressions about "
                f"{files[0]} into {Path(files[0]).with_suffix('.txt')}, one a line"
            )
    return tuple(gather(rows, str(folder))), Images([folder.resolve()], nested=False)


def _images(folder: Path, but: Sequence[Path]) -> Iterator[str]:
    """List image paths within the folder, with /, in order of name, without hidden files and folders."""
    for top, below, files in os.walk(folder):
        here = Path(top)
        below[:] = sorted(d for d in below if not d.startswith(".") and (here / d).resolve() not in but)
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield (here / name).relative_to(folder).as_posix()


def _beside(folder: Path, file: str) -> Iterator[Scene]:
    path = (folder / file).with_suffix(".txt")
    lines = load_text(path).splitlines() if path.exists() and path.stat().st_size else []
    for number, line in enumerate(lines, 1):
        if line.strip():
            text = checked_text(line, f"{path}: line {number}")
            yield scene_of_row(file, Expression(f"{file}:{number}", text, UNKNOWN_BOX))
