"""The library: a split, a pipeline, an evaluation, an answer, each by one call with the settings of bench.toml.

    load_split ──► Split ────────────┐
    load_pipeline ──► Grounder ──────┴──► evaluate ──► Evaluation      in memory, or a run under results/
                          └──► (picture, text) ──► Single: a box

What they do is what the verbs do, by the same code, so a number is the same number. Any object that keeps the protocol
of bench.grounding can stand where a Grounder stands, registered or not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from bench.datasets.load import FILE
from bench.datasets.load import load_split as split_called
from bench.datasets.split import Split
from bench.errors import UsageError
from bench.evaluation.device import resolve_device
from bench.evaluation.pipelines import build, pipeline_context
from bench.evaluation.scored import Evaluation, scored
from bench.grounding import LoadedScene, Pipeline, PipelineCard, PipelineContext, Prediction
from bench.settings import Resolved, load_settings
from bench.speed.clock import Clock
from bench.verbs.single import Single, as_picture, ask_about

if TYPE_CHECKING:
    from PIL import Image

    from bench.grounding import Picture

    PictureLike = str | Path | Picture | Image.Image

__all__ = ["Evaluation", "Grounder", "evaluate", "load_pipeline", "load_split", "predict"]

log = logging.getLogger("bench.evaluate")


@dataclass(frozen=True)
class Grounder:
    """A pipeline that is built and ready. It keeps the protocol of `bench.Pipeline`, and answers when it is called.

    `inner` is what the pipeline's factory returned, `context` what the factory was given.
    """

    inner: Pipeline = field(repr=False)
    context: PipelineContext = field(repr=False)
    clock: Clock = field(repr=False)
    resolved: Resolved = field(repr=False)
    load_seconds: float = field(repr=False)

    @property
    def name(self) -> str:
        return self.context.name

    @property
    def card(self) -> PipelineCard:
        return self.inner.card

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """One prediction for every query of every scene, in order."""
        return self.inner.ground(batch)

    # A text is a sequence of texts, too, to the type checker; the first signature that fits counts.
    @overload
    def __call__(self, picture: PictureLike, text: str) -> Single: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, picture: PictureLike, text: Sequence[str]) -> list[Single]: ...
    def __call__(self, picture: PictureLike, text: str | Sequence[str]) -> Single | list[Single]:
        """The answer to one expression about a picture, or the answers to several, for which it is looked at once."""
        return predict(self, picture, text)

    def __repr__(self) -> str:
        return f"<{self.name} for {self.context.dataset} on {self.context.device} in {self.context.dtype}>"


def load_split(name: str | Path, limit: int | None = None, config: str | Path | None = None) -> Split:
    """The split called `name` ("shapes-val", "refcoco-testA"), or of a JSONL of your own; `limit` keeps the first
    pictures and marks the split partial.

    Raises UnknownName with the nearest names, DataError with the command that prepares it.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit}: at least one picture is needed")
    own = str(name).endswith(".jsonl") and not str(name).startswith(FILE)
    split = split_called(f"{FILE}{name}" if own else str(name), _settings(config, {}))
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
) -> Grounder:
    """The pipeline called `name`, built with bench.toml's weights and options for the split or data set `on`.

    Without `on` these are the ones for pictures of your own. `weights` and `options` win over bench.toml; a nested
    table is a dict: `ranker={"relations": "rules"}`. Raises UnknownName, SettingsError, WeightsError, DeviceError,
    MissingPackage.
    """
    run = {"device": device, "dtype": dtype, "seed": seed, "deterministic": deterministic, "offline": offline}
    resolved = _settings(config, {f"run.{key}": value for key, value in run.items()})
    return open_grounder(name, on, resolved, dict(options) if weights is None else {**options, "weights": str(weights)})


def open_grounder(name: str, on: Split | str, resolved: Resolved, options: Mapping[str, Any] | None = None) -> Grounder:
    """`load_pipeline` for settings that are at hand."""
    begun = time.perf_counter()
    device = resolve_device(resolved.settings.run.device)
    clock = Clock(device)
    context = pipeline_context(name, on, resolved, options, clock, device)
    inner = build(context, resolved.settings.run.deterministic)
    return Grounder(inner, context, clock, resolved, time.perf_counter() - begun)


