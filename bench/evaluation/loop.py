"""The evaluation: every scene of a split shown to a pipeline, its answers stored as they come, then the metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.datasets.split import Split
from bench.errors import DataError
from bench.evaluation.answering import Decoded, answers
from bench.evaluation.beginning import blank_record, identity_of, now, same_weights
from bench.evaluation.device import resolve_device
from bench.evaluation.metrics import summary
from bench.evaluation.opening import OpenPipeline, build, pipeline_context
from bench.evaluation.outcomes import by_scene, outcomes
from bench.evaluation.progress import progress, say
from bench.evaluation.protocols import protocol as protocol_named
from bench.memory import device_memory_mb, peak_memory_mb
from bench.runs.folders import runs_of
from bench.runs.opening import finished_run, open_run
from bench.runs.outcomes import write_outcomes
from bench.runs.predictions import noted
from bench.runs.record import RunRecord
from bench.runs.shards import Rank, from_environment, owned
from bench.runs.store import BatchTime, Run
from bench.settings import Resolved, RunSettings


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What came of it. `record` is None on every rank but 0; `already_done` says that nothing was asked."""

    record: RunRecord | None
    folder: Path
    already_done: bool = False


def evaluate(
    name: str,
    split: Split,
    resolved: Resolved,
    flags: Mapping[str, Any] | None = None,
    protocol: str = "iou",
    fresh: bool = False,
    rank: Rank | None = None,
    opened: OpenPipeline | None = None,
    on: str | None = None,
) -> Evaluated:
    """Run the pipeline called `name` on a split, continue its unfinished run, or report the finished one.

    `flags` are options that win over bench.toml; `fresh` starts anew whatever is stored. `rank` is this process's share
    (by default as torchrun or Slurm say). `opened` is a pipeline that is built already: then its own device, dtype and
    options hold. `on` names another data set whose lines of bench.toml hold. Raises what `open_pipeline` and `open_run`
    raise, and DataError for a split without scenes or without any of its images.
    """
    settings, rank = resolved.settings, rank or from_environment()
    if not split.scenes:
        raise DataError(f"{split.name}: the split has no scenes")
    results, timeout_s = Path(settings.results), settings.run.rank_timeout_s
    if opened is None:
        device = resolve_device(settings.run.device, rank.local)
        context = pipeline_context(name, split, resolved, flags, device, on)
        identity, same = identity_of(context, split, settings.run.deterministic), partial(same_weights, context=context)
        rule, runs = protocol_named(protocol), runs_of(results, name, split.name)
        if not fresh and (done := finished_run(runs, identity, rule.name, split.scenes, rank, same)):
            return Evaluated(None if rank.index else done.record, done.folder, already_done=True)
        opened = build(context, resolved)
    blank = blank_record(opened.context, opened.card, split, settings, protocol)
    with open_run(results, blank, split.scenes, rank, fresh, timeout_s) as run:
        if run.already_done:
            return Evaluated(None if rank.index else run.record, run.folder, already_done=True)
        try:
            ground_all(opened, split, run, settings.run)
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
        return Evaluated(run.complete(metrics, errors, opened.load_seconds, noted(rows), finished=now()), run.folder)


def ground_all(opened: OpenPipeline, split: Split, run: Run, settings: RunSettings) -> None:
    """Ground every pending scene of this rank, batch by batch, and store the answers."""
    clock, share = opened.clock, len(owned(run.scenes, run.rank))
    clock.take()
    since = time.perf_counter()
    batches = answers(opened, run.pending, split.images, settings, clock)
    with progress(f"{opened.name} on {split.name}", share, share - len(run.pending), run.rank.index > 0) as advance:
        for number, batch in enumerate(batches):
            if number == 0:
                _refuse_without_images(split, batch.decoded)
            end = time.perf_counter()
            taken = BatchTime(
                session=run.record.sessions,
                rank=run.rank.index,
                batch=number,
                images=len(batch.decoded),
                expressions=sum(len(d.scene.expressions) for d in batch.decoded),
                seconds=end - since,
                stages=clock.take(),
                decode_seconds=sum(d.seconds for d in batch.decoded),
                memory_mb=peak_memory_mb(),
                device_memory_mb=device_memory_mb(opened.context.device),
                note=batch.note,
            )
            run.append(batch.rows, taken)
            advance(len(batch.decoded))
            since = end


def _refuse_without_images(split: Split, batch: Sequence[Decoded]) -> None:
    """Raises DataError when not one image of the split is there: a set-up mistake, not so many bad images."""
    bad = next((decoded for decoded in batch if decoded.image is None), None)
    if bad is not None and len(split.images.missing(split.scenes)) == len(split.scenes):
        raise DataError(f"{split.name}: none of its {len(split.scenes):,} images is there; the first one: {bad.error}")
