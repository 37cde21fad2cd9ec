"""A split with its annotations taken away: what makes pseudo-labels sees images and nothing else.

Scenes keep their names and the sizes of their images, which a decoded image tells anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from bench.datasets.images import Images
from bench.datasets.split import Split
from bench.errors import DataError, UsageError
from bench.grounding import ImageArray, ImageSource, PipelineContext, Scene

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))


def blind(split: Split) -> tuple[list[Scene], ImageSource]:
    """The scenes without expressions, and their images with `load` and `missing` only; no expression is read."""
    return without_expressions(split.scenes), BlindImages(split.images)


def without_expressions(scenes: Iterable[Scene]) -> list[Scene]:
    """The same scenes without any annotation."""
    return [replace(scene, expressions=(), objects=()) for scene in scenes]


def shut(context: PipelineContext) -> PipelineContext:
    """The context with no way to annotations: neither a train part nor annotated boxes."""
    return replace(context, train_scenes=_no_train_scenes, candidates=None)


def _no_train_scenes() -> NoReturn:
    raise UsageError("pseudo-labels are made from images alone; a source may not ask for the annotations of a split")


class BlindImages:
    """A ImageSource that can do nothing else, and never hands annotations on."""

    __slots__ = ("load", "missing")

    def __init__(self, images: ImageSource) -> None:
        self.load: Callable[[Scene], ImageArray] = lambda scene: images.load(*without_expressions([scene]))
        self.missing: Callable[[Sequence[Scene]], list[str]] = lambda scenes: images.missing(scenes)


def images_below(folder: Path, out: Path) -> tuple[list[Scene], ImageSource]:
    """Every image file in a folder, sorted by path, named as a JSONL at `out` names its images: from its folder on.

    Sizes are not known. Raises UsageError when `out` does not lie in the folder or above it, for then no JSONL there
    may name the images, and DataError when there is none.
    """
    if not folder.is_dir():
        raise DataError(f"--images {folder}: not a folder" if folder.exists() else f"--images {folder}: not there")
    top, base = folder.resolve(), out.resolve().parent
    if not top.is_relative_to(base):
        raise UsageError(
            f"--out {out}: it names images by their way from its own folder, which may not lead out of it; write it "
            f"into the folder of the images, {folder / out.name}, or above"
        )
    found = sorted(path for path in top.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"--images {folder}: no image in it (looked for {', '.join(sorted(SUFFIXES))})")
    files = [path.relative_to(base).as_posix() for path in found]
    return [Scene(file, file, None, None, ()) for file in files], BlindImages(Images([base], nested=False))
