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

These score the first box of a prediction against the best of the targets; an expression without a target is a miss. A
protocol over sets of boxes (such as the precision of generalised referring expressions) is a Protocol with `decide`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.boxes import box_xywh_to_xyxy, box_xyxy_to_xywh, clip_xyxy, giou_elementwise, iou_elementwise
from bench.errors import UnknownName

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to score predicted boxes against ground truth, over arrays of N pairs.

    `place` takes predictions (N, 4), ground truths (N, 4), widths (N,) and heights (N,), all xyxy pixels of the
    original image (sizes are infinite where none is annotated), and returns both as they are compared. `overlap`
    (N, 4), (N, 4) -> (N,) is the quantity that `hits_at` is about.

    `decide` is for sets: the overlaps (P, T) of an expression's P predicted boxes, best first, with its T targets, and
    their scores (P,), NaN without one -> the expression's overlap, and whether it is a hit. P and T may be 0. Without
    it, the first box and the best target count.
    """

    name: str
    hits_at: str
    place: Callable[[Float, Float, Float, Float], tuple[Float, Float]]
    overlap: Callable[[Float, Float], Float] = iou_elementwise
    needs_size: bool = False
    decide: Callable[[Float, Float], tuple[float, bool]] | None = None

    def reached(self, overlap: Float, threshold: float) -> Bool:
        """Compare (N,) overlaps with a threshold -> (N,) hits; NaN is never one."""
        return overlap > threshold if self.hits_at.startswith(">0") else overlap >= threshold

    @property
    def is_iou(self) -> bool:
        """Tell whether `overlap` is plain IoU, so that it need not be computed twice."""
        return self.overlap is iou_elementwise


def protocol(name: str) -> Protocol:
    """Return the protocol of that name. Raises UnknownName with the nearest ones."""
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


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


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("iou", ">=0.5", _clipped),
        Protocol("strict", ">0.5", _clipped),
        Protocol("giou", ">=0.5", _unclipped, giou_elementwise),
        Protocol("letterbox-clamped", ">=0.5", _letterboxed, needs_size=True),
    )
}
