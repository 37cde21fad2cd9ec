"""Masks against ground-truth masks: intersection and union of every expression, and what a run's tables say of them.

The rules are those of referring segmentation (docs/masks.md). An expression is a sample; a missing or empty mask has
IoU 0. Where nothing is referred to, gRefCOCO's rule holds: an empty mask is right (IoU 1), any other is wrong. So is a
missing one, which may be an answer that nobody could parse.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.datasets.annotations import Annotations
from bench.datasets.fingerprint import image_key
from bench.errors import DataError
from bench.evaluation.protocols import Protocol
from bench.masks import areas, refuse_broken
from bench.runs.answers import Answers
from bench.runs.numbers import MaskMetrics, Ratio

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
THRESHOLDS = ("0.5", "0.6", "0.7", "0.8", "0.9")
STEP = 2.0**-20  # IoUs in an interval's sums: added without rounding in any order, so every machine gives the same


@dataclass(frozen=True, eq=False)
class MaskOutcomes:
    """One entry per expression (M) with a ground-truth mask or, as `target` says, without a target.

    `expression` (M,) is its position in the split; `shared` and `union` are pixels in the protocol's frame; `empty`
    says that no pixel was predicted, `rejected` that an empty mask was. `data` identifies the ground-truth masks.
    """

    expression: Int
    shared: Int
    union: Int
    target: Bool
    empty: Bool
    rejected: Bool
    data: str

    @property
    def iou(self) -> Float:
        """Return the IoU (M,); without a target 1 where an empty mask was predicted, else 0."""
        return np.where(self.target, self.shared / np.maximum(self.union, 1), self.rejected)

    def of_expressions(self, count: int) -> list[tuple[float, int, int] | None]:
        """Return IoU, intersection and union of each of `count` expressions, None where no mask is compared."""
        rows: list[tuple[float, int, int] | None] = [None] * count
        each = zip(self.iou.tolist(), self.shared.tolist(), self.union.tolist(), strict=True)
        for place, row in zip(self.expression.tolist(), each, strict=True):
            rows[place] = row
        return rows

    def ratios(self) -> Iterator[tuple[str, Float, Float]]:
        """Yield each quantity as numerators (M,) and denominators (M,), whose sums' ratio it is."""
        target, iou = self.target.astype(np.float64), np.rint(self.iou / STEP) * STEP
        yield "ciou", self.shared.astype(np.float64), self.union.astype(np.float64)
        yield "miou", iou * target, target
        for threshold in THRESHOLDS:
            yield threshold, (self.iou >= float(threshold)) * target, target
        if not self.target.all():
            yield "giou", iou, np.ones_like(iou)
            yield "no_target_accuracy", self.rejected * (1 - target), 1 - target
            yield "target_accuracy", ~self.empty * target, target


def mask_outcomes(
    known: Annotations, answers: Answers, first: Int, unreadable: Bool, protocol: Protocol
) -> MaskOutcomes | None:
    """Compare the masks of answers with the annotated ones; None where either has none.

    `first` (N,) is the answer to each expression, -1 without one; `unreadable` (S,) marks images without an answer.
    Raises DataError for a broken mask, and for one of another size than the ground truth's.
    """
    if not known.masks or not answers.masks:
        return None
    target = ~np.isnan(known.boxes[:, 0])
    named = np.zeros(len(target), np.bool_)
    named[[*known.masks]] = True
    places = np.flatnonzero(named | ~target)
    given = [None if unreadable[known.image[at]] else answers.masks.get(int(first[at])) for at in places.tolist()]
    truths = [known.masks.get(at) for at in places.tolist()]
    ids = [*known.position]

    def where(kind: str) -> list[str]:
        return [f"{kind} expression {ids[at]!r}" for at in places.tolist()]

    for kind, masks in (("the ground truth of", truths), ("the answer to", given)):
        there = [at for at, mask in enumerate(masks) if mask is not None]
        names = where(kind)
        refuse_broken([m for m in masks if m is not None], lambda at, there=there, names=names: names[there[at]])
    for at, (mask, truth) in enumerate(zip(given, truths, strict=True)):
        if mask is not None and truth is not None and [*mask["size"]] != [*truth["size"]]:
            raise DataError(
                f"{where('the answer to')[at]}: its mask is {mask['size']} (height, width), the ground truth's "
                f"{truth['size']}; a mask has the size of the original image"
            )
    pixels = np.zeros(len(places), np.int64)
    answered = [at for at, mask in enumerate(given) if mask is not None]
    pixels[answered] = areas([m for m in given if m is not None])
    rejected = np.zeros(len(places), np.bool_)
    rejected[answered] = pixels[answered] == 0
    shared, union = protocol.masks(given, truths)
    return MaskOutcomes(places, shared, union, target[places], pixels == 0, rejected, data_of(known))


def data_of(known: Annotations) -> str:
    """Hash the ground-truth masks of a split: a sha256 over a sorted line of image key, text and mask for each."""
    files = known.image
    lines = []
    for at, mask in known.masks.items():
        height, width = mask["size"]
        text = " ".join(known.texts[at].lower().split())
        lines.append(f"{image_key(known.files[files[at]])}\t{text}\t{height} {width} {mask['counts']}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def mask_metrics(results: MaskOutcomes, intervals: Iterator[tuple[tuple[float, float] | None, str]]) -> MaskMetrics:
    """Sum up masks; `intervals` are those of `ratios`, in order."""
    iou, target = results.iou, results.target
    values = {"miou": _mean(iou[target]), "giou": _mean(iou)}  # of the ratios, the IoUs are rounded
    parts: dict[str, Ratio] = {}
    for name, above, below in results.ratios():
        total = float(below.sum())
        value = values.get(name, float(above.sum()) / total if total else 0.0)
        ci95, note = next(intervals)
        parts[name] = Ratio(value=value, ci95=ci95, ci95_note=note)
    return MaskMetrics(
        n=len(iou),
        no_target=int((~target).sum()),
        no_mask=int((results.empty & target).sum()),
        data=results.data,
        precision={name: parts.pop(name) for name in THRESHOLDS},
        **parts,
    )


def _mean(values: Float) -> float:
    return math.fsum(values.tolist()) / len(values) if len(values) else 0.0
