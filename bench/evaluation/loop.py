"""The evaluation: every scene of a split shown to a pipeline, its answers stored as they come, then the metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from bench.datasets.split import Split
from bench.errors import DataError
from bench.evaluation.asking import Asker
from bench.evaluation.beginning import blank_record, now
from bench.evaluation.decode import Decoded, decoded_ahead
from bench.evaluation.device import resolve_device
from bench.evaluation.metrics import summary
from bench.evaluation.outcomes import by_scene, outcomes
from bench.evaluation.pipelines import build, pipeline_context
from bench.evaluation.progress import progress, say
from bench.evaluation.protocols import protocol as protocol_named
from bench.grounding import Pipeline, PipelineContext
from bench.runs.opening import open_run
from bench.runs.outcomes import write_outcomes
from bench.runs.predictions import noted
from bench.runs.record import RunRecord
from bench.runs.shards import Rank, from_environment, owned
from bench.runs.store import Run
from bench.runs.timings import BatchTime
from bench.settings import Resolved, RunSettings
from bench.speed.clock import Clock
from bench.speed.meters import device_memory_mb, peak_memory_mb


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What came of it. `record` is None on every rank but 0; `already_done` says that nothing was asked."""

    record: RunRecord | None
    folder: Path
    already_done: bool = False


class Opened(Protocol):
    """A pipeline that was built before, with what its factory was given and the clock it marks its stages on."""

    @property
    def inner(self) -> Pipeline: ...
    @property
    def context(self) -> PipelineContext: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def load_seconds(self) -> float: ...


def evaluate(
    name: str,
    split: Split,
    resolved: Resolved,
    flags: Mapping[str, Any] | None = None,
    protocol: str = "iou",
    fresh: bool = False,
    rank: Rank | None = None,
    opened: Opened | None = None,
    on: str | None = None,
) -> Evaluated:
    """Runs the pipeline called `name` on a split, or continues its unfinished run, or reports the finished one.

    `flags` are options of the pipeline that win over bench.toml; `fresh` begins anew whatever is stored. `rank` is this
    process's share (by default what torchrun or Slurm say). `opened` is the pipeline where the caller has built it:
    then its own device, dtype and options hold. `on` names another data set whose lines of bench.toml hold. Metrics
    come from the stored lines alone. Raises what `open_pipeline` and `open_run` raise, and DataError for a split
    without scenes or without any of its pictures.
    """
    settings, rank = resolved.settings, rank or from_environment()
    if not split.scenes:
        raise DataError(f"{split.name}: the split has no scenes")
    begun = time.perf_counter()
    if opened is None:
        device = resolve_device(settings.run.device, rank.local)
        clock = Clock(device)
        context = pipeline_context(name, split, resolved, flags, clock, device, on)
        pipeline = build(context, settings.run.deterministic)
        load_seconds = time.perf_counter() - begun
    else:
        pipeline, context, clock, load_seconds = opened.inner, opened.context, opened.clock, opened.load_seconds
        device = context.device
    blank = blank_record(context, pipeline.card, split, settings, protocol)
    results, timeout_s = Path(settings.results), settings.run.rank_timeout_s
    with open_run(results, blank, split.scenes, rank, fresh, timeout_s) as run:
        if run.already_done:
            return Evaluated(None if rank.index else run.record, run.folder, already_done=True)
        try:
            ask_all(pipeline, name, split, run, settings.run, clock, device)
        except KeyboardInterrupt:
            say(f"stopped; the same command continues this run ({run.folder})")
            raise
        if rank.index:
            return Evaluated(None, run.folder)
        rows = run.gather(timeout_s)
        rule = protocol_named(protocol)
        found = outcomes(split.scenes, rows, rule)
        metrics = summary(found, split.scenes, rule, settings.evaluation)
        write_outcomes(run.folder, by_scene(found, split.scenes))  # before the record says that the run is complete
        bad = [(scene.file, row.error) for scene, row in zip(split.scenes, rows, strict=True) if row.error is not None]
        errors = {file: why.removeprefix(f"{file}: ") for file, why in bad}
        return Evaluated(run.complete(metrics, errors, load_seconds, noted(rows), finished=now()), run.folder)


def ask_all(
    pipeline: Pipeline, name: str, split: Split, run: Run, settings: RunSettings, clock: Clock, device: str
) -> None:
    """Shows the pipeline every pending scene of this rank, batch by batch, and stores what it answers."""
    asker = Asker(pipeline, name, settings.batch_size)
    ahead = settings.decode_threads + 2 * settings.batch_size
    pictures = decoded_ahead(run.pending, split.pictures, settings.decode_threads, ahead)
    share = len(owned(run.scenes, run.rank))
    clock.take()
    since, number = time.perf_counter(), 0
    with progress(f"{name} on {split.name}", share, share - len(run.pending), quiet=run.rank.index > 0) as advance:
        while True:
            with clock.stage("decode"):  # only what the loop waited: the threads decode while the pipeline works
                batch = list(islice(pictures, asker.size))
            if not batch:
                return
            if number == 0:
                _refuse_without_pictures(split, batch)
            rows = asker.rows(batch)
            end = time.perf_counter()
            taken = BatchTime(
                session=run.record.sessions,
                rank=run.rank.index,
                batch=number,
                pictures=len(batch),
                expressions=sum(len(d.scene.expressions) for d in batch),
                seconds=end - since,
                stages=clock.take(),
                decode_seconds=sum(d.seconds for d in batch),
                memory_mb=peak_memory_mb(),
                device_memory_mb=device_memory_mb(device),
                note=asker.take_note(),
            )
            run.append(rows, taken)
            advance(len(batch))
            since, number = end, number + 1


def _refuse_without_pictures(split: Split, batch: Sequence[Decoded]) -> None:
    """Raises DataError when not one picture of the split is there: a set-up mistake, not so many bad pictures."""
    bad = next((decoded for decoded in batch if decoded.picture is None), None)
    if bad is not None and len(split.pictures.missing(split.scenes)) == len(split.scenes):
        raise DataError(
            f"{split.name}: none of its {len(split.scenes):,} pictures is there; the first one: {bad.error}"
        )
