"""Coordinate frames: what the four numbers of a box may mean, and whether they would be boxes under each meaning.

A frame is a layout of the numbers (corners, corner and size, y first, centre and size) in a unit of length: pixels of
the image, pixels of the resized image that a Qwen model is given, or a share of the image or of the square it is padded
to. Whether boxes are proper under a frame is worked out from the numbers and the images' sizes alone; the ground truth
is not looked at.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.boxes import box_cxcywh_to_xyxy, box_xywh_to_xyxy, box_xyxy_to_xywh
from bench.datasets.annotations import annotations_of
from bench.datasets.images import FORMATS, Images
from bench.datasets.split import Split
from bench.errors import DataError, ImageError
from bench.evaluation.protocols import protocol
from bench.evaluation.statistics import ratio_intervals
from bench.runs.answers import Answers
from bench.settings import EvaluationSettings

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

MOST_IMPROPER = 0.02  # share of the boxes; more of them, and the file is refused
MARGIN = 0.1  # of the image's side: a detector's box may end a little outside
ENOUGH_IMAGES = 100  # whose largest annotated coordinate is the longest side of an image
FEWEST_TOKENS, MOST_TOKENS = 4, 16384  # of an image in qwen-vl-utils, squares of `factor` pixels


Layout = Callable[[Float], Float]  # numbers (N, 4) -> x1, y1, x2, y2
Unit = Callable[[Float], tuple[Float, Float]]  # sizes (N, 2) -> pixels a unit, and the pixel of its origin, both (N, 2)


def _corners(numbers: Float) -> Float:
    return numbers


def _y_first(numbers: Float) -> Float:
    return numbers[:, [1, 0, 3, 2]]


def _share(of: float) -> Unit:
    return lambda sizes: (sizes / of, np.zeros_like(sizes))


def _padded(of: float) -> Unit:
    def unit(sizes: Float) -> tuple[Float, Float]:
        side = sizes.max(axis=1, keepdims=True)
        return np.repeat(side, 2, axis=1) / of, (sizes - side) / 2

    return unit


def resized(sizes: Float, factor: int, fewest: int = FEWEST_TOKENS, most: int = MOST_TOKENS) -> Float:
    """Resize as qwen-vl-utils does: sides (N, 2) to multiples of `factor`, the area to `fewest`..`most` squares."""
    least, largest = fewest * factor**2, most * factor**2
    new, area = np.maximum(factor, np.round(sizes / factor) * factor), sizes.prod(axis=1, keepdims=True)
    down = np.maximum(factor, np.floor(sizes * np.sqrt(largest / area) / factor) * factor)
    up = np.ceil(sizes * np.sqrt(least / area) / factor) * factor
    pixels = new.prod(axis=1, keepdims=True)
    return np.where(pixels > largest, down, np.where(pixels < least, up, new))


def _resized(factor: int) -> Unit:
    return lambda sizes: (sizes / resized(sizes, factor), np.zeros_like(sizes))


PIXELS, XYWH = "pixels", "pixels, x y w h"
FRAMES: dict[str, tuple[Layout, Unit | None]] = {  # without a unit the numbers are pixels already
    PIXELS: (_corners, None),
    XYWH: (box_xywh_to_xyxy, None),
    "pixels, y first": (_y_first, None),
    "pixels, centre and size": (box_cxcywh_to_xyxy, None),
    "resized pixels (28)": (_corners, _resized(28)),
    "resized pixels (32)": (_corners, _resized(32)),
    "0-1": (_corners, _share(1)),
    "0-1, x y w h": (box_xywh_to_xyxy, _share(1)),
    "0-1, y first": (_y_first, _share(1)),
    "0-1, centre and size": (box_cxcywh_to_xyxy, _share(1)),
    "0-100": (_corners, _share(100)),
    "0-1000": (_corners, _share(1000)),
    "0-999": (_corners, _share(999)),
    "0-1000, x y w h": (box_xywh_to_xyxy, _share(1000)),
    "0-1000, y first": (_y_first, _share(1000)),
    "padded square": (_corners, _padded(1)),
    "padded square, 0-1000": (_corners, _padded(1000)),
}


def to_pixels(frame: str, numbers: Float, sizes: Float) -> Float:
    """Convert numbers (N, 4) to xyxy pixels of the original images, whose widths and heights are `sizes` (N, 2)."""
    layout, unit = FRAMES[frame]
    if unit is None:
        return layout(numbers)
    scale, origin = unit(sizes)
    return np.tile(scale, 2) * layout(numbers) + np.tile(origin, 2)


class Numbers(NamedTuple):
    """The numbers of a file's boxes as they stand there (N, 4), whose they are, and widths and heights of their images.

    `sizes` (N, 2) is NaN where unknown. `longest` is the longest side of any image, infinite where that is unknown.
    """

    ids: Sequence[str]
    boxes: Float
    sizes: Float
    longest: float


def numbers_of(split: Split, answers: Answers, xywh: bool) -> Numbers:
    """Collect the numbers of all boxes but null; `xywh` says that they were read as left, top, width, height.

    Some box of many images touches the far edge of a longest one, so the largest annotated coordinate is their longest
    side: all that an index list knows of sizes.
    """
    known = annotations_of(split.scenes)
    given = np.flatnonzero(~np.isnan(answers.boxes[:, 0]))
    boxes, sizes = answers.boxes[given], known.sizes[answers.line[given]]
    longest = np.inf
    if len(split.scenes) >= ENOUGH_IMAGES and len(known.targets):
        longest = float(known.targets.max())
    return Numbers(
        [answers.ids[at] for at in given.tolist()], box_xyxy_to_xywh(boxes) if xywh else boxes, sizes, longest
    )


def faults(frame: str, numbers: Numbers) -> tuple[dict[str, Bool], float]:
    """Find the numbers that are no box of their image in a frame, by what is wrong; and how ill all fill the images.

    In the right frame some boxes touch the far edges of the images, so that the second number is about 0: the log of
    how far boxes reach, of the longer or the shorter side, whichever is worse. 0 where no size is known, too.
    """
    limit = np.where(np.isnan(numbers.sizes), numbers.longest, numbers.sizes)
    if FRAMES[frame][1] is not None:  # such numbers are or are not a box whatever the size
        limit = np.where(np.isfinite(limit), limit, 1000)
    boxes = to_pixels(frame, numbers.boxes, limit)
    room = np.where(np.isfinite(limit), limit * MARGIN, np.inf)
    inverted: Bool = np.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    outside: Bool = np.any((boxes[:, :2] < -room) | (boxes[:, 2:] > limit + room), axis=1)
    tiny: Bool = np.all(boxes[:, 2:] - boxes[:, :2] < 1, axis=1)
    kinds = {"inverted": inverted, "outside the image": outside & ~inverted}
    kinds["smaller than a pixel"] = tiny & ~inverted & ~outside
    if not np.isfinite(limit).all():
        return kinds, 0.0
    sides = np.take_along_axis(boxes[:, 2:] / limit, limit.argsort(axis=1), axis=1)  # (N, 2) shorter, longer
    reach = np.maximum(np.quantile(sides, 0.99, axis=0), 1e-9)
    return kinds, float(np.abs(np.log(reach)).max())


def refuse_wrong_frame(path: Path, split: Split, answers: Answers, xywh: bool) -> None:
    """Raise DataError where too many boxes are none as declared, with the frames in which they would be boxes."""
    numbers = numbers_of(split, answers, xywh)
    declared, total = XYWH if xywh else PIXELS, len(numbers.ids)
    if not total:
        return
    wrong, _ = faults(declared, numbers)
    bad = np.any([*wrong.values()], axis=0)
    count = int(bad.sum())
    if count <= max(1, MOST_IMPROPER * total):
        return
    first = int(np.flatnonzero(bad)[0])
    kinds = ", ".join(f"{rows.sum():,} {kind}" for kind, rows in wrong.items() if rows.any())
    first_box = ", ".join(f"{v:g}" for v in numbers.boxes[first])
    raise DataError(
        f"{path}: {count:,} of {total:,} boxes ({100 * count / total:.1f} %) are not boxes of their images, read as "
        f"{declared!r}: {kinds} (first: {numbers.ids[first]!r}, [{first_box}]). {_advice(numbers)}; `bench frames` "
        "scores each frame. Write null for an answer that is no box (a counted miss)"
    )


def _advice(numbers: Numbers) -> str:
    """Say in which frames nearly all numbers are boxes that fill the images best, and what to do."""
    misfits = {}
    for name in FRAMES:
        wrong, misfit = faults(name, numbers)
        if np.any([*wrong.values()], axis=0).mean() <= MOST_IMPROPER:
            misfits[name] = round(20 * misfit)  # equal within 5 %
    if not misfits:
        return "No usual frame makes boxes of them; --predictions takes x1, y1, x2, y2 in pixels of the original image"
    best = [name for name, misfit in misfits.items() if misfit == min(misfits.values())][:3]
    if best[0] in (PIXELS, XYWH):
        return f"They would be boxes as {best[0]!r}: " + ("pass --xywh" if best[0] == XYWH else "leave --xywh out")
    return f"They would be boxes as {' or '.join(map(repr, best))}: convert them to pixels of the original image"


def with_sizes(split: Split) -> Split:
    """Fill in the sizes that are not annotated, from the headers of the images at hand."""
    scenes = []
    for scene in split.scenes:
        size = None
        if not (scene.width and scene.height) and isinstance(split.images, Images):
            with suppress(ImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
                size = Image.open(io.BytesIO(split.images.read(scene.file)), formats=FORMATS).size
        scenes.append(replace(scene, width=size[0], height=size[1]) if size else scene)
    return replace(split, scenes=tuple(scenes))


def score_frames(split: Split, answers: Answers, xywh: bool, settings: EvaluationSettings) -> dict[str, Any]:
    """Score boxes of expressions that have a row in every frame, best first: a diagnosis, since it takes the best one.

    A frame has acc@0.5, ci95 with its note, hits, and no_box: rows without a box in that frame; None where it needs
    sizes of images that are unknown. `warning` says that another frame than the declared one is better than its
    interval allows.
    """
    numbers, declared = numbers_of(split, answers, xywh), XYWH if xywh else PIXELS
    # 1. Expressions that have a row (N), the scene of each, their targets (T, 4) and whose these are.
    given = {*answers.ids}
    places = [(s, e) for s, scene in enumerate(split.scenes) for e in scene.expressions if e.id in given]
    at = {expression.id: n for n, (_, expression) in enumerate(places)}
    rows = np.array([at[each] for each in numbers.ids], np.int64)
    _, image = np.unique([s for s, _ in places], return_inverse=True)
    owner = np.repeat(np.arange(len(places)), [len(e.targets) for _, e in places])
    truth = np.array([box for _, e in places for box in e.targets], np.float64).reshape(-1, 4)
    known = [(split.scenes[s].width or np.inf, split.scenes[s].height or np.inf) for s, _ in places]
    width, height = np.array(known, np.float64)[owner].T
    # 2. Hits of every frame that can be computed (N, K).
    rule, hits, no_box = protocol("iou"), {}, {}
    for name, (_, unit) in FRAMES.items():
        if unit is None or np.isfinite(numbers.sizes).all():
            boxes = np.full((len(places), 4), np.nan)
            boxes[rows] = to_pixels(name, numbers.boxes, numbers.sizes)
            placed, targets = rule.place(boxes[owner], truth, width, height)
            hits[name] = np.bincount(owner, rule.reached(rule.overlap(placed, targets), 0.5), len(places)) > 0
            no_box[name] = int((~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)).sum())
    # 3. Intervals from one set of draws over the images.
    per_image = np.stack([np.bincount(image, hit) for hit in hits.values()], axis=1)
    counts = np.repeat(np.bincount(image)[:, None], len(hits), axis=1)
    intervals = ratio_intervals(per_image, counts, settings.draws, settings.seed, settings.confidence)
    frames: dict[str, dict[str, Any]] = {
        name: {"frame": name, **dict.fromkeys(("acc@0.5", "ci95", "ci95_note", "hits", "no_box"))} for name in FRAMES
    }
    for (name, hit), (ci95, note) in zip(hits.items(), intervals, strict=True):
        frames[name] |= {"acc@0.5": float(hit.mean()), "ci95": ci95, "ci95_note": note}
        frames[name] |= {"hits": int(hit.sum()), "no_box": no_box[name]}
    ordered = sorted(frames.values(), key=lambda f: -1.0 if f["acc@0.5"] is None else f["acc@0.5"], reverse=True)
    best, ours, warning = ordered[0], frames[declared], None
    if ours["ci95"] and best["acc@0.5"] > ours["ci95"][1]:
        change = {XYWH: "pass --xywh", PIXELS: "leave --xywh out"}.get(best["frame"], "convert them to pixels")
        warning = (
            f"the boxes are probably in {best['frame']!r} ({100 * best['acc@0.5']:.2f} %), not in {declared!r} "
            f"({100 * ours['acc@0.5']:.2f} %, at most {100 * ours['ci95'][1]:.2f} %): {change}"
        )
    facts = {"declared": declared, "n": len(places), "images": int(image.max()) + 1, "warning": warning}
    return facts | {"frames": ordered}
