"""What is at hand: each split of each data set, whether it is prepared, and whether its pictures have a place."""

from __future__ import annotations

from dataclasses import dataclass

from bench.datasets.catalog import Catalogued
from bench.datasets.load import datasets
from bench.datasets.prepared import picture_roots
from bench.datasets.split import Dataset, Part
from bench.errors import DataError
from bench.settings import Resolved


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one split stands. Counts are those found when it is prepared, else the published ones (None: neither).

    `pictures_at` are the folders and zips where its pictures are looked for, those that are there; None where the data
    set makes or finds its pictures itself. `problem` is why a prepared index cannot be used.
    """

    split: str
    dataset: str
    expressions: int | None
    refs: int | None
    pictures: int | None
    ready: bool
    partial: bool = False
    fingerprint: str | None = None
    pictures_at: tuple[str, ...] | None = None
    problem: str = ""

    @property
    def runnable(self) -> bool:
        """Whether it can be run, and not only scored."""
        return self.ready and self.pictures_at != ()


def survey(resolved: Resolved) -> list[tuple[Dataset, list[Standing]]]:
    """Every registered data set with the standing of its splits. No split is loaded and no picture looked for."""
    return [(dataset, [_standing(dataset, part, resolved) for part in dataset.parts]) for dataset in datasets()]


def _standing(dataset: Dataset, part: Part, resolved: Resolved) -> Standing:
    name, ready = f"{dataset.name}-{part.name}", dataset.ready(part.name, resolved)
    published = (part.expressions, part.refs, part.pictures)
    if not isinstance(dataset, Catalogued):
        return Standing(name, dataset.name, *published, ready)
    try:
        at = tuple(str(root) for root in picture_roots(resolved, dataset.name, dataset.album) if root.exists())
        if not ready:
            return Standing(name, dataset.name, *published, ready=False, pictures_at=at)
        header = dataset.header(part.name, resolved)
    except DataError as error:
        return Standing(name, dataset.name, *published, ready=False, pictures_at=(), problem=str(error))
    found = (header.counts.expressions, header.counts.refs, header.counts.pictures)
    return Standing(name, dataset.name, *found, True, header.partial, header.fingerprint, at)
