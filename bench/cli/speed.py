"""`bench speed`: how fast pipelines are on a split's real images, each alone or two in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import options as opt
from bench.cli.output import echo, emit, table_console

if TYPE_CHECKING:
    from bench.speed.record import PairRecord, SpeedRecord

    Done = tuple[SpeedRecord | PairRecord, Path]
    Job = Callable[[Mapping[str, Any]], Done]  # options of the pipeline -> its record and file


def speed(
    pipeline: opt.Pipelines,
    split: Annotated[
        str, typer.Option("--split", "-s", help="Split of the images; your data: file:PATH.jsonl.", **opt.SPLIT)
    ],
    interleave: Annotated[
        bool, typer.Option("--interleave", help="Measure the first and each other in turn, for ratios.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(min=2, help="Rounds of --interleave; both run once in each.", rich_help_panel=opt.MORE)
    ] = 12,
    min_seconds: Annotated[
        float, typer.Option(min=0, help="Shortest duration of a repeat, in seconds.", rich_help_panel=opt.MORE)
    ] = 30.0,
    min_batches: Annotated[
        int, typer.Option(min=1, help="Fewest batches of a repeat.", rich_help_panel=opt.MORE)
    ] = 100,
    warmup_seconds: Annotated[
        float, typer.Option(min=0, help="Shortest duration of the warm-up, in seconds.", rich_help_panel=opt.MORE)
    ] = 3.0,
    warmup_batches: Annotated[
        int, typer.Option(min=0, help="Fewest batches of the warm-up.", rich_help_panel=opt.MORE)
    ] = 10,
    repeats: Annotated[
        int, typer.Option(min=1, help="Repeats; their median and spread are reported.", rich_help_panel=opt.MORE)
    ] = 3,
    resident_mb: Annotated[
        float, typer.Option(min=1, help="Most memory for decoded images, in MB.", rich_help_panel=opt.MORE)
    ] = 2048.0,
    limit: opt.Partial = None,
    results: opt.Results = None,
    on: opt.On = None,
    weights: opt.Weights = None,
    tokenizer: opt.Tokenizer = None,
    preprocessing: opt.Preprocessing = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images in a batch.", show_default="the fastest")
    ] = None,
    compiled: opt.Compile = False,
    channels_last: opt.ChannelsLast = False,
    seed: opt.Seed = None,
    offline: opt.Offline = False,
    config: opt.Config = None,
    settings: opt.Set = None,
    chart: Annotated[
        Path | None, typer.Option(help="Draw accuracy against speed of the split's runs in this file.")
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Measure how fast pipelines are, and store the speed with its conditions beside the runs.

    A measurement shorter than the defaults is stored, but no table shows it. Exits with 1 when a pipeline's boxes
    differ from those of its accuracy run, with 2 when a pipeline could not be measured.
    """
    from functools import partial

    from bench import registry
    from bench.datasets.load import load_split
    from bench.errors import UsageError
    from bench.speed.measure import measure
    from bench.speed.pair import measure_pair
    from bench.speed.record import Rules

    how = {"device": device, "dtype": dtype, "compile": compiled, "channels_last": channels_last}
    resolved = opt.settings_of(config, results, **how, seed=seed, offline=offline)
    options = opt.assignments(settings or [])
    if why := opt.unwritable(Path(resolved.settings.results)):
        raise UsageError(f"--results {resolved.settings.results[:200]}: {why}")
    names = opt.listed(pipeline)
    for name in names:
        registry.origin(registry.PIPELINES, name)
    if on is not None:
        registry.origin(registry.DATASETS, on)
    if interleave and len(names) < 2:
        raise UsageError("--interleave needs two pipelines or more; the others are compared with the first")
    rules = Rules(
        warmup_seconds=warmup_seconds,
        warmup_batches=warmup_batches,
        min_seconds=min_seconds,
        min_batches=min_batches,
        repeats=repeats,
        batch_size=batch_size or 0,
    )
    data = load_split(split, resolved)
    name = data.name
    data = data if limit is None else data.limited(limit)
    # What is measured, by the name that a message gives it.
    rule: dict[str, Any] = {"rules": rules, "cap_mb": resident_mb, "on": on}
    jobs: dict[str, Job] = {each: partial(measure, each, data, resolved, **rule) for each in names}
    if interleave:
        rule["rounds"] = rounds
        jobs = {f"{names[0]} or {b}": partial(measure_pair, (names[0], b), data, resolved, **rule) for b in names[1:]}
    done, failed = _measured(
        jobs, options, {"weights": weights, "tokenizer": tokenizer or None, "preprocessing": preprocessing}
    )
    _show(done, as_json)
    if chart is not None:
        _draw(chart, Path(resolved.settings.results), name)
    if failed:
        raise typer.Exit(2)
    if not all(record.valid for record, _ in done):
        raise typer.Exit(1)


def _measured(
    jobs: Mapping[str, Job], options: Mapping[str, Any], own: Mapping[str, object]
) -> tuple[list[Done], bool]:
    """Run the jobs; returns the records, and whether one failed: it does not keep the others from being measured."""
    from bench.errors import BenchError
    from bench.evaluation.progress import message

    done: list[Done] = []
    failed = False
    for name, job in jobs.items():
        try:
            with opt.as_options(name, options, own) as given:
                done.append(job(given))
        except BenchError as error:
            if len(jobs) == 1:
                raise
            message(f"{name}: {error}", error=True)
            failed = True
    return done, failed


def _show(done: list[Done], as_json: bool) -> None:
    from bench.reporting.speed_table import print_pair, print_speeds
    from bench.speed.record import PairRecord, SpeedRecord

    console = table_console(as_json)
    print_speeds([record for record, _ in done if isinstance(record, SpeedRecord)], console)
    for record, _ in done:
        if isinstance(record, PairRecord):
            print_pair(record, console)
    for _, path in done:
        echo(f"  {path}", err=as_json)
    if as_json:
        emit({"rows": [record.model_dump(mode="json") | {"file": str(path)} for record, path in done]})


def _draw(chart: Path, results: Path, split: str) -> None:
    from bench.errors import UsageError
    from bench.evaluation.progress import message
    from bench.reporting.speed_chart import chart_of

    drawn = chart_of(results, split)
    if not drawn:
        raise UsageError(
            f"--chart {chart}: no run of {split} in {results} has a valid speed record under the default rules yet"
        )
    chart.parent.mkdir(parents=True, exist_ok=True)
    chart.write_text(drawn, encoding="utf-8")
    message(f"drawn: {chart}")
