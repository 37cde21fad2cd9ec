"""A vision-language model that is prompted for a box: Qwen2.5-VL and Qwen3-VL.

Prompt, readers and the unit of its numbers are those of a preset, by the model's type; a model of another type is
refused. Decoding is greedy; an answer that cannot be parsed is a counted miss. An image passes the vision tower once
for all its expressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from pydantic import Field
from transformers import AutoModelForImageTextToText

from bench.grounding import LoadedScene, PipelineContext, Prediction
from bench.settings import takes
from pipelines.card import parse_options
from pipelines.zoo.images import for_processor
from pipelines.zoo.presets import AnswerOptions, prompting
from pipelines.zoo.shared import GREEDY, ModelOptions, by_text, model_card, open_pretrained


class VisionLanguageOptions(ModelOptions, AnswerOptions):
    """[pipelines.qwen-vl]."""

    weights: str = Field("Qwen/Qwen2.5-VL-7B-Instruct", description="an id of the hub, or a local folder")
    max_new_tokens: int = Field(128, ge=8)


class VisionLanguage:
    """The box in the model's answer."""

    def __init__(self, options: VisionLanguageOptions, context: PipelineContext) -> None:
        self.options, self.context, self.clock = options, context, context.clock
        self.processor, self.model = open_pretrained(
            AutoModelForImageTextToText,
            options.weights,
            context,
            "vision-language model",
            dtype=getattr(torch, context.dtype),
        )
        where = f"bench.toml [pipelines.{context.name}]"
        self.prompting = prompting(options, where, self.model.config.model_type, sets=context.several)
        # The vision tower; the decoder, a token at a time over a growing cache, is left as it is.
        accelerated = context.acceleration.apply(self.model, [self.model.model.visual])
        summary = f"a vision-language model prompted for a box; it counts {self.prompting.preset.frame}"
        paper = "Bai et al., Qwen2.5-VL Technical Report, 2025; Qwen3-VL Technical Report, 2025"
        self.card = model_card(options, context, self.model, accelerated, summary, paper, self.prompting.mark)

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict one box for every query of every scene, in order."""
        answers = []
        for scene in batch:
            canvas = for_processor(scene.image)
            replies, resized = self.generate(canvas, [query.text for query in scene.queries])
            answers += [
                self.prompting.prediction(query.id, replies[query.text], canvas.size, resized)
                for query in scene.queries
            ]
        return answers

    @torch.inference_mode()
    def generate(self, canvas: Any, texts: Sequence[str]) -> tuple[dict[str, str], tuple[int, int]]:
        """Generate the reply to each different text, and the width and height the image was resized to."""
        with self.clock.stage("image encode"):
            processor = self.processor.image_processor
            pixels = processor(images=canvas, return_tensors="pt", device=self.context.device)
            grid = pixels["image_grid_thw"]  # (1, 3) patches: frames, down, across
            values = pixels["pixel_values"].to(self.model.dtype)
            features = self.model.get_image_features(values, grid, return_dict=True)
        resized = (int(grid[0, 2]) * processor.patch_size, int(grid[0, 1]) * processor.patch_size)

        def write(some: list[str]) -> Sequence[str]:
            inputs = self.generation_inputs(features, grid, some)
            tokens = self.model.generate(**inputs, max_new_tokens=self.options.max_new_tokens, **GREEDY)
            new = tokens[:, inputs["input_ids"].shape[1] :]
            written: list[str] = self.processor.batch_decode(new, skip_special_tokens=True)
            return written

        with self.clock.stage("generate"):
            return by_text(texts, self.options.texts_in_batch, write), resized

    def generation_inputs(self, features: Any, grid: torch.Tensor, texts: Sequence[str]) -> dict[str, Any]:
        """Make the inputs of generation: a row of tokens for each text, and the image's features for every row."""
        processor, rows = self.processor, len(texts)
        count = int(grid[0].prod()) // processor.image_processor.merge_size**2
        prompts = [self._prompt(text).replace(processor.image_token, processor.image_token * count) for text in texts]
        tokens = processor.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        ids = tokens["input_ids"].to(self.context.device)
        return {
            "input_ids": ids,
            "attention_mask": tokens["attention_mask"].to(self.context.device),
            "mm_token_type_ids": (ids == processor.image_token_id).int(),
            "image_grid_thw": grid.repeat(rows, 1),
            "mm_encoder_outputs": {"image": _repeated(features, rows)},
        }

    def _prompt(self, text: str) -> str:
        """Format the question by the model's own chat template, the image as one token."""
        content = [{"type": "image"}, {"type": "text", "text": self.prompting.question(text)}]
        return str(
            self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        )


def _repeated(features: Any, rows: int) -> Any:
    """Repeat the features of one image `rows` times: (tokens, D) each, in Qwen3-VL of some layers besides."""
    changes: dict[str, Any] = {"pooler_output": tuple(features.pooler_output) * rows}
    if "deepstack_features" in {field.name for field in fields(features)}:
        changes["deepstack_features"] = [tuple(layer) * rows for layer in features.deepstack_features]
    return replace(features, **changes)


@takes(VisionLanguageOptions)
def vision_language(context: PipelineContext) -> VisionLanguage:
    """Open qwen-vl. Raises SettingsError, WeightsError."""
    return VisionLanguage(parse_options(VisionLanguageOptions, context), context)
