"""What makes a split that split: a fingerprint of its content, and in words how two splits differ.

The fingerprint is a sha256 over one line for each expression, sorted, joined by newlines, in UTF-8:

    <image key> TAB <text> TAB <x1> <y1> <x2> <y2> [TAB <box of `also`> ...]

The image key is `image_key(scene.file)`; the text is in Unicode form NFC, lower-cased, each run of white space made
one blank; a box is its four numbers in hundredths of a pixel, rounded to the nearest integer (half to even). Boxes of
`also` come sorted. File format, order of rows, ids and image sizes have no part in it, so refer files, index lists
and hub mirrors of the same split agree, while boxes cut to integers do not.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.boxes import box_xyxy_to_xywh
from bench.grounding import Box, Scene

Hundredths = tuple[int, int, int, int]

# train2014 and refs (COCO_train2014_000000581857[_16].jpg), train2017 (000000581857.jpg)
COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:_\d+)?")


class Sample(NamedTuple):
    """One expression as the fingerprint sees it; boxes in hundredths of a pixel."""

    image: str
    text: str
    box: Hundredths
    also: tuple[Hundredths, ...]


def image_key(file: str) -> str:
    """One name for an image whatever its file is called: the number of a COCO image, else the file's stem.

    `COCO_train2014_000000581857.jpg`, `000000581857.jpg` and `COCO_train2014_000000581857_16.jpg` all give "581857",
    `9739.jpg` gives "9739". Folders before the name are left out.
    """
    name = file.replace("\\", "/").rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    match = COCO_NAME.fullmatch(stem)
    return str(int(match[1])) if match else stem


def fingerprint(scenes: Sequence[Scene]) -> str:
    """sha256 (hex) over the content of `scenes`, as the module says; the same whatever file format they came from."""
    lines = [
        "\t".join((s.image, s.text, *(" ".join(map(str, box)) for box in (s.box, *s.also)))) for s in _samples(scenes)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def difference(
    a: Sequence[Scene], b: Sequence[Scene], names: tuple[str, str] = ("the first", "the second")
) -> list[str]:
    """Describe how two splits differ, in sentences with numbers; empty exactly when their fingerprints are equal.

    Images that only one has come first, then boxes that differ for the same image and text (how many, by how much, and
    why), texts that differ on the same box, and expressions that only one has.
    """
    left, right = Counter(_samples(a)), Counter(_samples(b))
    only_a, only_b = list((left - right).elements()), list((right - left).elements())
    said: list[str] = []
    images_a, images_b = {image_key(s.file) for s in a}, {image_key(s.file) for s in b}
    for have, lack, only, (name, other) in (
        (images_a, images_b, only_a, names),
        (images_b, images_a, only_b, names[::-1]),
    ):
        if missing := sorted(have - lack):
            gone = [s for s in only if s.image in have - lack]
            said.append(
                f"{_count(missing, 'image')} with {_count(gone, 'expression')} only in {name}, not in {other}: "
                + _few(missing)
            )
    only_a = [s for s in only_a if s.image in images_b]
    only_b = [s for s in only_b if s.image in images_a]
    same_text, only_a, only_b = _pairs(only_a, only_b, lambda s: (s.image, s.text))
    if same_text:
        said.append(_boxes_differ(same_text, names))
    same_box, only_a, only_b = _pairs(only_a, only_b, lambda s: (s.image, s.box))
    if same_box:
        shown = _few([f"{x.text!r} / {y.text!r} (image {x.image})" for x, y in same_box])
        said.append(f"{_count(same_box, 'expression')} with another text on the same box: {shown}")
    for only, name in ((only_a, names[0]), (only_b, names[1])):
        if only:
            shown = _few([f"{s.text!r} (image {s.image})" for s in sorted(only)])
            said.append(f"{_count(only, 'expression')} only in {name}: {shown}")
    return said


def _samples(scenes: Sequence[Scene]) -> list[Sample]:
    """Every expression of every scene, normalised; the boxes of all are rounded in one go."""
    pairs = [(scene, e) for scene in scenes for e in scene.expressions]
    keys = {scene.file: image_key(scene.file) for scene in scenes}
    boxes = _hundredths([e.box for _, e in pairs])
    return [
        Sample(keys[scene.file], _normal(e.text), box, tuple(sorted(_hundredths(e.also))))
        for (scene, e), box in zip(pairs, boxes, strict=True)
    ]


def _hundredths(boxes: Sequence[Box]) -> list[Hundredths]:
    if not boxes:  # numpy would take far longer, and most expressions have no other boxes
        return []
    rounded = np.rint(np.asarray(boxes, np.float64).reshape(-1, 4) * 100).astype(np.int64)
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in rounded.tolist()]


def _normal(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.lower().split())


def _pairs(
    a: list[Sample], b: list[Sample], key: Callable[[Sample], object]
) -> tuple[list[tuple[Sample, Sample]], list[Sample], list[Sample]]:
    """Samples of `a` and `b` with equal `key`, paired in sorted order, and what is left of each."""
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
    """How many boxes differ for the same image and text, by how much, and what explains all of them."""
    a = np.array([x.box for x, _ in pairs]) / 100
    b = np.array([y.box for _, y in pairs]) / 100
    far = np.abs(a - b).max(axis=1)
    said = (
        f"{_count(pairs, 'expression')} with another box for the same image and text: largest deviation "
        f"{far.max():.2f} px, median {np.median(far):.2f} px"
    )
    if not far.any():
        return f"{len(pairs):,} expressions have other boxes that also count as right for the same image, text and box"
    for one, other, name, of in ((a, b, names[1], names[0]), (b, a, names[0], names[1])):
        for what, made in EXPLANATIONS.items():
            if np.abs(made(one) - other).max() < 0.02:
                return f"{said}; the boxes of {name} are those of {of} {what}"
    return said


def _cut_xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """What TransVG and its kin do: x, y, width and height are each cut to integers, then made corners."""
    xywh = np.floor(box_xyxy_to_xywh(boxes) + 0.004)  # 226.67 may come back from corners as 226.6699
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


EXPLANATIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "cut to integers": np.trunc,
    "cut to integers as x, y, width, height": _cut_xywh,
    "rounded to integers": np.rint,
    "moved by one pixel up and to the left": lambda boxes: boxes - 1,
    "with width and height taken for the right and bottom corner": box_xyxy_to_xywh,
}


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things):,} {name}{'' if len(things) == 1 else 's'}"


def _few(items: Sequence[str], most: int = 3) -> str:
    return ", ".join(items[:most]) + (", ..." if len(items) > most else "")
