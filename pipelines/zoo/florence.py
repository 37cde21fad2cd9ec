"""Florence-2 through transformers: it writes the phrases of a caption, each followed by boxes as <loc_*> tokens.

An expression is its caption (<CAPTION_TO_PHRASE_GROUNDING>), and the prediction is the first box of the first phrase
that has one: in a referring expression the referent comes first, "dog" in "dog next to the cat". A text without a box
is a counted miss. An image passes the vision tower once for all its expressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from transformers import AutoModelForImageTextToText

from bench.grounding import Box, LoadedScene, PipelineContext, Prediction
from bench.settings import takes
from pipelines.card import parse_options
from pipelines.zoo.images import for_processor
from pipelines.zoo.presets import chosen, known
from pipelines.zoo.readers import Several
from pipelines.zoo.shared import ModelOptions, by_text, model_card, open_pretrained

PRESET = "florence-2"
TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
# The processor rounds boxes down to whole units of the given size. Its thousand bins have their centres on the odd
# units of this one, so that nothing is lost.
UNITS = 2000


class FlorenceOptions(ModelOptions):
    """[pipelines.florence-2]."""

    weights: str = Field("florence-community/Florence-2-large", description="an id of the hub, or a local folder")
    beams: int = Field(3, ge=1, description="width of the beam search; 1 = greedy")
    max_new_tokens: int = Field(256, ge=8)
    several: Several = Field("first", description="which box of several counts; refuse = a miss, all = every one")


class Florence:
    """The first box in the text that the model generates for each expression."""

    def __init__(self, options: FlorenceOptions, context: PipelineContext) -> None:
        self.options, self.context, self.clock = options, context, context.clock
        dtype = getattr(torch, context.dtype)
        self.processor, self.model = open_pretrained(
            AutoModelForImageTextToText, options.weights, context, "Florence-2", ["florence2"], dtype=dtype
        )
        # Both encoders; the decoder, a token at a time over a growing cache, is left as it is.
        inner = self.model.model
        self.longest = int(self.model.config.text_config.max_position_embeddings)
        accelerated = context.acceleration.apply(self.model, [inner.vision_tower, inner.language_model.encoder])
        self.several: Several = "all" if context.several and options.several == "first" else options.several
        self.mark = f"{PRESET}@{known()[PRESET].version},{self.several}"
        summary = "a model that writes boxes as tokens; the first box it writes"
        paper = "Xiao et al., Florence-2, CVPR 2024"
        self.card = model_card(options, context, self.model, accelerated, summary, paper, self.mark)

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Predict one box for every query of every scene, in order."""
        answers = []
        for scene in batch:
            canvas = for_processor(scene.image)
            texts = self.generate(canvas, [query.text for query in scene.queries])
            for query in scene.queries:
                text = texts[query.text]
                boxes, cut = self.boxes(text, canvas.size), self.tokens(query.text)[1]
                answers.append(
                    chosen(query.id, boxes, "tags" if boxes else "", self.several, text, [cut] if cut else [])
                )
        return answers

    @torch.inference_mode()
    def generate(self, canvas: Any, texts: Sequence[str]) -> dict[str, str]:
        """Generate the model's text for each different expression, special tokens included."""
        with self.clock.stage("image encode"):
            pixels = self.processor.image_processor(images=canvas, return_tensors="pt", device=self.context.device)
            features = self.model.get_image_features(pixels["pixel_values"].to(self.model.dtype), return_dict=True)

        def write(some: list[str]) -> Sequence[str]:
            tokens = self.model.generate(
                **self.generation_inputs(features, some),
                max_new_tokens=self.options.max_new_tokens,
                num_beams=self.options.beams,
                do_sample=False,
            )
            written: list[str] = self.processor.batch_decode(tokens, skip_special_tokens=False)
            return written

        with self.clock.stage("generate"):
            return by_text(texts, self.options.texts_in_batch, write)

    def generation_inputs(self, features: Any, texts: Sequence[str]) -> dict[str, Any]:
        """Make the inputs of generation: a row of tokens for each text, and the image's features for every row."""
        rows = {"input_ids": [self.tokens(text)[0] for text in texts]}
        tokens = self.processor.tokenizer.pad(rows, padding=True, padding_side="right", return_tensors="pt")
        everywhere = type(features)(pooler_output=features.pooler_output.expand(len(texts), -1, -1))
        return {
            "input_ids": tokens["input_ids"].to(self.context.device),
            "attention_mask": tokens["attention_mask"].to(self.context.device),
            "mm_encoder_outputs": {"image": everywhere},
        }

    def tokens(self, text: str) -> tuple[list[int], str]:
        """Tokenise image and expression, and note where the model's positions cut the expression."""
        tokenizer = self.processor.tokenizer
        image = self.processor.image_token * self.processor.num_image_tokens + tokenizer.bos_token
        question = self.processor.task_prompts_with_input[TASK]
        # An expression must not be able to contain the model's own tags.
        row = image + question.format(input=text.replace("<", " ")) + tokenizer.eos_token
        ids, longest = tokenizer(row, add_special_tokens=False)["input_ids"], self.longest
        if len(ids) <= longest:
            return ids, ""
        return ids[: longest - 1] + ids[-1:], f"text cut from {len(ids)} to {longest} tokens, the image's among them"

    def boxes(self, text: str, size: tuple[int, int]) -> list[Box]:
        """Parse boxes in the order they were generated, xyxy pixels of an image of `size` (width, height)."""
        parsed = self.processor.post_process_generation(text, task=TASK, image_size=(UNITS, UNITS))[TASK]
        width, height = size[0] / UNITS, size[1] / UNITS
        return [(x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in parsed["bboxes"]]


@takes(FlorenceOptions)
def florence(context: PipelineContext) -> Florence:
    """Open florence-2. Raises SettingsError, WeightsError."""
    return Florence(parse_options(FlorenceOptions, context), context)
