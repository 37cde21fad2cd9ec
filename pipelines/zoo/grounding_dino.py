"""GroundingDINO and MM-GroundingDINO through transformers (spec/pipelines.md 2.6).

Each expression is a prompt of its own, lower-cased and closed by a dot. Only the backbone is independent of the text,
so an image passes it once and its features are handed to every expression; all expressions of a scene share forward
passes. Of the 900 queries the one that says its best word loudest is the answer, whatever its score.


As a proposer its first choice is often the related object, yet the referent is nearly always among its best ten, which
leaves something for a ranker to do. It is the one detector whose boxes depend on the texts: a scene's proposals are the
union of the best boxes of each of its expressions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoModelForZeroShotObjectDetection

from bench.boxes import box_cxcywh_to_xyxy
from bench.grounding import Boxes, ImageArray, LoadedScene, PipelineContext, Prediction
from bench.settings import Table, parse_table, takes
from pipelines import hub
from pipelines.card import CardOptions
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, ProposerOptions, opener
from pipelines.zoo.shared import by_text, for_processor, model_card, open_pretrained

FAMILY = ("grounding-dino", "mm-grounding-dino")


class GroundingDinoOptions(Table):
    """[pipelines.grounding-dino] and [pipelines.mm-grounding-dino]."""

    weights: str = Field("IDEA-Research/grounding-dino-tiny", description="an id of the hub, or a local folder")
    texts_in_batch: int = Field(8, ge=1, description="expressions of one image in a forward pass")
    card: CardOptions = CardOptions()


@dataclass(frozen=True, slots=True)
class Found:
    """What one text found in an image: scores (N,) in [0, 1] and boxes (N, 4) xyxy pixels of the N queries."""

    scores: Tensor
    boxes: Boxes
    note: str


class GroundingDino:
    """The model, its tokenizer and its image processor."""

    def __init__(self, weights: str, texts_in_batch: int, context: PipelineContext) -> None:
        self.texts_in_batch, self.context = texts_in_batch, context
        processor, self.model = open_pretrained(
            AutoModelForZeroShotObjectDetection, weights, context, "GroundingDINO", FAMILY
        )
        self.image_processor, self.tokenizer = processor.image_processor, processor.tokenizer
        self.sha256: Mapping[str, str] = hub.hashes(weights, context)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.backbone = _OneImage(self.model.model.backbone)
        self.model.model.backbone = self.backbone
        self.accelerated = context.acceleration.apply(self.model, [self.backbone.backbone, self.model])

    @torch.inference_mode()
    def find(self, image: ImageArray, texts: Sequence[str]) -> dict[str, Found]:
        """Each different text -> what it found in `image`, RGB uint8 (H, W, 3)."""
        pil_image = for_processor(image)
        pixels = self.image_processor(images=pil_image, return_tensors="pt", device=self.context.device)["pixel_values"]
        scale = torch.tensor([pil_image.width, pil_image.height] * 2, dtype=torch.float64)

        def find(some: list[str]) -> list[Found]:
            return [
                Found(score, box_cxcywh_to_xyxy((box.double().cpu() * scale).numpy()), note)
                for score, box, note in zip(*self._ask(pixels, some), strict=True)
            ]

        with hub.autocast(self.context), self.backbone.keeping(pixels):
            return by_text(texts, self.texts_in_batch, find)

    def _ask(self, pixels: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
        """Pixels (1, 3, h, w) and T texts -> scores (T, N), boxes (T, N, 4) cxcywh in shares of the canvas, notes."""
        tokens, notes = self._tokens(texts)
        answer = self.model(pixel_values=pixels.expand(len(texts), -1, -1, -1), **tokens)
        ids, there = tokens["input_ids"], tokens["attention_mask"].bool()
        words = there & ~torch.isin(ids, self.model.model.special_tokens)  # neither [CLS], [SEP], full stop nor "?"
        words = torch.where(words.any(dim=1, keepdim=True), words, there)
        logits = answer.logits[..., : ids.shape[1]].float()  # (T, N, L)
        return logits.sigmoid().masked_fill(~words[:, None], 0).amax(dim=-1), answer.pred_boxes.float(), notes

    def _tokens(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], list[str]]:
        """Token ids, types and mask (T, L), and a note for each text that had to be cut."""
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
    """Stands in for the backbone: while an image is kept, its features are what every row of a batch gets."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.position_embedding = backbone.position_embedding
        self.kept: tuple[list[tuple[Tensor, Tensor]], list[Tensor]] | None = None

    def keeping(self, pixels: Tensor) -> _OneImage:
        """A context within which the features of `pixels` (1, 3, h, w) are kept."""
        mask = torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.long, device=pixels.device)
        self.kept = self.backbone(pixels, mask)
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.kept = None

    def forward(self, pixels: Tensor, mask: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Levels of (features (B, C, h, w), mask (B, h, w)), and their position embeddings; the lists are new ones."""
        if self.kept is None:
            levels, positions = self.backbone(pixels, mask)
            return levels, positions
        levels, positions = self.kept
        rows = len(pixels)
        return [(_rows(f, rows), _rows(m, rows)) for f, m in levels], [_rows(p, rows) for p in positions]


def _rows(one: Tensor, rows: int) -> Tensor:
    return one.expand(rows, *one.shape[1:])


def prompt(text: str) -> str:
    """Lower-cased and closed by exactly one dot, as the model was trained."""
    return text.lower().strip().rstrip(".").rstrip() + "."


class GroundingDinoPipeline:
    """The best query of each expression."""

    def __init__(self, options: GroundingDinoOptions, context: PipelineContext) -> None:
        self.detector = GroundingDino(options.weights, options.texts_in_batch, context)
        self.clock = context.clock
        summary = "the best query of an open-vocabulary detector that reads the expression"
        paper = "Liu et al., Grounding DINO, ECCV 2024; Zhao et al., MM-Grounding-DINO, 2024"
        self.card = model_card(options, context, self.detector.model, self.detector.accelerated, summary, paper)

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order."""
        answers = []
        for scene in batch:
            with self.clock.stage("ground"):
                found = self.detector.find(scene.image, [query.text for query in scene.queries])
            for query in scene.queries:
                best = found[query.text]
                score, index = best.scores.max(dim=0)
                x1, y1, x2, y2 = best.boxes[int(index)].tolist()
                answers.append(Prediction(query.id, (x1, y1, x2, y2), float(score), note=best.note))
        return answers


@takes(GroundingDinoOptions)
def grounding_dino(context: PipelineContext) -> GroundingDinoPipeline:
    """grounding-dino, mm-grounding-dino. Raises SettingsError, WeightsError."""
    options = parse_table(GroundingDinoOptions, context.options, f"bench.toml [pipelines.{context.name}]")
    return GroundingDinoPipeline(options, context)


class GroundingDinoProposerOptions(ProposerOptions):
    """[pipelines.*.proposer] with `kind = "grounding-dino"`."""

    weights: str = Field("IDEA-Research/grounding-dino-tiny", description="an id of the hub, or a local folder")
    texts_in_batch: int = Field(8, ge=1, description="expressions of one image in a forward pass")
    boxes_per_text: int = Field(10, ge=1, description="the best of the 900 queries for each expression")
    top_k: int = Field(50, ge=1, description="of a scene")


class GroundingDinoProposer(Proposer):
    """The best boxes of every expression of a scene, without copies; a box's label is the expression that found it."""

    def __init__(self, options: GroundingDinoProposerOptions, context: PipelineContext) -> None:
        self.options = options
        self.detector = GroundingDino(options.weights, options.texts_in_batch, context)
        self.sha256 = self.detector.sha256
        self.parameters, self.accelerated = self.detector.parameters, self.detector.accelerated

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """One `Proposals` for each scene, from its image and its texts."""
        return [self._propose(scene) for scene in scenes]

    def _propose(self, scene: LoadedScene) -> Proposals:
        options = self.options
        boxes, scores, labels = [np.zeros((0, 4))], [np.zeros(0)], []
        for text, found in self.detector.find(scene.image, [query.text for query in scene.queries]).items():
            best = found.scores.topk(min(options.boxes_per_text, len(found.scores)))
            boxes.append(found.boxes[best.indices.cpu().numpy()])
            scores.append(best.values.double().cpu().numpy())
            labels += [text] * len(boxes[-1])
        together = Proposals(np.concatenate(boxes), np.concatenate(scores), tuple(labels))
        return options.tidied(together, scene.image)


open_grounding_dino = opener(GroundingDinoProposerOptions, GroundingDinoProposer)
