"""OWLv2 and OWL-ViT through transformers: every patch of the image predicts a box, and a text scores the patches.

The image tower is independent of the text, so an image passes it once; a text is encoded once in the pipeline's life,
and an expression costs one product of its vector with the patches'. Images of a batch share the forward pass,
for all have one size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForZeroShotObjectDetection

from bench.boxes import box_cxcywh_to_xyxy
from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.settings import Table, takes
from pipelines import hub
from pipelines.card import CardOptions, parse_options
from pipelines.sets import scored_set
from pipelines.zoo.images import for_processor, reduced
from pipelines.zoo.shared import model_card, open_pretrained

FAMILY = ("owlv2", "owlvit")
LARGEST = 4  # times the side of the model's input: larger images are reduced before the processor blurs them


class OwlOptions(Table):
    """[pipelines.owlv2]."""

    weights: str = Field("google/owlv2-base-patch16-ensemble", description="an id of the hub, or a local folder")
    prompt: str = Field(
        "{}", pattern=r"\{\}", description='for example "a photo of a {}"; a text has 16 tokens at most'
    )
    card: CardOptions = CardOptions()


class Owl:
    """The patch with the highest score of a text answers with its box."""

    def __init__(self, options: OwlOptions, context: PipelineContext) -> None:
        self.options, self.context, self.clock = options, context, context.clock
        processor, self.model = open_pretrained(
            AutoModelForZeroShotObjectDetection, options.weights, context, "OWL", FAMILY
        )
        self.image_processor, self.tokenizer = processor.image_processor, processor.tokenizer
        tower = getattr(self.model, self.model.base_model_prefix)
        accelerated = context.acceleration.apply(self.model, [tower.vision_model, tower.text_model])
        config = self.model.config
        self.padded = config.model_type == "owlv2"  # OWL-ViT squashes the image, OWLv2 pads it to a square
        self.side = int(config.vision_config.image_size)
        self.longest = int(config.text_config.max_position_embeddings)
        self._texts: dict[str, tuple[Tensor, str]] = {}
        summary = "the box of the patch with the expression's highest score"
        paper = "Minderer et al., OWL-ViT, ECCV 2022; OWLv2, NeurIPS 2023"
        self.card = model_card(options, context, self.model, accelerated, summary, paper)

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """Return the cache of texts: name -> the function that empties it."""
        return {"texts": self._texts.clear}

    @torch.inference_mode()
    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict the best box of every query of every scene, in order; all of them where several are wanted."""
        with self.clock.stage("image encode"), hub.autocast(self.context):
            pixels, units = zip(*[self._prepare(scene) for scene in batch], strict=True)
            patches = self.model.image_embedder(pixel_values=torch.cat(pixels))[0]
        features = patches.float().flatten(1, 2)  # (B, P, D)
        boxes = self.model.box_predictor(features, patches).double().cpu()  # (B, P, 4) cxcywh in shares
        with self.clock.stage("text encode"), hub.autocast(self.context):
            self._encode([query.text for scene in batch for query in scene.queries])
        answers = []
        with self.clock.stage("rank"), hub.autocast(self.context):
            for scene, unit, feature, box in zip(batch, units, features, boxes, strict=True):
                if not scene.queries:
                    continue
                texts = torch.stack([self._texts[query.text][0] for query in scene.queries])
                logits = self.model.class_predictor(feature[None], texts[None])[0][0].float()  # (P, Q)
                if self.context.several:
                    corners = box_cxcywh_to_xyxy((box * torch.tensor([*unit, *unit], dtype=torch.float64)).numpy())
                    chances = logits.sigmoid().double().cpu().numpy()
                    answers += [
                        scored_set(query.id, corners, chances[:, number], self._texts[query.text][1])
                        for number, query in enumerate(scene.queries)
                    ]
                    continue
                scores, best = logits.sigmoid().max(dim=0)
                chosen = box[best.cpu()] * torch.tensor([*unit, *unit], dtype=torch.float64)
                answers += [
                    Prediction(query.id, tuple(xyxy), score, note=self._texts[query.text][1])
                    for query, xyxy, score in zip(
                        scene.queries, box_cxcywh_to_xyxy(chosen.numpy()).tolist(), scores.tolist(), strict=True
                    )
                ]
        return answers

    def _prepare(self, scene: LoadedScene) -> tuple[Tensor, tuple[float, float]]:
        """Prepare pixels (1, 3, S, S), and how many of the original's pixels their sides are, across and down."""
        canvas = for_processor(scene.image)
        small = reduced(canvas, LARGEST * self.side)
        pixels = self.image_processor(images=small, return_tensors="pt", device=self.context.device)["pixel_values"]
        across, down = (max(small.size),) * 2 if self.padded else small.size
        return pixels, (across * canvas.width / small.width, down * canvas.height / small.height)

    def _encode(self, texts: Sequence[str]) -> None:
        """Encode texts that are not cached, with a note for each that had to be cut."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if not new:
            return
        prompts = [self.options.prompt.replace("{}", text.lower()) for text in new]
        lengths = [len(ids) for ids in self.tokenizer(prompts)["input_ids"]]
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(self.context.device)
        tower = getattr(self.model, self.model.base_model_prefix)
        vectors = tower.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        unit = vectors / vectors.norm(dim=-1, keepdim=True)
        notes = [f"text cut from {n} to {self.longest} tokens" if n > self.longest else "" for n in lengths]
        self._texts |= zip(new, zip(unit, notes, strict=True), strict=True)


@takes(OwlOptions)
def owl(context: PipelineContext) -> Owl:
    """Open owlv2, or OWL-ViT by its weights. Raises SettingsError, WeightsError."""
    return Owl(parse_options(OwlOptions, context), context)
