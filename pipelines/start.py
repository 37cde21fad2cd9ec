"""Start from another pipeline's boxes: open it from the table `start`, and join its card to that of who goes on.

    [pipelines.NAME]
    start = { kind = "clipvg" }       # the other keys are options of clipvg, over its own table of bench.toml

`bench.tables.with_start` has filled the table in before a factory gets it, so that weights that are missing, and the
identity of a run, are those of both pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import registry
from bench.errors import SettingsError
from bench.grounding import Pipeline, PipelineCard, PipelineContext, Prediction
from pipelines.canvas import Canvas
from pipelines.card import WORST_FIRST


def open_start(table: Mapping[str, Any] | str, context: PipelineContext, key: str = "start") -> Pipeline:
    """Open the pipeline that the table `start`, or another `key`, of a context's options declares.

    Raises SettingsError where it names none, and what the pipeline's own factory raises.
    """
    rest: dict[str, Any] = {"kind": table} if isinstance(table, str) else dict(table)
    kind = rest.pop("kind", None)
    known = registry.names(registry.PIPELINES)
    if kind not in known:
        raise SettingsError(
            f"bench.toml [pipelines.{context.name}]: {key}: {kind!r} is no pipeline; name one of {', '.join(known)}"
        )
    return registry.pipeline_factory(kind)(replace(context, name=kind, options=rest))


def joined_caches(own: Mapping[str, Callable[[], None]], start: Pipeline | None) -> Mapping[str, Callable[[], None]]:
    """Join what empties the caches of both pipelines: those of one name are emptied together."""
    every = (own, getattr(start, "caches", {}))

    def empty(name: str) -> None:
        for caches in every:
            caches.get(name, lambda: None)()

    return {name: partial(empty, name) for name in {**every[0], **every[1]}}


def on_canvas(predictions: Sequence[Prediction], canvases: Sequence[Canvas], owners: Sequence[int]) -> NDArray[Any]:
    """Convert predictions' boxes -> (N, 4) cxcywh in 0..1 of their canvases, NaN where there is none."""
    rows = [
        np.full(4, np.nan) if one.box is None else canvases[owner].to_canvas(one.box)
        for one, owner in zip(predictions, owners, strict=True)
    ]
    return np.array(rows).reshape(-1, 4)


def joined_card(card: PipelineCard, start: PipelineCard) -> PipelineCard:
    """Join the card of the pipeline before to one's own: its weights under "start ...", the worse word of both."""
    worst: dict[str, Any] = {
        field: next(word for word in order if word in (getattr(card, field), getattr(start, field)))
        for field, order in WORST_FIRST.items()
    }
    counts = [one.parameters for one in (card, start) if one.parameters is not None]
    return replace(
        card,
        summary=f"{card.summary}; from the boxes of {start.name} ({start.summary})",
        weights={**card.weights, **{f"start {part}": name for part, name in start.weights.items()}},
        sha256={**card.sha256, **{f"start {part}": digest for part, digest in start.sha256.items()}},
        trained_on="; ".join(dict.fromkeys(filter(None, (card.trained_on, start.trained_on)))),
        licence="; ".join(dict.fromkeys(filter(None, (card.licence, start.licence)))),
        parameters=sum(counts) if len(counts) == 2 else None,
        proposals=start.proposals or card.proposals,
        accelerated=card.accelerated & start.accelerated,
        **worst,
    )
