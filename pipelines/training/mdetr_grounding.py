"""Finding what an expression says, as in the paper's fine-tuning on RefCOCO: one target for each expression, and its
tokens all of the expression's (Kamath et al. 2021, sections 3.2 and 4.2).

From nothing, the set loss alone stays long at "a box in the middle": the queries look at every place alike, and no
place hears of it. So the places of the joint encoder's output may be told as well: which of them the target covers, and
its box. The reader they are told through is no part of the model. And the backbone may go on with its first lesson:
what it sees costs nothing more, and a network from nothing errs more by seeing badly than by reasoning badly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.grounding import PictureSource, Scene
from pipelines.mdetr.loss import Targets, Weights, set_loss, weighted
from pipelines.mdetr.model import ImageTokens, Mdetr
from pipelines.mdetr.text import Tokenizer
from pipelines.training.mdetr_backbone import FirstLesson
from pipelines.training.mdetr_data import annotated_size, normalised_boxes
from pipelines.training.places import PlaceReader, covered, grid_of


class Grounding(nn.Module):
    """The model, where `places` is not 0 a reader of its encoder's places, and the lesson that goes on, if one does."""

    def __init__(
        self,
        model: Mdetr,
        tokenizer: Tokenizer,
        pictures: PictureSource,
        weights: Weights,
        places: float,
        lesson: FirstLesson | None,
        lesson_weight: float,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.pictures, self.weights, self.places = (
            model, tokenizer, pictures, weights, places,
        )  # fmt: skip
        self.reader = PlaceReader(model.config.hidden, 1) if places else None
        self.lesson, self.lesson_weight = lesson, lesson_weight

    def loss(self, scenes: Sequence[Scene], pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """Scenes and their pictures (B, 3, H, W) -> scalar, over all their expressions."""
        device = pixels.device
        asked = torch.tensor([len(scene.expressions) for scene in scenes], device=device)
        tokens, padding = (t.to(device) for t in self.tokenizer([e.text for s in scenes for e in s.expressions]))
        boxes = [normalised_boxes([e.box for e in s.expressions], annotated_size(s, self.pictures)) for s in scenes]
        wanted = torch.cat(boxes).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            seen = self.model.encode_image(pixels)
        seen = ImageTokens(seen.tokens.float(), seen.position.float(), seen.padding)
        found = self.model.fuse(seen.repeated(asked), self.model.encode_text(tokens, padding), padding)
        positive = shares_of(~padding, self.model.config.tokens)
        targets = Targets(wanted, positive, torch.arange(len(wanted), device=device))
        loss = weighted(set_loss(found, targets, self.weights), self.weights)
        grid = grid_of(pixels, seen.tokens.shape[1])
        if self.lesson is not None:
            loss = loss + self.lesson_weight * self.lesson.loss_on(seen.tokens.unflatten(1, grid), scenes)
        if self.reader is not None:
            places = found.memory[:, : seen.tokens.shape[1]].unflatten(1, grid)  # (B, h, w, d)
            logits, boxes_there = self.reader(places)
            loss = loss + self.places * self.place_loss(logits, boxes_there, wanted)
        return loss

    def place_loss(self, logits: Tensor, boxes: Tensor, wanted: Tensor) -> Tensor:
        """Logits (B, h, w, 1), boxes (B, h, w, 4) and the target (B, 4): is it here, and if so, where does it reach."""
        here = covered(wanted, (logits.shape[1], logits.shape[2]))
        pointed = F.binary_cross_entropy_with_logits(logits[..., 0], here.float())
        reach = (boxes[here] - wanted[here.nonzero()[:, 0]]).abs().sum(-1).mean()
        return 10 * pointed + 2 * reach


def shares_of(mask: Tensor, slots: int) -> Tensor:
    """(B, T) True on an expression's tokens -> (B, slots): equal shares that sum to 1; no slot, no share."""
    spoken = torch.zeros(len(mask), slots, device=mask.device)
    kept = mask[:, :slots]
    spoken[:, : kept.shape[1]] = kept.float()
    return spoken / spoken.sum(-1, keepdim=True)
