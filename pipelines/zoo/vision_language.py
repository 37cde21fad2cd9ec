"""A vision-language model that is prompted for a box and answers in JSON: Qwen2.5-VL and Qwen3-VL.

The unit of its numbers depends on the model's training: it stands in COORDINATES, by model type, and a model that is
not there is refused. Decoding is greedy; an answer that cannot be parsed is a counted miss, and the note gives the
reason. An image passes the vision tower once for all its expressions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeGuard

import torch
from pydantic import Field
from transformers import AutoModelForImageTextToText

from bench.errors import WeightsError
from bench.grounding import Box, LoadedScene, PipelineContext, Prediction
from bench.settings import takes
from pipelines.card import parse_options
from pipelines.zoo.shared import GREEDY, ModelOptions, by_text, for_processor, model_card, open_pretrained

# What a model's numbers count.
RESIZED, THOUSANDTHS = "pixels of the image as the processor resized it", "thousandths of the image's sides"
# QwenLM/Qwen3-VL, README and cookbooks/spatial_understanding.ipynb: Qwen2.5-VL counts the pixels of its resized input,
# Qwen3-VL went back to a relative scale of 0 to 1000.
COORDINATES = {"qwen2_5_vl": RESIZED, "qwen3_vl": THOUSANDTHS, "qwen3_vl_moe": THOUSANDTHS}
FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


class VisionLanguageOptions(ModelOptions):
    """[pipelines.qwen-vl]."""

    weights: str = Field("Qwen/Qwen2.5-VL-7B-Instruct", description="an id of the hub, or a local folder")
    prompt: str = Field('Locate "{}" in the image, output its bbox coordinates using JSON format.', pattern=r"\{\}")
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
        family = self.model.config.model_type
        if family not in COORDINATES:
            raise WeightsError(
                f"{options.weights} is a {family}, of which it is not written down what its coordinates count; "
                f"known: {', '.join(COORDINATES)} (pipelines/zoo/vision_language.py, COORDINATES)"
            )
        self.coordinates = COORDINATES[family]
        # The vision tower; the decoder, a token at a time over a growing cache, is left as it is.
        accelerated = context.acceleration.apply(self.model, [self.model.model.visual])
        summary = f"a vision-language model prompted for a box; it counts {self.coordinates}"
        paper = "Bai et al., Qwen2.5-VL Technical Report, 2025; Qwen3-VL Technical Report, 2025"
        self.card = model_card(options, context, self.model, accelerated, summary, paper)

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict one box for every query of every scene, in order."""
        answers = []
        for scene in batch:
            canvas = for_processor(scene.image)
            replies, resized = self.generate(canvas, [query.text for query in scene.queries])
            counted = resized if self.coordinates == RESIZED else (1000, 1000)
            x, y = canvas.width / counted[0], canvas.height / counted[1]
            for query in scene.queries:
                box, note = parse_box(replies[query.text])
                scaled = None if box is None else (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
                answers.append(Prediction(query.id, scaled, note=note))
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
        # An expression must not be able to contain the template's own tags.
        question = self.options.prompt.replace("{}", text.replace("<", " "))
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return str(
            self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        )


def _repeated(features: Any, rows: int) -> Any:
    """Repeat the features of one image `rows` times: (tokens, D) each, in Qwen3-VL of some layers besides."""
    changes: dict[str, Any] = {"pooler_output": tuple(features.pooler_output) * rows}
    if "deepstack_features" in {field.name for field in fields(features)}:
        changes["deepstack_features"] = [tuple(layer) * rows for layer in features.deepstack_features]
    return replace(features, **changes)


def parse_box(reply: str) -> tuple[Box | None, str]:
    """Parse the first box of a reply, in the model's own units, and a note.

    A reply is JSON, alone or in one fence: {"bbox_2d": [x1, y1, x2, y2], ...}, a list of such, or the bare four
    numbers. Anything else has no box.
    """
    fenced = FENCED.findall(reply)
    if len(fenced) > 1:
        return None, "no box: several blocks of JSON"
    try:
        answer = json.loads(fenced[0] if fenced else reply)
    except (ValueError, RecursionError):
        return None, "no box: the answer is not JSON"
    if isinstance(answer, list) and not _is_box(answer):
        first, count = answer[0] if answer else None, len(answer)
    else:
        first, count = answer, 1
    box = first.get("bbox_2d") if isinstance(first, dict) else first
    if not _is_box(box):
        return None, "no box: the answer holds no four numbers"
    x1, y1, x2, y2 = (float(v) for v in box)
    if x1 >= x2 or y1 >= y2:
        return None, "no box: its corners are the wrong way round"
    return (x1, y1, x2, y2), f"the first of {count} boxes" if count > 1 else ""


def _is_box(value: Any) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in value)  # nor NaN
    )


@takes(VisionLanguageOptions)
def vision_language(context: PipelineContext) -> VisionLanguage:
    """Open qwen-vl. Raises SettingsError, WeightsError."""
    return VisionLanguage(parse_options(VisionLanguageOptions, context), context)
