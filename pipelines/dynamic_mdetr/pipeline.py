"""Dynamic MDETR as a pipeline: an image is encoded once for all its expressions.

The fast way encodes each text once in the pipeline's life and leaves its padding out. Cells of the canvas that are
masked are computed all the same, for points may lie there; they are no keys. `fast = false` computes everything for
each expression.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.attention import Stage
from bench.grounding import Box, ImageArray, PipelineContext, Prediction, Query
from bench.settings import parse_table, takes
from pipelines.canvas import Canvas
from pipelines.dynamic_mdetr.network import DynamicMdetr
from pipelines.engine import Rows
from pipelines.transvg.pipeline import BranchesOptions, BranchesPipeline


class DynamicMdetrOptions(BranchesOptions):
    """[pipelines.dynamic-mdetr]."""

    weights: str = Field("dynamic-mdetr-r50.pth", description="a file, here or in BENCH_HOME/weights")


class DynamicMdetrPipeline(BranchesPipeline):
    """Ground expressions with a Dynamic MDETR."""

    kind, paper, Options = DynamicMdetr, "Shi et al., Dynamic MDETR, TPAMI 2024", DynamicMdetrOptions

    def prediction(
        self, query: Query, box: Box, rest: NDArray[np.float32], canvas: Canvas, image: ImageArray
    ) -> Prediction:
        """Make the prediction of a box, with its stages where the fast way gave them."""
        config = self.network.config
        if config.clip and not self.tokenizer.words(query.text):
            return Prediction(query.id, None, note="no token in the text")
        boxes, points = np.split(rest.astype(np.float64), [4 * config.stages])
        corners = canvas.to_image(boxes.reshape(-1, 4)).tolist()
        places = points.reshape(-1, config.points, 2) * len(canvas.pixels) - (canvas.left, canvas.top)
        stages = tuple(Stage(tuple(box), at / canvas.ratio) for box, at in zip(corners, places, strict=False))
        return Prediction(query.id, box, note=self.cut(query.text), stages=stages)

    def encode_images(self, canvases: Sequence[Canvas]) -> list[Rows]:
        """Encode canvases -> the tokens of all cells, and which are masked."""
        pixels, masked = self.network.inputs(*self.stacked(canvases), self.style)
        return list(zip(self.network.encode_image(pixels, masked), masked, strict=True))

    def beside(self, length: int) -> Tensor:
        """Mark no token of a text, (length,)."""
        return torch.zeros(length, dtype=torch.bool, device=self.engine.device)

    def fuse(self, rows: Rows, padding: Tensor | None) -> Tensor:
        """Fuse tokens and what is masked -> (N, 4), and each stage's boxes and points."""
        tokens, masked = rows
        # 1. Apart again: the text first, as long as it is, then all cells of the image.
        cells, width = self.network.side**2, tokens.shape[2]
        longest = tokens.shape[1] - cells
        beyond = masked.new_zeros(len(tokens), dtype=torch.long) if padding is None else padding.sum(dim=1)
        lengths = (longest - beyond)[:, None]
        places = lengths + torch.arange(cells, device=tokens.device)
        image = tokens.gather(1, places[..., None].expand(-1, -1, width))
        ended = torch.arange(longest, device=tokens.device) >= lengths
        # 2. The stages.
        boxes, points = self.network.decode(image, masked.gather(1, places), tokens[:, :longest], ended)
        return torch.cat([boxes[:, -1], boxes.flatten(1), points.flatten(1)], dim=1)


@takes(DynamicMdetrOptions)
def dynamic_mdetr(context: PipelineContext) -> DynamicMdetrPipeline:
    """Open Dynamic MDETR. Raises SettingsError, WeightsError."""
    options = parse_table(DynamicMdetrOptions, context.options, f"bench.toml [pipelines.{context.name}]")
    return DynamicMdetrPipeline(options, context)
