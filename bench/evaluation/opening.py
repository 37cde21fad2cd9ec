"""Opening a pipeline: options in force, device, clock, seeds, and readable errors from its factory.

name, split, settings ─► pipeline_context ─► open_pipeline ─► OpenPipeline      in one place, for every command
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bench import registry
from bench.clock import Clock
from bench.datasets.split import Split
from bench.errors import BenchError, UnknownName, UsageError
from bench.evaluation.device import (
    OthersLoad,
    compute_with,
    loading,
    make_deterministic,
    resolve_device,
    resolve_dtype,
    seed_everything,
    usable_cores,
    use_device,
)
from bench.evaluation.perturbation import KINDS, Perturbed
from bench.fetching.sources import refuse_missing
from bench.grounding import Candidates, LoadedScene, Pipeline, PipelineCard, PipelineContext, Prediction, Scene
from bench.hashing import spelled_out
from bench.settings import PERTURB, Resolved, RunSettings, merged
from bench.tables import with_start, without_masks

OWN_DATA = "file"
log = logging.getLogger("bench.run")


@runtime_checkable
class Caching(Protocol):
    """A pipeline that caches between calls; its speed is measured with and without."""

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """Return the caches by name ("texts"), each with the function that empties it."""
        ...


@dataclass(frozen=True, repr=False)
class OpenPipeline:
    """A pipeline that is built and ready; it keeps the protocol of `bench.Pipeline`."""

    pipeline: Pipeline
    context: PipelineContext
    resolved: Resolved
    load_seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.context.name

    @property
    def clock(self) -> Clock:
        return self.context.clock

    @property
    def card(self) -> PipelineCard:
        return self.pipeline.card

    @property
    def caches(self) -> Mapping[str, Callable[[], None]]:
        """Return what the pipeline keeps between calls -> what empties it."""
        return dict(self.pipeline.caches) if isinstance(self.pipeline, Caching) else {}

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        """Return one prediction for every query of every scene, in order."""
        return self.pipeline.ground(batch)

    def __repr__(self) -> str:
        return f"<{self.name} for {self.context.dataset} on {self.context.device} in {self.context.dtype}>"


def open_pipeline(
    name: str,
    split: Split | str,
    resolved: Resolved,
    flags: Mapping[str, Any] | None = None,
    on: str | None = None,
    several: bool = False,
) -> OpenPipeline:
    """Build the pipeline called `name` for a split or a data set's name; arguments as of `pipeline_context`.

    Raises UnknownName, SettingsError, WeightsError, DeviceError, MissingPackage, UsageError for an acceleration or a
    number type that it does not take, or BenchError for whatever else its factory raises.
    """
    begun = time.perf_counter()
    return build(pipeline_context(name, split, resolved, flags, on=on, several=several), resolved, begun)


def pipeline_context(
    name: str,
    split: Split | str,
    resolved: Resolved,
    flags: Mapping[str, Any] | None = None,
    device: str | None = None,
    on: str | None = None,
    local_rank: int | None = None,
    several: bool = False,
) -> PipelineContext:
    """Make the context of a pipeline's factory: device and dtype resolved, options in force.

    `flags` are options that win over bench.toml; `device` is resolved, by default from the settings, where `local_rank`
    spreads a machine's ranks over its GPUs. `on` names the data set whose lines of bench.toml hold, where they are not
    the split's own; all scored boxes are wanted where an expression of the split may mean `several` objects. Raises
    DeviceError.
    """
    run = resolved.settings.run
    device, dataset = device or resolve_device(run.device, local_rank), on or dataset_of(split)
    options = spelled_out(merged(resolved.table("pipelines", name, dataset), _absolute_weights(flags or {})))
    return PipelineContext(
        name=name,
        dataset=dataset,
        options=with_start(options, resolved, dataset, (name,)),
        folder=resolved.folder,
        home=resolved.home,
        device=device,
        dtype=resolve_dtype(run.dtype, device),
        seed=run.seed,
        offline=run.offline,
        clock=Clock(device),
        train_scenes=lambda split="": _train_scenes(name, dataset, split, resolved),
        candidates=Candidates(None if isinstance(split, str) else split.scenes),
        acceleration=run.acceleration,
        several=several or (isinstance(split, Split) and split.several),
    )


def for_device(run: RunSettings, device: str) -> RunSettings:
    """Fill in the device, and what depends on it: scenes in a batch, and threads that decode."""
    scenes, threads = (64, usable_cores()) if device.startswith("cuda") else (8, 4)
    known = {"batch_size": run.batch_size or scenes, "decode_threads": run.decode_threads or threads}
    return run.model_copy(update={"device": device, **known})


def build(context: PipelineContext, resolved: Resolved, begun: float | None = None) -> OpenPipeline:
    """Call the factory of a context. Raises what `open_pipeline` says; `begun` is when the opening began."""
    begun, load = time.perf_counter() if begun is None else begun, OthersLoad()
    refuse_missing(context.name, context.options, context, context.offline)  # before torch is imported
    loading(context.name)
    factory = registry.pipeline_factory(context.name)
    use_device(context.device)
    if resolved.settings.run.deterministic:
        make_deterministic()
    seed_everything(context.seed)
    what = f"pipeline {context.name!r}"
    options, masks = without_masks(context.options)
    if (kind := options.pop(PERTURB, "")) and kind not in KINDS:
        raise UnknownName("perturbation", str(kind), KINDS)
    with registry.guarded(f"{what} could not be built", what, f"the package that brings {context.name}"):
        pipeline: Any = factory(replace(context, options=options))
        if not isinstance(pipeline, Pipeline):
            kind = type(pipeline).__name__
            raise BenchError(f"{what}: its factory returned {kind}, which lacks `card` or `ground`")
        if not isinstance(pipeline.card, PipelineCard):
            raise BenchError(f"{what}: its card is {type(pipeline.card).__name__}, not a bench.PipelineCard")
        if masks:
            where = f"bench.toml [pipelines.{context.name}.masks]"
            pipeline = registry.load(registry.MASKS, masks.pop("kind"))(pipeline, masks, where, context)
        if kind:
            pipeline = Perturbed(pipeline, kind, context.seed, context.clock)
    context.acceleration.refuse_untaken(context.name, pipeline.card.accelerated)
    if context.candidates and context.candidates.taken and not pipeline.card.proposals:
        raise BenchError(f"pipeline {context.name!r} takes annotated boxes; its card must name them in `proposals`")
    seed_everything(context.seed)  # once more: the factory may have been the first to import torch
    run = resolved.settings.run
    if context.device == "cpu" and (remark := compute_with(run.threads, load, fixed=run.deterministic)):
        log.warning("%s", remark)
    seconds = time.perf_counter() - begun
    log.info("%s: loaded in %.1f s, on %s in %s", context.name, seconds, context.device, context.dtype)
    return OpenPipeline(pipeline, context, resolved, seconds)


def dataset_of(split: Split | str) -> str:
    """Return the data set whose lines of bench.toml hold; "file" for people's own data."""
    name = split if isinstance(split, str) else split.name
    if name.startswith(f"{OWN_DATA}:"):
        return OWN_DATA
    return split if isinstance(split, str) else split.dataset


def _train_scenes(name: str, dataset: str, split: str, resolved: Resolved) -> Sequence[Scene]:
    from bench.datasets.load import load_split

    if not split and dataset == OWN_DATA:
        raise UsageError(
            f"{name} learns from a train split, and people's own data has none: name a file of train expressions, "
            "--set train=file:PATH.jsonl, or a split that is prepared, --set train=refcoco-train"
        )
    return load_split(split or f"{dataset}-train", resolved).scenes


def _absolute_weights(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Make files named by `--weights` absolute, from the working folder on; other names stay."""
    out = dict(flags)
    if isinstance(out.get("weights"), str):
        out["weights"] = ",".join(_absolute(part) for part in out["weights"].split(","))
    return out


def _absolute(part: str) -> str:
    key, equals, value = part.rpartition("=")
    path = Path(value).expanduser()
    return f"{key}{equals}{path.resolve()}" if path.exists() else part
