"""The images that no training may have: those of every val and test part of the data sets about the same images.

RefCOCO, RefCOCO+ and both splits of RefCOCOg part the same COCO images in four ways: an image of RefCOCOg's val may be
in RefCOCO's train. Ids come from the prepared indexes; an image's id is its COCO number (fingerprint.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.datasets.catalog import CATALOGUE, Catalogued
from bench.datasets.fingerprint import COCO_NAME, image_key
from bench.datasets.prepared import index_path, read_index
from bench.errors import DataError
from bench.grounding import Scene


@dataclass(frozen=True, slots=True)
class KeptOut:
    """What is left out of a training: `parts` -> its images in them; of `unknown` parts there is no prepared index."""

    parts: dict[str, int]
    unknown: tuple[str, ...]
    images: int
    expressions: int

    def as_object(self) -> dict[str, object]:
        """Return plain values for a record."""
        counts = {"images": self.images, "expressions": self.expressions}
        return {**counts, "parts": self.parts, "unknown": list(self.unknown)}

    def refuse_unknown(self, option: str) -> None:
        """Raise DataError where a list is not at hand: images of its part could be among those of the training.

        `option` is the assignment that trains without it.
        """
        if not self.unknown:
            return
        dataset = self.unknown[0].rpartition("-")[0]
        raise DataError(
            f"no list of {', '.join(self.unknown)}, whose images must stay out of this training: `bench data prepare "
            f"{dataset} --annotations PATH` makes it (no images are needed). --set {option} trains without it, and the "
            "record says so"
        )


def without_kept_out(scenes: Sequence[Scene], dataset: str, home: Path) -> tuple[list[Scene], KeptOut]:
    """Drop the scenes whose image is in a val or test part about the same images; `home` has the prepared indexes.

    `dataset` is what the scenes are of; people's own data counts as COCO's where a file is named like an image of COCO.
    Raises DataError for a broken index.
    """
    keys = [image_key(scene.file) for scene in scenes]
    counts, unknown, gone = dict[str, int](), list[str](), set[str]()
    for one, part in kept_out_parts(dataset, scenes):
        path = index_path(home, one.name, part)
        if path.is_file():
            theirs = {image_key(scene.file) for scene in read_index(path)[1]}
            counts[f"{one.name}-{part}"] = len(theirs.intersection(keys))
            gone |= theirs
        elif one.stem:  # gRefCOCO parts its images as RefCOCO does, so its own lists may be missing
            unknown.append(f"{one.name}-{part}")
    kept = [scene for scene, key in zip(scenes, keys, strict=True) if key not in gone]
    dropped = sum(len(s.expressions) for s, key in zip(scenes, keys, strict=True) if key in gone)
    return kept, KeptOut(counts, tuple(unknown), len(scenes) - len(kept), dropped)


def kept_out_parts(dataset: str, scenes: Sequence[Scene]) -> list[tuple[Catalogued, str]]:
    """List (data set, part) of every val and test part about the images that `dataset`, or its file names, tell of."""
    known = next((one for one in CATALOGUE if dataset in (one.name, *one.aliases)), None)
    album = "" if known is None else known.album or known.name
    if known is None and any(COCO_NAME.fullmatch(Path(scene.file).stem) for scene in scenes):
        album = "coco"
    return [
        (one, part.name)
        for one in CATALOGUE
        if album and album == (one.album or one.name)
        for part in one.parts
        if part.name != "train"
    ]
