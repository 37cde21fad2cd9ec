"""Ranking: which region of a scene an expression is about, from cosines summed over views (ReCLIP 3.1), and score
subtraction, which takes away how much a region is liked by captions in general (Red Circle, spec/pipelines.md 3.2).
"""

from __future__ import annotations

from torch import Tensor

# A fixed bank: the things of COCO, said plainly. What every one of them likes about a region says nothing about one.
_THINGS = (
    "person bicycle car motorcycle airplane bus train truck boat bench bird cat dog horse sheep cow elephant bear "
    "zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard kite bottle cup fork knife spoon bowl "
    "banana apple sandwich orange broccoli carrot pizza donut cake chair couch bed toilet tv laptop mouse remote "
    "keyboard microwave oven toaster sink refrigerator book clock vase scissors toothbrush"
)
BANK = tuple(_THINGS.split())


def rank(regions: Tensor, texts: Tensor, scale: float, bank: Tensor | None = None, subtract: float = 0.0) -> Tensor:
    """(V, R, D) region vectors and (Q, D) text vectors of one scene -> (Q, R) probabilities over the regions.

    Logits are `scale` times the cosine, less `subtract` times the mean over the (B, D) bank, summed over views.
    """
    logits = (regions @ texts.T).sum(0)  # (R, Q)
    if bank is not None and subtract:
        logits = logits - subtract * (regions @ bank.T).mean(-1).sum(0)[:, None]
    return (scale * logits.T).softmax(dim=-1)
