"""A fingerprint of a split's content, and in words how two splits differ.

The fingerprint is a sha256 over one line for each expression, sorted, joined by newlines, in UTF-8:

    <image key> TAB <text> TAB <x1> <y1> <x2> <y2> [TAB <box of `also`> ...]

The image key is `image_key(scene.file)`; the text is in Unicode form NFC, lower-cased, each run of white space made
one blank; a box is its four numbers in hundredths of a pixel, rounded to the nearest integer (half to even), and empty
where nothing is referred to. Boxes of `also` come sorted. File format, order of rows, ids and image sizes have no part
in it, so refer files, index lists and hub mirrors of the same split agree, while boxes cut to integers do not.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.boxes import box_xyxy_to_xywh
from bench.grounding import Box, Scene

Hundredths = tuple[int, ...]  # four; none where nothing is referred to

# train2014 and refs (COCO_train2014_000000581857[_16].jpg), train2017 (000000581857.jpg)
COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:_\d+)?")


# An expression as the fingerprint takes it: image key, text, box, the boxes of `also`.
Sample = tuple[str, str, Hundredths, tuple[Hundredths, ...]]


def image_key(file: str) -> str:
    """Return one name for an image whatever its file is called: the number of a COCO image, else the file's stem.

    `COCO_train2014_000000581857.jpg`, `000000581857.jpg` and `COCO_train2014_000000581857_16.jpg` all give "581857",
    `9739.jpg` gives "9739". Folders before the name are left out.
    """
    name = file.replace("\\", "/").rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    match = COCO_NAME.fullmatch(stem)
    return str(int(match[1])) if match else stem


def fingerprint(scenes: Sequence[Scene]) -> str:
    """Return the sha256 (hex) over the content of `scenes`, the same whatever file format they came from."""
    lines = [
        "\t".join((image, text, *(" ".join(map(str, each)) for each in (box, *also))))
        for image, text, box, also in _samples(scenes)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def difference(
    a: Sequence[Scene], b: Sequence[Scene], names: tuple[str, str] = ("the first", "the second")
) -> list[str]:
    """Describe how two splits differ, in sentences with numbers; empty exactly when their fingerprints are equal.

    Images that only one has come first, then boxes that differ for the same image and text (how many, by how much, and
    why), texts that differ on the same box, and expressions that only one has.
    """
    # 1. What only one of them has.
    left, right = Counter(_samples(a)), Counter(_samples(b))
    only_a, only_b = list((left - right).elements()), list((right - left).elements())
    sentences: list[str] = []
    # 2. Whole images.
    images_a, images_b = {image_key(s.file) for s in a}, {image_key(s.file) for s in b}
    for own, others, only, (name, other) in (
        (images_a, images_b, only_a, names),
        (images_b, images_a, only_b, names[::-1]),
    ):
        if missing := sorted(own - others):
            lost = [image for image, *_ in only if image in own - others]
            counts = f"{_count(missing, 'image')} with {_count(lost, 'expression')}"
            sentences.append(f"{counts} only in {name}, not in {other}: {_few(missing)}")
    only_a = [sample for sample in only_a if sample[0] in images_b]
    only_b = [sample for sample in only_b if sample[0] in images_a]
    # 3. Other boxes for the same image and text, then other texts for the same image and box.
    same_text, only_a, only_b = _pairs(only_a, only_b, lambda sample: sample[:2])
    if some := [pair for pair in same_text if () in (pair[0][2], pair[1][2])]:
        sentences.append(f"{_count(some, 'expression')} without a target in {names[0]} or in {names[1]} alone")
        same_text = [pair for pair in same_text if () not in (pair[0][2], pair[1][2])]
    if same_text:
        sentences.append(_boxes_differ(same_text, names))
    same_box, only_a, only_b = _pairs(only_a, only_b, lambda sample: (sample[0], sample[2]))
    if same_box:
        examples = _few([f"{x!r} / {y!r} (image {image})" for (image, x, *_), (_, y, *_) in same_box])
        sentences.append(f"{_count(same_box, 'expression')} with another text on the same box: {examples}")
    # 4. The rest.
    for only, name in ((only_a, names[0]), (only_b, names[1])):
        if only:
            examples = _few([f"{text!r} (image {image})" for image, text, *_ in sorted(only)])
            sentences.append(f"{_count(only, 'expression')} only in {name}: {examples}")
    return sentences


def _samples(scenes: Sequence[Scene]) -> list[Sample]:
    """List every expression of every scene, normalised; the boxes of all are rounded in one go."""
    pairs = [(scene, e) for scene in scenes for e in scene.expressions]
    keys = {scene.file: image_key(scene.file) for scene in scenes}
    boxes = _hundredths([e.box for _, e in pairs])
    return [
        (keys[scene.file], _normal(e.text), box, tuple(sorted(_hundredths(e.also))))
        for (scene, e), box in zip(pairs, boxes, strict=True)
    ]


def _hundredths(boxes: Sequence[Box]) -> list[Hundredths]:
    if not boxes:  # numpy would take far longer, and most expressions have no other boxes
        return []
    values: NDArray[np.float64] = np.asarray(boxes, np.float64).reshape(-1, 4) * 100
    absent: NDArray[np.bool_] = np.isnan(values[:, 0])
    rounded = [*map(tuple, np.rint(np.where(absent[:, None], 0, values)).astype(np.int64).tolist())]
    for at in np.flatnonzero(absent).tolist():
        rounded[at] = ()
    return rounded


def _normal(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.lower().split())


def _pairs(
    a: list[Sample], b: list[Sample], key: Callable[[Sample], object]
) -> tuple[list[tuple[Sample, Sample]], list[Sample], list[Sample]]:
    """Pair samples of `a` and `b` with equal `key`, in sorted order; returns the pairs, and what is left of each."""
    waiting: defaultdict[object, list[Sample]] = defaultdict(list)
    for sample in sorted(b, reverse=True):  # so that pop() gives the smallest first
        waiting[key(sample)].append(sample)
    paired, left = [], []
    for sample in sorted(a):
        if waiting[key(sample)]:
            paired.append((sample, waiting[key(sample)].pop()))
        else:
            left.append(sample)
    return paired, left, [s for samples in waiting.values() for s in samples]


def _boxes_differ(pairs: list[tuple[Sample, Sample]], names: tuple[str, str]) -> str:
    """Describe how many boxes differ for the same image and text, by how much, and what explains all of them."""
    a, b = (np.array([pair[side][2] for pair in pairs]) / 100 for side in (0, 1))
    far = np.abs(a - b).max(axis=1)
    summary = (
        f"{_count(pairs, 'expression')} with another box for the same image and text: largest deviation "
        f"{far.max():.2f} px, median {np.median(far):.2f} px"
    )
    if not far.any():
        return f"{len(pairs):,} expressions have other boxes that also count as right for the same image, text and box"
    for one, other, name, of in ((a, b, names[1], names[0]), (b, a, names[0], names[1])):
        for what, change in EXPLANATIONS.items():
            if np.abs(change(one) - other).max() < 0.02:
                return f"{summary}; the boxes of {name} are those of {of} {what}"
    return summary


def _cut_xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cut boxes as TransVG and its kin do: x, y, width and height each to integers, then made corners."""
    xywh = np.floor(box_xyxy_to_xywh(boxes) + 0.004)  # 226.67 may come back from corners as 226.6699
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


EXPLANATIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "cut to integers": np.trunc,
    "cut to integers as x, y, width, height": _cut_xywh,
    "rounded to integers": np.rint,
    "moved by one pixel up and to the left": lambda boxes: boxes - 1,
    "with width and height taken for the right and bottom corner": box_xyxy_to_xywh,
}


def _count(items: Sequence[object], name: str) -> str:
    return f"{len(items):,} {name}{'' if len(items) == 1 else 's'}"


def _few(items: Sequence[str], most: int = 3) -> str:
    return ", ".join(items[:most]) + (", ..." if len(items) > most else "")
