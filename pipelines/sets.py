"""All scored boxes of an expression as one prediction, where it may refer to nothing or to several objects."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bench.grounding import Boxes, Prediction, ScoredBox

MOST = 100  # boxes of an expression that are stored
SAME = 0.7  # IoU above which two boxes are the same object, of which the better one stays


def scored_set(
    query_id: str, boxes: Boxes, scores: NDArray[np.floating], note: str = "", proposals: Boxes | None = None
) -> Prediction:
    """Make the prediction of boxes (N, 4) xyxy pixels with scores (N,): the best first, each object once.

    Without a box it says that nothing is referred to: the network looked, and there is none.
    """
    from torchvision.ops import nms  # it imports a compiler; most runs have one box an expression

    order = np.argsort(-scores, kind="stable")
    ranked = torch.from_numpy(np.ascontiguousarray(boxes[order], np.float64))
    kept = nms(ranked, torch.from_numpy(scores[order].astype(np.float64)), SAME)[:MOST].numpy()
    made = [
        ScoredBox((x1, y1, x2, y2), float(scores[at]))
        for at, (x1, y1, x2, y2) in zip(order[kept].tolist(), boxes[order[kept]].tolist(), strict=True)
    ]
    if not made:
        return Prediction(query_id, None, note=note, proposals=proposals, none=1.0)
    return Prediction(query_id, made[0].box, made[0].score, proposals, note, others=tuple(made[1:]))
