"""The evaluation: every scene of a split grounded by a pipeline, its answers stored as they come, then the metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.datasets.split import Split
from bench.errors import DataError
from bench.evaluation import identity as identities
from bench.evaluation.answering import answers
from bench.evaluation.isolation import closing_isolated, isolated
from bench.evaluation.metrics import compute
from bench.evaluation.opening import OpenPipeline, build, for_device, pipeline_context
from bench.evaluation.progress import progress, saying_how_to_go_on
from bench.evaluation.protocols import protocol as protocol_named
from bench.runs.opening import Run, latest_run, open_run
from bench.runs.shards import Rank, from_environment
from bench.settings import Resolved


def evaluate(
    name: str,
    split: Split,
    resolved: Resolved,
    flags: Mapping[str, Any] | None = None,
    protocol: str | None = None,
    fresh: bool = False,
    rank: Rank | None = None,
    opened: OpenPipeline | None = None,
    on: str | None = None,
    beside: bool = False,
) -> Run:
    """Run the pipeline called `name` on a split, continue its unfinished run, or report the finished one.

    `flags` are options that win over bench.toml; `fresh` starts anew whatever is stored. `rank` is this process's share
    (by default of torchrun or Slurm). `opened` is a pipeline that is built already: then its own device, dtype and
    options hold. `on` names another data set whose lines of bench.toml hold. With `beside` an unfinished run of other
    settings is not refused: a study has both. The record is complete on rank 0 only.
    Raises what `open_pipeline` and `open_run` raise, and DataError for a split without scenes or any of its images.
    """
    settings, rank, rule = resolved.settings, rank or from_environment(), protocol_named(protocol or split.protocol)
    if not split.scenes:
        raise DataError(f"{split.name}: the split has no scenes")
    # 1. What it is, but for the weights.
    if opened is None:
        context = pipeline_context(name, split, resolved, flags, on=on, local_rank=rank.local)
    else:
        context = opened.context
    settings = settings.model_copy(update={"run": for_device(settings.run, context.device)})
    identity_of = partial(identities.identity_of, context, identities.data_identity(split), settings.run.deterministic)
    folder = Path(settings.results)
    # 2. A finished run is reported without opening the weights.
    if opened is None:
        same_weights = partial(identities.same_weights, context=context)
        done = None if fresh else latest_run(folder, identity_of, rule.name, split.scenes, rank, same_weights)
        if done and done.already_done:
            return done
        opened = (
            isolated(context, split.argument, resolved, flags) if settings.run.isolate else build(context, resolved)
        )
    # 3. The run is continued, or a new one.
    identity = identity_of(opened.card.weights, identities.weights_of(opened.card))
    blank = identities.new_record(identity, split, context, opened.card, settings, rule)
    with (
        closing_isolated(opened.pipeline) as own_memory,
        open_run(folder, blank, split.scenes, rank, fresh, settings.run.rank_timeout_s, beside) as run,
    ):
        if run.already_done:
            return run
        # 4. This rank's pending scenes are grounded, and stored batch by batch.
        clock, share = opened.clock, run.share
        clock.take(wait=True)
        since, left = time.perf_counter(), len(run.pending)
        with (
            saying_how_to_go_on(f"stopped; the same command continues this run ({run.folder})"),
            progress(f"{name} on {split.name}", share, share - len(run.pending), rank.index > 0) as advance,
        ):
            batches = answers(opened.pipeline, run.pending, split.images, settings.run, clock)
            for number, (batch, rows, note) in enumerate(batches):
                if number == 0 and (bad := next((row.error for row in rows if row.error is not None), None)):
                    _refuse_without_images(split, bad)
                end, left = time.perf_counter(), left - len(batch)
                times = {
                    "batch": number,
                    "images": len(batch),
                    "expressions": sum(len(each.scene.expressions) for each in batch),
                    "seconds": end - since,
                    "stages": clock.take(wait=not left),  # a GPU's come a batch late
                    "decode_seconds": sum(each.seconds for each in batch),
                    "note": note,
                    **own_memory(),
                }
                run.append(rows, times, context.device)
                advance(len(batch))
                since = end
        # 5. Rank 0 waits for the others, and scores; the outcomes go before the record, which makes the run complete.
        if rank.index == 0:
            stored = run.gather(settings.run.rank_timeout_s)
            metrics = compute(split, stored, rule, settings.evaluation, run.folder)
            run.complete(metrics, stored, opened.load_seconds, identities.now())
        return run


def _refuse_without_images(split: Split, error: str) -> None:
    """Raise DataError when not one image of the split is there: a set-up mistake, not so many bad images."""
    if len(split.images.missing(split.scenes)) == len(split.scenes):
        raise DataError(f"{split.name}: none of its {len(split.scenes):,} images is there; the first one: {error}")
