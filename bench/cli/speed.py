"""`bench speed`: how fast pipelines are on a split's real pictures, each alone or two in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.flags import as_options
from bench.cli.options import (
    ChannelsLast,
    Compile,
    Config,
    Device,
    Dtype,
    Json,
    Offline,
    Preprocessing,
    Seed,
    Set,
    Weights,
)

if TYPE_CHECKING:
    from bench.datasets.split import Split
    from bench.settings import Resolved
    from bench.speed.record import PairRecord, Rules, SpeedRecord

    Done = tuple[SpeedRecord | PairRecord, Path]
    Job = Callable[[Mapping[str, Any]], Done]  # options of the pipeline -> its record and file


def speed(
    pipeline: Annotated[
        list[str], typer.Option("--pipeline", "-p", help="Pipelines: a,b or the flag repeated.", show_default=False)
    ],
    split: Annotated[
        str, typer.Option("--split", "-s", help="Whose pictures; own data: file:PATH.jsonl.", show_default=False)
    ],
    interleave: Annotated[
        bool, typer.Option("--interleave", help="The first and each other one in turn: ratios of speed.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=2, help="Of --interleave; both have a turn in each.")] = 12,
    min_seconds: Annotated[float, typer.Option(min=0, help="Each repeat lasts at least this long.")] = 30.0,
    min_batches: Annotated[int, typer.Option(min=1, help="And has at least so many batches.")] = 100,
    warmup_seconds: Annotated[float, typer.Option(min=0, help="The warm-up lasts at least this long.")] = 3.0,
    warmup_batches: Annotated[int, typer.Option(min=0, help="And has at least so many batches.")] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Of which the median and the spread are given.")] = 3,
    resident_mb: Annotated[float, typer.Option(min=1, help="Decoded pictures are kept up to this size.")] = 2048.0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N pictures; such a record is in no table.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", "-o", help="Where records are kept.", show_default="results")
    ] = None,
    weights: Weights = None,
    preprocessing: Preprocessing = None,
    device: Device = None,
    dtype: Dtype = None,
    compiled: Compile = False,
    channels_last: ChannelsLast = False,
    seed: Seed = None,
    offline: Offline = False,
    config: Config = None,
    settings: Set = None,
    chart: Annotated[
        Path | None,
        typer.Option(help="Draw accuracy against speed for all that is stored of the split.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast pipelines are, with the conditions beside the number; the records lie beside the runs.

    One that was made with less than the default rules is kept, and joins no table.

    Leaves with 1 when a pipeline's boxes were not those of the accuracy pass, with 2 when one could not be measured.
    """
    from bench import registry
    from bench.cli.run import listed
    from bench.datasets.load import load_split
    from bench.errors import UsageError
    from bench.settings import assignments, load_settings
    from bench.speed.record import Rules

    flags = {
        "results": str(results) if results else None,
        "run.device": device,
        "run.dtype": dtype,
        "run.compile": compiled or None,
        "run.channels_last": channels_last or None,
        "run.seed": seed,
        "run.offline": offline or None,
    }
    resolved = load_settings(config, flags)
    options = assignments(settings or [])
    names = listed(pipeline)
    for name in names:
        registry.origin("pipeline", name)
    if interleave and len(names) < 2:
        raise UsageError("--interleave: give two pipelines or more, the first of which the others are compared with")
    rules = Rules(
        warmup_seconds=warmup_seconds,
        warmup_batches=warmup_batches,
        min_seconds=min_seconds,
        min_batches=min_batches,
        repeats=repeats,
    )
    whole = load_split(split, resolved)
    some = whole if limit is None else whole.limited(limit)
    own = {"weights": weights, "preprocessing": preprocessing}
    jobs = _jobs(names, some, resolved, rules, resident_mb, rounds if interleave else None)
    done, failed = _measured(jobs, options, own)
    _show(done, as_json)
    if chart is not None:
        _draw(chart, Path(resolved.settings.results), whole.name)
    if failed:
        raise typer.Exit(2)
    if not all(record.valid for record, _ in done):
        raise typer.Exit(1)


def _jobs(
    names: list[str], split: Split, resolved: Resolved, rules: Rules, resident_mb: float, rounds: int | None
) -> dict[str, Job]:
    """What is measured, by the name that a message gives it: each pipeline, or with `rounds` each after the first with
    the first in turn.
    """
    from functools import partial

    from bench.speed.measure import measure
    from bench.speed.pair import measure_pair

    how: dict[str, Any] = {"rules": rules, "cap_mb": resident_mb}
    if rounds is None:
        return {name: partial(measure, name, split, resolved, **how) for name in names}
    first, *others = names
    how |= {"rounds": rounds}
    return {f"{first} or {b}": partial(measure_pair, (first, b), split, resolved, **how) for b in others}


def _measured(jobs: Mapping[str, Job], options: dict[str, Any], own: dict[str, Any]) -> tuple[list[Done], bool]:
    """The records, and whether a job failed: that is said at once and does not keep the others from being measured."""
    from bench.errors import BenchError
    from bench.evaluation.progress import say

    done: list[Done] = []
    failed = False
    for name, job in jobs.items():
        try:
            with as_options(name, own) as flagged:
                done.append(job(options | flagged))
        except BenchError as error:
            if len(jobs) == 1:
                raise
            say(f"{name}: {error}")
            failed = True
    return done, failed


def _show(done: list[Done], as_json: bool) -> None:
    import json

    from rich.console import Console

    from bench.reporting.speed_table import print_pair, print_speeds
    from bench.speed.record import PairRecord, SpeedRecord

    console = Console(stderr=as_json)
    print_speeds([record for record, _ in done if isinstance(record, SpeedRecord)], console)
    for record, _ in done:
        if isinstance(record, PairRecord):
            print_pair(record, console)
    for _, path in done:
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        rows = [record.model_dump(mode="json") | {"file": str(path)} for record, path in done]
        print(json.dumps({"rows": rows}, ensure_ascii=False, allow_nan=False))


def _draw(chart: Path, results: Path, split: str) -> None:
    from bench.errors import UsageError
    from bench.evaluation.progress import say
    from bench.reporting.speed_chart import chart_of

    drawn = chart_of(results, split)
    if not drawn:
        raise UsageError(
            f"--chart {chart}: no run of {split} in {results} has a valid speed record of the full rules beside it yet"
        )
    chart.parent.mkdir(parents=True, exist_ok=True)
    chart.write_text(drawn, encoding="utf-8")
    say(f"drawn: {chart}")
