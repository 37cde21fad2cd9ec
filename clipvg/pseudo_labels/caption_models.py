"""Captions by any image-to-text model of transformers, by id or from a folder: BLIP, GIT, or a vision-language model.

Sampling is nucleus sampling (CLIP-VG's captions: p = 0.8) by the Gumbel trick: to the log-probabilities of the nucleus
a noise is added whose greatest sum falls on each word exactly as often as the word is probable. Each image's noise
comes from the seed and its own name, so its caption does not depend on which images share its batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, LogitsProcessor, LogitsProcessorList

from bench.datasets.fingerprint import image_key
from bench.grounding import ImageArray, PipelineContext, Scene
from pipelines.zoo.shared import GREEDY, for_processor, open_pretrained


class CaptionModel:
    """One caption of each image. `name` is the model's id."""

    def __init__(self, name: str, prompt: str, top_p: float, max_new_tokens: int, context: PipelineContext) -> None:
        """`top_p` 0 is greedy. `prompt` is what a model that chats is asked; others are shown the image alone.

        Raises WeightsError.
        """
        self.name, self.prompt, self.top_p = name, prompt, top_p
        self.max_new_tokens, self.context = max_new_tokens, context
        dtype = getattr(torch, context.dtype)
        self.processor, self.model = open_pretrained(
            AutoModelForImageTextToText, name, context, "caption model", dtype=dtype
        )
        self.chats = bool(getattr(self.processor, "chat_template", None))

    @torch.inference_mode()
    def captions(self, batch: Sequence[tuple[Scene, ImageArray]]) -> list[str]:
        """One for each image, without white space at its ends; empty where the model says nothing."""
        inputs = self._inputs([for_processor(image) for _, image in batch])
        sampling = LogitsProcessorList()
        if self.top_p:
            sampling.append(NucleusNoise(self.top_p, [_seed(self.context.seed, scene) for scene, _ in batch]))
        limit = self.max_new_tokens
        tokens = self.model.generate(**inputs, max_new_tokens=limit, logits_processor=sampling, **GREEDY)
        if self.chats:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return [" ".join(text.split()) for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]

    def _inputs(self, images: Sequence[Any]) -> dict[str, Any]:
        if not self.chats:
            inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        else:
            content = [{"type": "image"}, {"type": "text", "text": self.prompt}]
            asked = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            inputs = self.processor(
                text=[asked] * len(images), images=list(images), padding=True, padding_side="left", return_tensors="pt"
            )
        inputs = inputs.to(self.context.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return dict(inputs)


class NucleusNoise(LogitsProcessor):
    """Makes the greatest score a sample of the nucleus: the likeliest words that together reach probability p.

    Row i draws from a generator of its own, seeded by `seeds[i]`.
    """

    def __init__(self, p: float, seeds: Sequence[int]) -> None:
        self.p = p
        self.dice = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) logits -> (B, V) noisy log-probabilities, minus infinity outside the nucleus."""
        logs = scores.float().log_softmax(dim=-1)
        ranked, order = logs.sort(dim=-1, descending=True)
        before = ranked.exp().cumsum(dim=-1) - ranked.exp()  # the likeliest word is always in
        logs = logs.masked_fill(
            torch.zeros_like(logs, dtype=torch.bool).scatter(-1, order, before >= self.p), -torch.inf
        )
        uniform = torch.stack([torch.rand(logs.shape[-1], generator=dice) for dice in self.dice])
        return logs - (-uniform.clamp_min(1e-20).log()).log().to(logs.device)


def _seed(seed: int, scene: Scene) -> int:
    return random.Random(f"caption model/{seed}/{image_key(scene.file)}").getrandbits(62)
