"""GroundingDINO and MM-GroundingDINO through transformers, as a pipeline and as a proposer.

Each expression is a prompt of its own, lower-cased and closed by a dot. Only the backbone is independent of the text,
so an image passes it once and its features are handed to every expression; all expressions of a scene share forward
passes. Of the 900 queries the one with the highest score of any word is the answer, whatever that score is.


As a proposer its first choice is often the related object, yet the referent is nearly always among its best ten, which
leaves something for a ranker to do. It is the one detector whose boxes depend on the texts: a scene's proposals are the
union of the best boxes of each of its expressions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoModelForZeroShotObjectDetection

from bench.boxes import box_cxcywh_to_xyxy
from bench.grounding import Boxes, ImageArray, LoadedScene, PipelineCard, PipelineContext, Prediction
from bench.settings import parse_table, takes
from pipelines import hub
from pipelines.card import parse_options
from pipelines.sets import scored_set
from pipelines.two_stage.proposers.proposals import Proposals, ProposerOptions, SceneProposer
from pipelines.zoo.images import for_processor
from pipelines.zoo.shared import GROUNDING_DINO, ModelOptions, by_text, model_card, open_pretrained

FAMILY = ("grounding-dino", "mm-grounding-dino")
Detected = tuple[Tensor, Boxes, str]  # scores (N,) in [0, 1], boxes (N, 4) xyxy pixels of the N queries, a note


class GroundingDino:
    """The model, its tokenizer and its image processor; the best query of an expression answers it."""

    card: PipelineCard  # of the pipeline; a proposer has none

    def __init__(self, weights: str, texts_in_batch: int, context: PipelineContext) -> None:
        self.texts_in_batch, self.context, self.clock = texts_in_batch, context, context.clock
        processor, self.model = open_pretrained(
            AutoModelForZeroShotObjectDetection, weights, context, "GroundingDINO", FAMILY
        )
        self.image_processor, self.tokenizer = processor.image_processor, processor.tokenizer
        self.sha256: Mapping[str, str] = hub.hashes(weights, context)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.backbone = _OneImage(self.model.model.backbone)
        self.model.model.backbone = self.backbone
        self.accelerated = context.acceleration.apply(self.model, [self.backbone.backbone, self.model])

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict the best box of every query of every scene, in order; all of them where several are wanted."""
        answers = []
        for scene in batch:
            with self.clock.stage("ground"):
                detected = self.detect(scene.image, [query.text for query in scene.queries])
            for query in scene.queries:
                scores, boxes, note = detected[query.text]
                if self.context.several:
                    answers.append(scored_set(query.id, boxes, scores.double().cpu().numpy(), note))
                    continue
                score, index = scores.max(dim=0)
                x1, y1, x2, y2 = boxes[int(index)].tolist()
                answers.append(Prediction(query.id, (x1, y1, x2, y2), float(score), note=note))
        return answers

    @torch.inference_mode()
    def detect(self, image: ImageArray, texts: Sequence[str]) -> dict[str, Detected]:
        """Detect each different text in `image`, RGB uint8 (H, W, 3)."""
        pil_image = for_processor(image)
        pixels = self.image_processor(images=pil_image, return_tensors="pt", device=self.context.device)["pixel_values"]
        scale = torch.tensor([pil_image.width, pil_image.height] * 2, dtype=torch.float64)

        def detect(some: list[str]) -> list[Detected]:
            return [
                (score, box_cxcywh_to_xyxy((box.double().cpu() * scale).numpy()), note)
                for score, box, note in zip(*self._forward(pixels, some), strict=True)
            ]

        with hub.autocast(self.context), self.backbone.keeping(pixels):
            return by_text(texts, self.texts_in_batch, detect)

    def _forward(self, pixels: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
        """Run pixels (1, 3, h, w) and T texts -> scores (T, N), boxes (T, N, 4) cxcywh in shares, notes."""
        tokens, notes = self._tokens(texts)
        out = self.model(pixel_values=pixels.expand(len(texts), -1, -1, -1), **tokens)
        # A query's score is its best word's: neither [CLS], [SEP], full stop nor "?" counts, unless there is no other.
        ids, there = tokens["input_ids"], tokens["attention_mask"].bool()
        words = there & ~torch.isin(ids, self.model.model.special_tokens)
        words = torch.where(words.any(dim=1, keepdim=True), words, there)
        logits = out.logits[..., : ids.shape[1]].float()  # (T, N, L)
        return logits.sigmoid().masked_fill(~words[:, None], 0).amax(dim=-1), out.pred_boxes.float(), notes

    def _tokens(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], list[str]]:
        """Tokenise texts -> ids, types and mask (T, L), and a note for each text that had to be cut."""
        longest = self.model.config.max_text_len
        rows = [self.tokenizer(prompt(text)) for text in texts]
        lengths = [len(row["input_ids"]) for row in rows]
        notes = [f"text cut from {n} to {longest} tokens" if n > longest else "" for n in lengths]
        for row in rows:
            for key, values in row.items():
                # The end is ". [SEP]" and has to stay: it closes the phrase within which words attend to each other.
                row[key] = values if len(values) <= longest else values[: longest - 2] + values[-2:]
        padded = self.tokenizer.pad(rows, padding=True, return_tensors="pt")
        return {key: value.to(self.context.device) for key, value in padded.items()}, notes


