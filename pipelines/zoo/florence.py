"""Florence-2 through transformers: it writes the phrases of a caption, each followed by boxes as <loc_*> tokens.

An expression is asked as a caption (<CAPTION_TO_PHRASE_GROUNDING>), and the answer is the first box of the first phrase
that has one: in a referring expression the thing meant comes first, "dog" in "dog next to the cat". An answer without a
box is a counted miss. An image passes the vision tower once for all its expressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from transformers import AutoModelForImageTextToText

from bench.grounding import Box, LoadedScene, PipelineContext, Prediction
from bench.settings import Table, parse_table, takes
from pipelines.card import CardOptions
from pipelines.zoo.shared import by_text, for_processor, model_card, open_pretrained

TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
# The processor rounds boxes down to whole units of the size it is told. Its thousand bins have their centres on the odd
# units of this one, so that nothing is lost.
UNITS = 2000


class FlorenceOptions(Table):
    """[pipelines.florence-2]."""

    weights: str = Field("florence-community/Florence-2-large", description="an id of the hub, or a local folder")
    beams: int = Field(3, ge=1, description="width of the beam search; 1 = greedy")
    max_new_tokens: int = Field(256, ge=8)
    texts_in_batch: int = Field(8, ge=1, description="expressions of one image in a forward pass")
    card: CardOptions = CardOptions()


class Florence:
    """The first box of what the model writes about each expression."""

    def __init__(self, options: FlorenceOptions, context: PipelineContext) -> None:
        self.options, self.context, self.clock = options, context, context.clock
        dtype = getattr(torch, context.dtype)
        self.processor, self.model = open_pretrained(
            AutoModelForImageTextToText, options.weights, context, "Florence-2", ["florence2"], dtype=dtype
        )
        # What looks and what reads; the writing, a token at a time over a growing memory, is left as it is.
        inner = self.model.model
        accelerated = context.acceleration.apply(self.model, [inner.vision_tower, inner.language_model.encoder])
        summary, paper = (
            "a model that writes boxes as tokens; the first box it writes",
            "Xiao et al., Florence-2, CVPR 2024",
        )
        self.card = model_card(options, context, self.model, accelerated, summary, paper)

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order."""
        answers = []
        for scene in batch:
            canvas = for_processor(scene.image)
            said = self.say(canvas, [query.text for query in scene.queries])
            for query in scene.queries:
                boxes = self.boxes(said[query.text], canvas.size)
                note = "no box" if not boxes else f"the first of {len(boxes)} boxes" if len(boxes) > 1 else ""
                answers.append(Prediction(query.id, boxes[0] if boxes else None, note=note))
        return answers

    @torch.inference_mode()
    def say(self, canvas: Any, texts: Sequence[str]) -> dict[str, str]:
        """Each different text -> what the model writes about it, special tokens included."""
        with self.clock.stage("image encode"):
            pixels = self.processor.image_processor(images=canvas, return_tensors="pt", device=self.context.device)
            seen = self.model.get_image_features(pixels["pixel_values"].to(self.model.dtype), return_dict=True)

        def write(some: list[str]) -> Sequence[str]:
            tokens = self.model.generate(
                **self.asked(seen, some),
                max_new_tokens=self.options.max_new_tokens,
                num_beams=self.options.beams,
                do_sample=False,
            )
            written: list[str] = self.processor.batch_decode(tokens, skip_special_tokens=False)
            return written

        with self.clock.stage("generate"):
            return by_text(texts, self.options.texts_in_batch, write)

    def asked(self, seen: Any, texts: Sequence[str]) -> dict[str, Any]:
        """What `generate` is given: a row of tokens for each text, and the image's features for every row."""
        tokenizer = self.processor.tokenizer
        image = self.processor.image_token * self.processor.num_image_tokens + tokenizer.bos_token
        question = self.processor.task_prompts_with_input[TASK]
        # A text must not be able to speak in the model's own tags.
        rows = [image + question.format(input=text.replace("<", " ")) + tokenizer.eos_token for text in texts]
        tokens = tokenizer(rows, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
        everywhere = type(seen)(pooler_output=seen.pooler_output.expand(len(texts), -1, -1))
        return {
            "input_ids": tokens["input_ids"].to(self.context.device),
            "attention_mask": tokens["attention_mask"].to(self.context.device),
            "mm_encoder_outputs": {"image": everywhere},
        }

    def boxes(self, said: str, size: tuple[int, int]) -> list[Box]:
        """Boxes in the order they were written, xyxy pixels of an image of `size` (width, height)."""
        found = self.processor.post_process_generation(said, task=TASK, image_size=(UNITS, UNITS))[TASK]
        width, height = size[0] / UNITS, size[1] / UNITS
        return [(x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in found["bboxes"]]


@takes(FlorenceOptions)
def florence(context: PipelineContext) -> Florence:
    """florence-2. Raises SettingsError, WeightsError."""
    return Florence(parse_table(FlorenceOptions, context.options, f"bench.toml [pipelines.{context.name}]"), context)
