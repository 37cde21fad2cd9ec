"""The library: a split, a pipeline, an evaluation, an answer, each by one call with the settings of bench.toml.

    load_split ──► Split ────────────┐
    load_pipeline ──► OpenPipeline ──┴──► evaluate ──► Evaluation      in memory, or a run under results/
                           └──► (image, text) ──► SingleAnswer: a box

They do what the commands do, by the same code, so a number is the same number. Any object that keeps the protocol of
bench.grounding can stand where an OpenPipeline stands, registered or not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from bench.datasets.load import FILE
from bench.datasets.load import load_split as split_called
from bench.datasets.split import Split
from bench.errors import UsageError
from bench.evaluation import loop
from bench.evaluation.answering import gather_answers
from bench.evaluation.opening import OpenPipeline, for_device, open_pipeline, pipeline_context
from bench.evaluation.protocols import protocol as find_protocol
from bench.evaluation.scored import Evaluation, scored
from bench.grounding import Pipeline, PipelineCard
from bench.predicting import one
from bench.predicting.one import CallablePipeline, ImageLike, SingleAnswer
from bench.runs.shards import Rank
from bench.settings import load_settings

__all__ = ["Evaluation", "OpenPipeline", "evaluate", "load_pipeline", "load_split", "predict"]

log = logging.getLogger("bench.evaluate")


def load_split(name: str | Path, limit: int | None = None, config: str | Path | None = None) -> Split:
    """Load the split called `name` ("shapes-val", "refcoco-testA"), or a JSONL of your own.

    `limit` keeps the first images and marks the split partial. Raises UnknownName with the nearest names, DataError
    with the command that prepares it.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit}: at least one image is needed")
    own = str(name).endswith(".jsonl") and not str(name).startswith(FILE)
    split = split_called(f"{FILE}{name}" if own else str(name), load_settings(config))
    return split if limit is None else split.limited(limit)


def load_pipeline(
    name: str,
    on: Split | str = "file",
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    deterministic: bool | None = None,
    offline: bool | None = None,
    config: str | Path | None = None,
    **options: Any,
) -> CallablePipeline:
    """Build the pipeline called `name` with bench.toml's weights and options for the split or data set `on`.

    Without `on` these are the ones for images of your own. `weights` and `options` win over bench.toml; a nested
    table is a dict: `ranker={"relations": "rules"}`. Raises UnknownName, SettingsError, WeightsError, DeviceError,
    MissingPackage.
    """
    run = {"device": device, "dtype": dtype, "seed": seed, "deterministic": deterministic, "offline": offline}
    resolved = load_settings(config, {f"run.{key}": value for key, value in run.items()})
    flags = dict(options) if weights is None else {**options, "weights": str(weights)}
    return CallablePipeline(**vars(open_pipeline(name, on, resolved, flags)))


@overload
def predict(  # type: ignore[overload-overlap]
    pipeline: str | Pipeline, image: ImageLike, text: str
) -> SingleAnswer: ...
@overload
def predict(pipeline: str | Pipeline, image: ImageLike, text: Sequence[str]) -> list[SingleAnswer]: ...
def predict(pipeline: str | Pipeline, image: ImageLike, text: str | Sequence[str]) -> SingleAnswer | list[SingleAnswer]:
    """Ground one expression in one image; `pipeline` is a name, an OpenPipeline or an object of your own.

    The image is a file, a PIL image or RGB uint8 (H, W, 3). One text gives one answer, several a list in their order.
    Raises ImageError, UsageError, and BenchError for answers that do not fit the queries.
    """
    return one.predict(load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline, image, text)


def evaluate(
    pipeline: str | Pipeline,
    split: str | Path | Split,
    *,
    results: str | Path | None = None,
    protocol: str | None = None,
    fresh: bool | None = None,
    batch_size: int | None = None,
    config: str | Path | None = None,
    **how: Any,
) -> Evaluation:
    """Ground every expression of `split` and score the answers.

    Without `results` nothing is stored. With a folder it is the run that `bench run` would make there: it is continued
    when it was killed, and joins the leaderboard; a finished run is not made again unless `fresh`. An object of your
    own is always run anew, for nothing tells whether its code has changed. `protocol` is the split's own by default;
    `how` is what `load_pipeline` takes, for a pipeline given by name. Raises what `load_split`, `load_pipeline` and
    `bench run` raise.
    """
    if how and not isinstance(pipeline, str):
        raise UsageError(f"{', '.join(how)}: such options are for load_pipeline; this pipeline is built already")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: at least one image is needed")
    data = split if isinstance(split, Split) else load_split(split, config=config)
    protocol = protocol or data.protocol
    opened: Any = load_pipeline(pipeline, data, config=config, **how) if isinstance(pipeline, str) else pipeline
    if not isinstance(opened, OpenPipeline):
        opened, fresh = _opened(opened, data, config), fresh is None or fresh
    # The pipeline's settings, with what this evaluation names itself.
    settings = opened.resolved.settings
    run = settings.run if batch_size is None else settings.run.model_copy(update={"batch_size": batch_size})
    folder = None
    if results is None:
        find_protocol(protocol)  # an unknown name is refused before the work
        title = f"{opened.name} on {data.name}"
        run = for_device(run, opened.context.device)
        _, rows = gather_answers(opened.pipeline, data.scenes, data.images, run, data.name, log, title=title)
    else:
        changed = settings.model_copy(update={"run": run, "results": str(results)})
        resolved = replace(opened.resolved, settings=changed)
        done = loop.evaluate(opened.name, data, resolved, None, protocol, bool(fresh), Rank(), opened)
        folder = done.folder
        rows = done.stored()
    return scored(opened.name, data, rows, protocol, settings.evaluation, opened.card.proposals, folder)


def _opened(pipeline: Pipeline, split: Split, config: str | Path | None) -> OpenPipeline:
    """Give an object of the caller's a context to run in. Raises UsageError when it is no pipeline."""
    if not isinstance(pipeline, Pipeline) or not isinstance(pipeline.card, PipelineCard):
        raise UsageError(
            f"{type(pipeline).__name__} is no pipeline: it needs `card`, a bench.PipelineCard, and `ground(batch)`; "
            "or give the name of a registered one"
        )
    resolved = load_settings(config)
    return OpenPipeline(pipeline, pipeline_context(pipeline.card.name, split, resolved), resolved)
