"""A pipeline, built from settings: options in force, device, seeds, and readable errors from its factory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import registry
from bench.acceleration import Acceleration
from bench.datasets.split import Split
from bench.errors import BenchError, MissingPackage
from bench.evaluation.candidates import AnnotatedBoxes
from bench.evaluation.device import make_deterministic, resolve_device, resolve_dtype, seed_everything, use_device
from bench.grounding import Pipeline, PipelineContext, Scene, StageClock
from bench.settings import Resolved, merged
from bench.speed.clock import Clock

OWN_DATA = "file"


def open_pipeline(
    name: str,
    split: Split | str,
    resolved: Resolved,
    flags: Mapping[str, Any] | None = None,
    clock: StageClock | None = None,
) -> Pipeline:
    """The pipeline called `name` for a split or a data set's name; `flags` are options that win over bench.toml.

    Raises UnknownName, SettingsError, WeightsError, DeviceError, MissingPackage, UsageError for an acceleration or a
    number type that it does not take, or BenchError for whatever else its factory raises.
    """
    return build(pipeline_context(name, split, resolved, flags, clock), resolved.settings.run.deterministic)


def pipeline_context(
    name: str,
    split: Split | str,
    resolved: Resolved,
    flags: Mapping[str, Any] | None = None,
    clock: StageClock | None = None,
    device: str | None = None,
    on: str | None = None,
) -> PipelineContext:
    """What the pipeline's factory is given: device and dtype resolved (unless `device` already is), options laid.

    `on` names the data set whose lines of bench.toml hold, where they are not the split's own.
    """
    run = resolved.settings.run
    device = device or resolve_device(run.device)
    dataset = on or dataset_of(split)
    if run.offline:
        # Read by the libraries when they are first imported, so before any factory.
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    return PipelineContext(
        name=name,
        dataset=dataset,
        options=merged(resolved.options(name, dataset), _absolute_weights(flags or {})),
        folder=resolved.folder,
        home=resolved.home,
        device=device,
        dtype=resolve_dtype(run.dtype, device),
        seed=run.seed,
        offline=run.offline,
        clock=clock or Clock(device),
        train_scenes=lambda: _train_scenes(dataset, resolved),
        candidates=AnnotatedBoxes(None if isinstance(split, str) else split),
        acceleration=Acceleration(run.compile, run.channels_last, run.dtype),
    )


def build(context: PipelineContext, deterministic: bool = False) -> Pipeline:
    """Calls the factory. Raises what `open_pipeline` says."""
    factory = registry.pipeline_factory(context.name)
    use_device(context.device)
    if deterministic:
        make_deterministic()
    seed_everything(context.seed)
    try:
        pipeline = factory(context)
    except BenchError:
        raise
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"pipeline {context.name!r} needs the package {error.name!r}, which is not installed: "
            f"pip install {error.name}"
        ) from error
    except Exception as error:
        raise BenchError(f"pipeline {context.name!r} could not be built: {type(error).__name__}: {error}") from error
    if not isinstance(pipeline, Pipeline):
        raise BenchError(
            f"pipeline {context.name!r}: its factory returned {type(pipeline).__name__}, which lacks `card` or `ground`"
        )
    context.acceleration.refuse_untaken(context.name)
    seed_everything(context.seed)  # once more: the factory may have been the first to import torch
    return pipeline


def dataset_of(split: Split | str) -> str:
    """The data set whose lines of bench.toml hold: of a split its own, "file" for people's own data."""
    name = split if isinstance(split, str) else split.name
    if name.startswith(f"{OWN_DATA}:"):
        return OWN_DATA
    return split if isinstance(split, str) else split.dataset


def _train_scenes(dataset: str, resolved: Resolved) -> Sequence[Scene]:
    from bench.datasets.load import load_split

    return load_split(f"{dataset}-train", resolved).scenes


def _absolute_weights(flags: Mapping[str, Any]) -> dict[str, Any]:
    """`--weights` as typed names files from the working folder on; what is no file there is left as it is."""
    out = dict(flags)
    if isinstance(out.get("weights"), str):
        out["weights"] = ",".join(_absolute(part) for part in out["weights"].split(","))
    return out


def _absolute(part: str) -> str:
    key, equals, value = part.rpartition("=")
    path = Path(value).expanduser()
    return f"{key}{equals}{path.resolve()}" if path.exists() else part
