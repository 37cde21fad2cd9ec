"""Protocols: what exactly counts as a hit. A number means something only together with the name of its protocol.

iou                 IoU >= 0.5 in pixels of the original image, the prediction clipped to it. The default here, and
                    what lmms-eval and VLMEvalKit compute.
strict              as `iou`, but IoU > 0.5: ReCLIP (Subramanian et al. 2022), FAOA and ReSC (Yang et al. 2019, 2020).
giou                generalised IoU >= 0.5, prediction unclipped: the RefExpEvaluator of MDETR (Kamath et al. 2021).
                    Stricter than `iou` on the same boxes: by 0.2 to 0.6 points for detectors and good chat models, up
                    to 4 for coarse boxes (docs/reproduce.md).
letterbox-clamped   TransVG, CLIP-VG and their kin (Deng et al. 2021; Xiao et al. 2023): ground truth x, y, w, h cut
                    to whole pixels, prediction clamped to the padded square of the network's input rather than to the
                    image, ground truth not clamped, IoU >= 0.5.
letterbox-dilated   as `letterbox-clamped` for boxes; masks as HiVG and OneRef score them (Xiao et al. 2024), in the
                    letterbox of 384 pixels and dilated: a pixel counts that interpolation touches from a positive one.

several             all boxes of a prediction against all targets, one to one in order of score, IoU >= 0.5, the boxes
                    clipped to the image: a hit is F1 = 1 (several.py). `several@0.35` leaves out boxes below that
                    score. The default where expressions may refer to nothing or to several objects.
grefcoco-official   the same by generalised IoU >= 0.5, in order of overlap, unclipped, of boxes with a score >= 0.7:
                    gRefCOCO's evaluation (Liu et al. 2023; its paper says IoU).

Masks are compared pixel by pixel of the original image, but under letterbox-dilated. All but the last two score the
first box of a prediction against the best of the targets; an expression without a target is a miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.boxes import box_xywh_to_xyxy, box_xyxy_to_xywh, clip_xyxy, giou_elementwise, iou_elementwise
from bench.errors import UnknownName, UsageError
from bench.grounding import Mask
from bench.masks import decode, overlaps

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
MOST_SCORE = 1e6


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to score predicted boxes against ground truth, over arrays of N pairs.

    `place` takes predictions (N, 4), ground truths (N, 4), widths (N,) and heights (N,), all xyxy pixels of the
    original image (sizes are infinite where none is annotated), and returns both as they are compared. `overlap`
    (N, 4), (N, 4) -> (N,) is the quantity that `hits_at` is about.

    `sets` compares all boxes with all targets, one to one in order of "score" or "overlap"; boxes below `threshold` are
    left out. Without it, the first box and the best target count.

    `masks` takes M predicted and M annotated masks, None for an empty one -> pixels (M,) of intersections and unions.
    """

    name: str
    hits_at: str
    place: Callable[[Float, Float, Float, Float], tuple[Float, Float]]
    overlap: Callable[[Float, Float], Float] = iou_elementwise
    needs_size: bool = False
    sets: Literal["", "score", "overlap"] = ""
    threshold: float | None = None
    masks: Callable[[Sequence[Mask | None], Sequence[Mask | None]], tuple[Int, Int]] = overlaps

    def reached(self, overlap: Float, threshold: float) -> Bool:
        """Compare (N,) overlaps with a threshold -> (N,) hits; NaN is never one."""
        return overlap > threshold if self.hits_at.startswith(">0") else overlap >= threshold

    @property
    def is_iou(self) -> bool:
        """Tell whether `overlap` is plain IoU, so that it need not be computed twice."""
        return self.overlap is iou_elementwise


def protocol(name: str) -> Protocol:
    """Return the protocol of that name, "several@0.35" with a threshold.

    Raises UnknownName with the nearest ones, UsageError for a threshold that is none.
    """
    base, at, number = name.partition("@")
    if base not in PROTOCOLS:
        raise UnknownName("protocol", base, PROTOCOLS)
    rule = PROTOCOLS[base]
    return rule if not at else with_threshold(rule, number)