@overload
def predict(  # type: ignore[overload-overlap]
    pipeline: str | Pipeline, picture: PictureLike, text: str
) -> Single: ...
@overload
def predict(pipeline: str | Pipeline, picture: PictureLike, text: Sequence[str]) -> list[Single]: ...
def predict(pipeline: str | Pipeline, picture: PictureLike, text: str | Sequence[str]) -> Single | list[Single]:
    """What `pipeline` (a name, a Grounder or an object of your own) answers about one picture.

    The picture is a file, a PIL image or RGB uint8 (H, W, 3). One text gives one answer, several a list in their order.
    Raises PictureError, UsageError, and BenchError for answers that do not fit the queries.
    """
    texts = [text] if isinstance(text, str) else list(text)
    source, pixels = as_picture(picture)
    answers = ask_about(load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline, source, pixels, texts)
    return answers[0] if isinstance(text, str) else answers


def evaluate(
    pipeline: str | Pipeline,
    split: str | Path | Split,
    *,
    results: str | Path | None = None,
    protocol: str = "iou",
    fresh: bool | None = None,
    batch_size: int | None = None,
    config: str | Path | None = None,
    **how: Any,
) -> Evaluation:
    """Every expression of `split` asked of `pipeline`, and what became of each.

    Without `results` nothing is stored. With a folder it is the run that `bench run` would make there: it is continued
    when it was killed, and joins the leaderboard; a run that is done is not asked again unless `fresh`. An object of
    your own is always asked anew, for nothing tells whether its code has changed. `how` is what `load_pipeline` takes,
    for a pipeline given by name. Raises what `load_split`, `load_pipeline` and `bench run` raise.
    """
    name_given = isinstance(pipeline, str)
    if how and not name_given:
        raise UsageError(f"{', '.join(how)}: such options are for load_pipeline; this pipeline is built already")
    data = split if isinstance(split, Split) else load_split(split, config=config)
    opened = load_pipeline(pipeline, data, config=config, **how) if isinstance(pipeline, str) else pipeline
    if not isinstance(opened, Grounder):
        opened, fresh = _as_grounder(opened, data, config), True if fresh is None else fresh
    resolved = _with(opened.resolved, results, batch_size)
    if results is None:
        return _in_memory(opened, data, protocol, resolved)
    return _stored(opened, data, protocol, resolved, bool(fresh))


def _in_memory(opened: Grounder, split: Split, protocol: str, resolved: Resolved) -> Evaluation:
    from bench.evaluation.progress import progress
    from bench.evaluation.protocols import protocol as protocol_called
    from bench.evaluation.sharing import Sharing, ask

    protocol_called(protocol)  # a name nobody knows is said before the work
    with progress(f"{opened.name} on {split.name}", len(split.scenes)) as advance:
        sharing = Sharing(split.name, advance=advance)
        rows = ask(opened, split.scenes, split.pictures, resolved.settings.run, sharing, log).rows
    return scored(opened.name, split, rows, protocol, resolved.settings.evaluation, _mark(opened))


def _stored(opened: Grounder, split: Split, protocol: str, resolved: Resolved, fresh: bool) -> Evaluation:
    from bench.evaluation import loop
    from bench.runs.shards import Rank
    from bench.runs.store import stored_rows

    done = loop.evaluate(opened.name, split, resolved, protocol=protocol, fresh=fresh, rank=Rank(), opened=opened)
    rows = list(stored_rows(done.folder).values())
    settings = resolved.settings.evaluation
    return scored(opened.name, split, rows, protocol, settings, _mark(opened), done.folder)


def _as_grounder(pipeline: Pipeline, split: Split, config: str | Path | None) -> Grounder:
    """An object of the caller's with what a run wants to know of it. Raises UsageError when it is no pipeline."""
    if not isinstance(pipeline, Pipeline) or not isinstance(pipeline.card, PipelineCard):
        raise UsageError(
            f"{type(pipeline).__name__} is no pipeline: it needs `card`, a bench.PipelineCard, and `ground(batch)`; "
            "or give the name of a registered one"
        )
    resolved = _settings(config, {})
    device = resolve_device(resolved.settings.run.device)
    clock = Clock(device)
    return Grounder(
        pipeline, pipeline_context(pipeline.card.name, split, resolved, {}, clock, device), clock, resolved, 0.0
    )


def _mark(opened: Grounder) -> str:
    return opened.context.candidates.mark if opened.context.candidates else ""


def _settings(config: str | Path | None, flags: Mapping[str, Any]) -> Resolved:
    return load_settings(None if config is None else Path(config), flags)


def _with(resolved: Resolved, results: str | Path | None, batch_size: int | None) -> Resolved:
    """The pipeline's settings with what this evaluation says itself. Raises UsageError."""
    from dataclasses import replace

    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: at least one picture is needed")
    settings = resolved.settings
    run = settings.run if batch_size is None else settings.run.model_copy(update={"batch_size": batch_size})
    where = settings.results if results is None else str(results)
    return replace(resolved, settings=settings.model_copy(update={"run": run, "results": where}))
