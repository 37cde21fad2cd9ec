"""Shared by the adapters of transformers' models: options, opening, card, batches of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pydantic import Field
from transformers import AutoProcessor

from bench.errors import WeightsError
from bench.grounding import PipelineCard, PipelineContext
from bench.settings import Table
from pipelines import hub
from pipelines.card import CardOptions, make_card

Result = TypeVar("Result")
# Greedy decoding, whatever the model's own configuration says.
GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}

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
    options: Any,
    context: PipelineContext,
    model: Any,
    accelerated: frozenset[str],
    summary: str,
    paper: str,
    prompt: str = "",
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
        prompt=prompt,
    )


def by_text(texts: Sequence[str], size: int, work: Callable[[list[str]], Iterable[Result]]) -> dict[str, Result]:
    """Apply `work` to the different texts, at most `size` at a time -> each text's result."""
    different = list(dict.fromkeys(texts))
    results: dict[str, Result] = {}
    for start in range(0, len(different), size):
        some = different[start : start + size]
        results |= zip(some, work(some), strict=True)
    return results