def with_threshold(rule: Protocol, threshold: str | float) -> Protocol:
    """Return a protocol over sets that leaves out boxes below a score. Raises UsageError."""
    try:
        value = round(float(threshold), 6)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > MOST_SCORE:
        raise UsageError(f"threshold {threshold!r}: expected a score, such as several@0.35")
    if not rule.sets or rule.threshold is not None:
        raise UsageError(f"protocol {rule.name!r} takes no threshold; `several` does")
    value += 0.0  # no minus before zero
    return replace(rule, name=f"{rule.name}@{value!r}", threshold=value)


def _clipped(predictions: Float, truths: Float, widths: Float, heights: Float) -> tuple[Float, Float]:
    return clip_xyxy(predictions, widths, heights), truths


def _unclipped(predictions: Float, truths: Float, widths: Float, heights: Float) -> tuple[Float, Float]:
    return predictions, truths


def _letterboxed(predictions: Float, truths: Float, widths: Float, heights: Float) -> tuple[Float, Float]:
    """Move both into the frame of the padded square's corner, at the scale of the original image.

    The network's frame is this one times 224 / side (or 640 / side); a uniform scale cancels in IoU. The square is
    taken as exactly centred, where those networks round the padding to a pixel of theirs.
    """
    side = np.maximum(widths, heights)
    corner = np.stack([side - widths, side - heights], axis=-1) / 2
    shift = np.concatenate([corner, corner], axis=-1)
    # 226.67 survives (407.6 + 226.67) - 407.6 only to float noise, which must not turn 3.0 into 2.
    whole = np.trunc(np.round(box_xyxy_to_xywh(truths), 6))
    return clip_xyxy(predictions + shift, side, side), box_xywh_to_xyxy(whole) + shift


CANVAS = 384  # pixels of OneRef's letterbox; its mask head has a cell for 2 x 2 of them


def _dilated_overlaps(predicted: Sequence[Mask | None], truths: Sequence[Mask | None]) -> tuple[Int, Int]:
    """Compare masks in the letterbox: the prediction at the centres of cells, thresholded, and dilated to pixels."""
    counts = np.zeros((len(predicted), 2), np.int64)
    for row, mask, truth in zip(counts, predicted, truths, strict=True):
        # Bilinear interpolation to twice the size touches a pixel from its own cell and from the next one.
        grown = _doubled(_doubled(_in_letterbox(mask, CANVAS // 2)).T).T
        inside = _in_letterbox(truth, CANVAS)
        row[:] = np.count_nonzero(grown & inside), np.count_nonzero(grown | inside)
    return counts[:, 0], counts[:, 1]


def _doubled(cells: Bool) -> Bool:
    """Double the rows (R, C), each half of a row joined with the row beside it."""
    out = np.repeat(cells, 2, axis=0)
    out[2::2] |= cells[:-1]
    out[1:-1:2] |= cells[1:]
    return out


def _in_letterbox(mask: Mask | None, side: int) -> NDArray[np.bool_]:
    """Sample a mask on a grid (side, side) over the letterbox; padding is empty.

    At the full size it is the nearest resampling of torch, which takes the pixel at the corner; coarser cells take the
    one at their centre.
    """
    out = np.zeros((side, side), np.bool_)
    if mask is None:
        return out
    inside = decode(mask)
    places = []
    for length in inside.shape:
        resized = round(length * CANVAS / max(inside.shape))
        start = round((CANVAS - resized) / 2 - 0.1)
        pixel = np.arange(side) if side == CANVAS else (np.arange(side) + 0.5) * (CANVAS / side)
        source = np.floor((pixel - start) * length / resized).astype(np.int64)
        places.append(np.where((source >= 0) & (source < length), source, -1))
    rows, columns = places
    out[np.ix_(rows >= 0, columns >= 0)] = inside[np.ix_(rows[rows >= 0], columns[columns >= 0])]
    return out


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("iou", ">=0.5", _clipped),
        Protocol("strict", ">0.5", _clipped),
        Protocol("giou", ">=0.5", _unclipped, giou_elementwise),
        Protocol("letterbox-clamped", ">=0.5", _letterboxed, needs_size=True),
        Protocol("letterbox-dilated", ">=0.5", _letterboxed, needs_size=True, masks=_dilated_overlaps),
        Protocol("several", ">=0.5", _clipped, sets="score"),
        Protocol("grefcoco-official", ">=0.5", _unclipped, giou_elementwise, sets="overlap", threshold=0.7),
    )
}
