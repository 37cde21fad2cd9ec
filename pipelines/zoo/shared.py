"""Shared by the adapters of transformers' models: options, opening, card, batches of texts, odd images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from pydantic import Field
from transformers import AutoProcessor

from bench.errors import WeightsError
from bench.grounding import ImageArray, PipelineCard, PipelineContext
from bench.settings import Table
from pipelines import hub
from pipelines.card import CardOptions, make_card

Result = TypeVar("Result")
# Greedy decoding, whatever the model's own configuration says.
GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}

THIN = 8  # times longer than wide: beyond it some models have fewer places in the image than queries


GROUNDING_DINO = "IDEA-Research/grounding-dino-tiny"


class ModelOptions(Table):
    """[pipelines.grounding-dino] and [pipelines.mm-grounding-dino]; the tables of other models add to it."""

    weights: str = Field(GROUNDING_DINO, description="an id of the hub, or a local folder")
    texts_in_batch: int = Field(8, ge=1, description="expressions of one image in a forward pass")
    card: CardOptions = CardOptions()


def open_pretrained(
    auto_class: Any, weights: str, context: PipelineContext, what: str, family: Sequence[str] = (), **options: Any
) -> tuple[Any, Any]:
    """Open the processor and the model of a hub id or folder; `what` starts messages.

    Raises WeightsError, also for a model whose type is none of `family`.
    """
    processor = hub.load_pretrained(AutoProcessor, weights, context, what)
    model = hub.load_model(auto_class, weights, context, what, **options)
    if family and model.config.model_type not in family:
        raise WeightsError(f"{weights} is a {model.config.model_type}; expected one of {', '.join(family)}")
    return processor, model


def model_card(
    options: Any, context: PipelineContext, model: Any, accelerated: frozenset[str], summary: str, paper: str
) -> PipelineCard:
    """Make the card of a pipeline that is one model of transformers; `options` have its `weights` and `card`."""
    return make_card(
        context,
        options.card,
        summary=summary,
        paper=paper,
        weights={"model": options.weights},
        sha256=hub.hashes(options.weights, context),
        parameters=sum(p.numel() for p in model.parameters()),
        accelerated=accelerated,
    )


def by_text(texts: Sequence[str], size: int, work: Callable[[list[str]], Iterable[Result]]) -> dict[str, Result]:
    """Apply `work` to the different texts, at most `size` at a time -> each text's result."""
    different = list(dict.fromkeys(texts))
    results: dict[str, Result] = {}
    for start in range(0, len(different), size):
        some = different[start : start + size]
        results |= zip(some, work(some), strict=True)
    return results


def for_processor(image: ImageArray) -> Image.Image:
    """Make an image no thinner than 1:8 of RGB uint8 (H, W, 3), widened at the right or bottom by its mean colour.

    Coordinates stay those of the original. Of an array with one or three rows a processor would guess the wrong axis of
    channels; of an image object it need not guess.
    """
    height, width = image.shape[:2]
    canvas = (max(height, -(-width // THIN)), max(width, -(-height // THIN)))
    if canvas == (height, width):
        return Image.fromarray(image)
    wide = np.empty((*canvas, 3), np.uint8)
    wide[:] = image.mean(axis=(0, 1)).round()
    wide[:height, :width] = image
    return Image.fromarray(wide)


def reduced(image: Image.Image, longest: int) -> Image.Image:
    """Reduce an image to a long side of at most `longest`.

    Processors that blur before they shrink take time by the fourth power of an image's side.
    """
    share = longest / max(image.size)
    if share >= 1:
        return image
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))), Image.Resampling.BOX)
