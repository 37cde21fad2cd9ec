"""The first training step, laid open: loss terms and gradient norms, for comparison with another implementation.

`bench doctor --train-step clipvg --weights FILE --split file:rows.jsonl` prints it. All rows make one step of the
paper's loss (spec clipvg.md 1.3); pictures are shown as in evaluation and dropout is off: nothing is left to chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench.grounding import PictureSource, PipelineContext, Scene
from clipvg.checkpoint import open_network
from clipvg.pipeline import options_of
from clipvg.training.feeding import Words, on_device
from clipvg.training.objective import Objective
from clipvg.training.order import Micro
from clipvg.training.recipe import ClipVGRecipe
from clipvg.training.rows import Rows

AT_ONCE = 8  # rows in a forward pass


def first_step(context: PipelineContext, scenes: Sequence[Scene], pictures: PictureSource) -> Mapping[str, Any]:
    """`loss`, `l1` and `giou` (means over the rows), `gradient_norms` of every trained parameter by its official name,
    and for each row the box, cxcywh in 0..1 of the canvas. Raises WeightsError, DataError, PictureError.
    """
    options = options_of(context)
    opened = open_network(options.weights, context, options.clip, options.image_size)
    style = opened.style if options.preprocessing == "auto" else options.preprocessing
    device = torch.device(context.device)
    network = opened.network.to(device)
    objective = Objective(network, ClipVGRecipe(preprocessing=style))
    objective.eval()
    rows = Rows(scenes, pictures, network.config.image_size, style, None, context.dataset, context.seed)
    words = Words(network, (e.text for scene in scenes for e in scene.expressions), device)
    patch = rows.size // network.side
    sums, boxes = {"loss": 0.0, "l1": 0.0, "giou": 0.0}, []
    for start in range(0, len(rows), AT_ONCE):
        some = tuple(range(start, min(start + AT_ONCE, len(rows))))
        batch = on_device(rows.read(Micro(0, 0, some, len(rows), last=True, counts=True)), rows, patch, words)
        terms = objective(batch)
        (terms.loss.sum() / len(rows)).backward()
        for name in sums:
            sums[name] += getattr(terms, name).detach().double().sum().item() / len(rows)
        boxes += terms.boxes.detach().double().tolist()
    norms = {
        name: float(p.grad.double().norm()) if p.grad is not None else 0.0 for name, p in objective.trained().items()
    }
    return {**sums, "rows": len(rows), "gradient_norms": norms, "boxes_cxcywh": boxes}
