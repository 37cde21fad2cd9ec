"""What is at hand, and whether a split is what it claims: counts, fingerprint, every image whole and of its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench import registry
from bench.datasets.catalog import Catalogued, mismatches
from bench.datasets.fingerprint import fingerprint
from bench.datasets.images import check_size
from bench.datasets.load import FILE, datasets, find_split, load_split, splits_of
from bench.datasets.prepared import image_roots, missing_images
from bench.datasets.split import Counts, Dataset, Part, Split
from bench.errors import BenchError, DataError, ImageError
from bench.evaluation.decoding import decoded_ahead
from bench.grounding import ImageArray, ImageSource, Scene, check_box_touches
from bench.settings import Resolved

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one split stands. Counts are those of its index, else the published ones (None: neither).

    `images_at` are the folders and zips where its images are looked for, those that are there; None where the data
    set makes or finds its images itself. `missing` images were not there when it was prepared. `problem` is why a
    prepared index cannot be used.
    """

    split: str
    dataset: str
    expressions: int | None
    refs: int | None
    images: int | None
    ready: bool
    partial: bool = False
    fingerprint: str | None = None
    images_at: tuple[str, ...] | None = None
    missing: int = 0
    problem: str = ""

    @property
    def runnable(self) -> bool:
        """Whether it can be run, and not only scored."""
        return self.ready and self.images_at != ()

    @property
    def state(self) -> str:
        """Write what is at hand: ready, annotations only, N images missing, not prepared, broken."""
        if self.problem or not self.ready:
            return "broken" if self.problem else "not prepared"
        if self.images_at == ():
            return "annotations only"
        return f"{self.missing:,} images missing" if self.missing else "ready"


def survey(resolved: Resolved) -> list[tuple[Dataset, list[Standing]]]:
    """List every data set with the standing of its splits. No split is loaded and no image looked for."""
    return [(dataset, [_standing(dataset, part, resolved) for part in dataset.parts]) for dataset in datasets()]


def _ready(dataset: Dataset, part: Part, resolved: Resolved) -> bool:
    with registry.guarded(f"dataset {dataset.name!r}"):
        return bool(dataset.ready(part.name, resolved))


def _standing(dataset: Dataset, part: Part, resolved: Resolved) -> Standing:
    name, published = f"{dataset.name}-{part.name}", (part.expressions, part.refs, part.images)
    try:
        ready = _ready(dataset, part, resolved)
    except BenchError as error:  # another package's
        return Standing(name, dataset.name, *published, ready=False, images_at=(), problem=str(error))
    if not isinstance(dataset, Catalogued):
        return Standing(name, dataset.name, *published, ready)
    try:
        at = tuple(str(root) for root in image_roots(resolved, dataset.name, dataset.album) if root.exists())
        if not ready:
            return Standing(name, dataset.name, *published, ready=False, images_at=at)
        header = dataset.header(part.name, resolved)
    except DataError as error:
        return Standing(name, dataset.name, *published, ready=False, images_at=(), problem=str(error))
    counts = (header.counts.expressions, header.counts.refs, header.counts.images)
    missing = missing_images(resolved.home, dataset.name).get(part.name, 0)
    return Standing(name, dataset.name, *counts, True, header.partial, header.fingerprint, at, missing)


@dataclass(frozen=True, slots=True)
class Verified:
    """The state of one split. `missing` names files; `broken` and `other_size` are messages that name them.

    `none` and `several` count expressions that refer to nothing and to several objects. Without `sizes_annotated`
    (index lists) no image of another size is noticed.
    """

    split: str
    counts: Counts
    fingerprint: str
    partial: bool
    annotations: tuple[str, ...]
    missing: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    other_size: tuple[str, ...] = ()
    images_checked: int = 0
    none: int = 0
    several: int = 0
    sizes_annotated: bool = True

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.annotations or self.missing or self.broken or self.other_size)


def verify(
    name: str, resolved: Resolved, threads: int = 4, images: bool = True, progress: Progress | None = None
) -> list[Verified]:
    """Check one split, or every part of a data set that is at hand; `progress` is called for each image done.

    Raises UnknownName, and DataError when nothing of the data set is at hand.
    """
    names = [name] if name.startswith(FILE) else splits_of(name)
    parts = {n: find_split(n) for n in names if not n.startswith(FILE)}
    ready = [n for n in names if n not in parts or _ready(*parts[n], resolved)]
    # With nothing at hand, loading says how to get it.
    return [_verify(load_split(n, resolved), threads, images, progress) for n in ready or names[:1]]


def _verify(split: Split, threads: int, images: bool, progress: Progress | None) -> Verified:
    real = fingerprint(split.scenes)
    verified = Verified(split.name, split.counts, real, split.partial, tuple(_annotation_problems(split, real)))
    targets = [len(expression.targets) for scene in split.scenes for expression in scene.expressions]
    verified = replace(verified, none=targets.count(0), several=sum(count > 1 for count in targets))
    if not images:
        return verified
    absent = set(split.images.missing(split.scenes))
    missing = tuple(scene.file for scene in split.scenes if scene.file in absent)
    present = [scene for scene in split.scenes if scene.file not in absent]
    broken, other_size, outside = map(tuple, _open_all(split.images, present, threads, progress))
    sized = all(scene.width and scene.height for scene in split.scenes)
    return replace(
        verified,
        annotations=(*verified.annotations, *outside),
        missing=missing,
        broken=broken,
        other_size=other_size,
        images_checked=len(present),
        sizes_annotated=sized,
    )


def _annotation_problems(split: Split, real: str) -> list[str]:
    """List counts other than the published ones, and a stored fingerprint that is not that of the scenes."""
    problems = []
    if not (split.name.startswith(FILE) or split.partial):
        problems += mismatches(find_split(split.name)[1], split.counts)
    if split.fingerprint != real:
        problems.append(f"fingerprint: {split.fingerprint[:12]} stored, {real[:12]} computed; prepare it again")
    return problems


def _open_all(
    source: ImageSource, scenes: Sequence[Scene], threads: int, progress: Progress | None
) -> tuple[list[str], list[str], list[str]]:
    """Open images; returns messages about unreadable ones, those of another size, and boxes wholly outside."""
    problems: tuple[list[str], list[str], list[str]] = ([], [], [])

    unsized = [replace(scene, width=None, height=None, expressions=()) for scene in scenes]
    batches = decoded_ahead(unsized, source, threads, 2 * threads)
    for scene, (decoded,) in zip(scenes, batches, strict=True):
        if decoded.image is None:
            problems[0].append(decoded.error)
        else:
            for which, check in ((1, check_size), (2, check_boxes)):
                try:
                    check(scene, decoded.image)
                except (ImageError, DataError) as error:
                    problems[which].append(str(error))
                    break
        if progress:
            progress(1)
    return problems


def check_boxes(scene: Scene, image: ImageArray) -> None:
    """Raise DataError for the first box that lies wholly outside its image."""
    for expression in scene.expressions:
        check_box_touches(scene, expression, image.shape[1], image.shape[0])
