"""Images without annotations: all that a source of pseudo-labels gets.

Scenes keep their names and the sizes of their images, which a decoded image tells anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

from bench.datasets.images import Images
from bench.datasets.load import load_split
from bench.errors import DataError, UsageError
from bench.evaluation.opening import OWN_DATA
from bench.grounding import ImageSource, PipelineContext, Scene
from bench.settings import Resolved

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))


def find_images(
    split: str | None, folder: Path | None, out: Path, resolved: Resolved
) -> tuple[str, str, Sequence[Scene], ImageSource]:
    """Find the images of a split or a folder: name, data set, scenes without expressions, and their source.

    Raises UsageError when not exactly one is given, and DataError when there is no image.
    """
    if (split is None) == (folder is None):
        raise UsageError("name the images with --split NAME or --images FOLDER")
    if folder is not None:
        return f"{OWN_DATA}:{folder.resolve().name}", OWN_DATA, *images_below(folder, out)
    data = load_split(str(split), resolved)
    if not data.scenes:
        raise DataError(f"{data.name}: the split has no images")
    return data.name, data.dataset, without_expressions(data.scenes), images_only(data.images)


def images_below(folder: Path, out: Path) -> tuple[list[Scene], ImageSource]:
    """List every image file in a folder, sorted by path, named as a JSONL at `out` names its images.

    Sizes are not known. Raises UsageError when `out` does not lie in the folder or above it, for then no JSONL there
    may name the images, and DataError when there is none.
    """
    if not folder.is_dir():
        raise DataError(f"--images {folder}: not a folder" if folder.exists() else f"--images {folder}: no such folder")
    top, base = folder.resolve(), out.resolve().parent
    if not top.is_relative_to(base):
        raise UsageError(
            f"--out {out}: it names images by their way from its own folder, which may not lead out of it; write it "
            f"into the folder of the images, {folder / out.name}, or above"
        )
    paths = sorted(path for path in top.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"--images {folder}: no image in it (looked for {', '.join(sorted(SUFFIXES))})")
    files = [path.relative_to(base).as_posix() for path in paths]
    return [Scene(file, file, None, None, ()) for file in files], images_only(Images([base], nested=False))


def without_expressions(scenes: Iterable[Scene]) -> list[Scene]:
    """Return the same scenes without any annotation."""
    return [replace(scene, expressions=(), objects=()) for scene in scenes]


def images_only(images: ImageSource) -> ImageSource:
    """Make an ImageSource with `load` and `missing` alone, which hands no annotation on."""
    only: Any = SimpleNamespace(
        load=lambda scene: images.load(*without_expressions([scene])), missing=lambda scenes: images.missing(scenes)
    )
    return cast(ImageSource, only)


def without_annotations(context: PipelineContext) -> PipelineContext:
    """Return the context with neither a train part nor annotated boxes."""
    return replace(context, train_scenes=_no_train_scenes, candidates=None)


def _no_train_scenes(*_: str) -> NoReturn:
    raise UsageError("pseudo-labels are made from images alone; a source may not ask for the annotations of a split")