class _OneImage(nn.Module):
    """A stand-in for the backbone that gives every row of a batch the features of one kept image."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.position_embedding = backbone.position_embedding
        self.kept: tuple[list[tuple[Tensor, Tensor]], list[Tensor]] | None = None

    def keeping(self, pixels: Tensor) -> _OneImage:
        """Keep the features of `pixels` (1, 3, h, w) within a context."""
        mask = torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.long, device=pixels.device)
        self.kept = self.backbone(pixels, mask)
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.kept = None

    def forward(self, pixels: Tensor, mask: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Return levels of (features (B, C, h, w), mask (B, h, w)) and their position embeddings, as new lists."""
        if self.kept is None:
            levels, positions = self.backbone(pixels, mask)
            return levels, positions
        levels, positions = self.kept
        rows = len(pixels)
        return [(_rows(f, rows), _rows(m, rows)) for f, m in levels], [_rows(p, rows) for p in positions]


def _rows(one: Tensor, rows: int) -> Tensor:
    return one.expand(rows, *one.shape[1:])


def prompt(text: str) -> str:
    """Lower-case a text and close it by exactly one dot, as in the model's training."""
    return text.lower().strip().rstrip(".").rstrip() + "."


@takes(ModelOptions)
def grounding_dino(context: PipelineContext) -> GroundingDino:
    """Open grounding-dino or mm-grounding-dino. Raises SettingsError, WeightsError."""
    options = parse_options(ModelOptions, context)
    pipeline = GroundingDino(options.weights, options.texts_in_batch, context)
    summary = "the best query of an open-vocabulary detector that reads the expression"
    paper = "Liu et al., Grounding DINO, ECCV 2024; Zhao et al., MM-Grounding-DINO, 2024"
    pipeline.card = model_card(options, context, pipeline.model, pipeline.accelerated, summary, paper)
    return pipeline


class GroundingDinoProposerOptions(ProposerOptions):
    """[pipelines.*.proposer] with `kind = "grounding-dino"`."""

    weights: str = Field(GROUNDING_DINO, description="an id of the hub, or a local folder")
    texts_in_batch: int = Field(8, ge=1, description="expressions of one image in a forward pass")
    boxes_per_text: int = Field(10, ge=1, description="the best of the 900 queries for each expression")
    top_k: int = Field(50, ge=1, description="of a scene")


@takes(GroundingDinoProposerOptions)
def open_grounding_dino(table: Mapping[str, Any], where: str, context: PipelineContext) -> SceneProposer:
    """Open the proposer: the best boxes of every expression of a scene, without copies, labelled by the expression."""
    options = parse_table(GroundingDinoProposerOptions, table, where)
    model = GroundingDino(options.weights, options.texts_in_batch, context)

    def propose(scene: LoadedScene) -> Proposals:
        boxes, scores, labels = [np.zeros((0, 4))], [np.zeros(0)], []
        for text, (all_scores, all_boxes, _) in model.detect(scene.image, [q.text for q in scene.queries]).items():
            best = all_scores.topk(min(options.boxes_per_text, len(all_scores)))
            boxes.append(all_boxes[best.indices.cpu().numpy()])
            scores.append(best.values.double().cpu().numpy())
            labels += [text] * len(boxes[-1])
        return options.tidied(Proposals(np.concatenate(boxes), np.concatenate(scores), tuple(labels)), scene.image)

    return SceneProposer("GroundingDinoProposer", propose, model.sha256, model.parameters, model.accelerated)
