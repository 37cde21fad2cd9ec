"""Caption images by any image-to-text model of transformers, by id or from a folder: BLIP, GIT, or one that chats.

Sampling is nucleus sampling (CLIP-VG's captions: p = 0.8) by the Gumbel trick: to the log-probabilities of the nucleus
a noise is added whose greatest sum falls on each word exactly as often as the word is probable. Each image's noise
comes from the seed and its own name, so its caption does not depend on which images share its batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, LogitsProcessorList

from bench.datasets.fingerprint import image_key
from bench.grounding import ImageArray, PipelineContext, Scene
from pipelines.zoo.images import for_processor
from pipelines.zoo.shared import GREEDY, open_pretrained

Images = Sequence[tuple[Scene, ImageArray]]


def open_caption_model(
    name: str, prompt: str, top_p: float, max_new_tokens: int, context: PipelineContext
) -> Callable[[Images], list[str]]:
    """Open a model -> one caption for each image, without white space at its ends; empty where it has none.

    `top_p` 0 is greedy. `prompt` is prompt for a chat model; others get the image alone. Raises WeightsError.
    """
    dtype = getattr(torch, context.dtype)
    processor, model = open_pretrained(AutoModelForImageTextToText, name, context, "caption model", dtype=dtype)
    chats = bool(getattr(processor, "chat_template", None))

    def inputs_of(images: Sequence[Any]) -> dict[str, Any]:
        if not chats:
            inputs = processor.image_processor(images=list(images), return_tensors="pt")
        else:
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            inputs = processor(
                text=[text] * len(images), images=list(images), padding=True, padding_side="left", return_tensors="pt"
            )
        inputs = inputs.to(context.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        return dict(inputs)

    @torch.inference_mode()
    def captions(batch: Images) -> list[str]:
        # 1. Pixels, and of a model that chats the prompt.
        inputs = inputs_of([for_processor(image) for _, image in batch])
        # 2. Words, greedily or sampled by each image's own generator.
        sampling = LogitsProcessorList()
        if top_p:
            sampling.append(nucleus_noise(top_p, [_seed(context.seed, scene) for scene, _ in batch]))
        tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, logits_processor=sampling, **GREEDY)
        # 3. Text, without the prompt.
        if chats:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return captions


def nucleus_noise(p: float, seeds: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a processor of logits that makes the greatest score a sample of the nucleus.

    That is the likeliest words that together reach probability p. Row i draws from a generator seeded by `seeds[i]`:
    (B, V) logits -> (B, V) noisy log-probabilities, minus infinity outside the nucleus.
    """
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]

    def process(input_ids: Tensor, scores: Tensor) -> Tensor:
        # 1. The nucleus: words before which less than p is used up; the likeliest word is always in.
        logs = scores.float().log_softmax(dim=-1)
        ranked, order = logs.sort(dim=-1, descending=True)
        before = ranked.exp().cumsum(dim=-1) - ranked.exp()
        outside = torch.zeros_like(logs, dtype=torch.bool).scatter(-1, order, before >= p)
        # 2. Gumbel noise.
        uniform = torch.stack([torch.rand(logs.shape[-1], generator=rng) for rng in rngs])
        noise = (-uniform.clamp_min(1e-20).log()).log().to(logs.device)
        return logs.masked_fill(outside, -torch.inf) - noise

    return process


def _seed(seed: int, scene: Scene) -> int:
    return random.Random(f"caption model/{seed}/{image_key(scene.file)}").getrandbits(62)
