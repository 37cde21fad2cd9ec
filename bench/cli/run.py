"""`bench run`: pipelines against splits, every pair of them a run of its own under results/."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli import options as opt
from bench.cli.output import emit


def run(
    pipeline: opt.Pipelines,
    split: opt.Splits,
    results: opt.Results = None,
    on: opt.On = None,
    weights: opt.Weights = None,
    tokenizer: opt.Tokenizer = None,
    preprocessing: opt.Preprocessing = None,
    limit: opt.Partial = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    batch_size: opt.BatchSize = None,
    seed: opt.Seed = None,
    deterministic: opt.Deterministic = False,
    compiled: opt.Compile = False,
    channels_last: opt.ChannelsLast = False,
    offline: opt.Offline = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again, beside the stored run.")] = False,
    config: opt.Config = None,
    settings: opt.Set = None,
    as_json: opt.Json = False,
) -> None:
    """Run pipelines on splits, score every pair and store it under results/runs.

    The same command continues a run that was stopped, and reports a finished one without computing it anew.

    Exits with 2 when a pair failed, with 3 when images could not be read; the same command tries those again.
    """
    from rich.console import Console

    from bench import registry
    from bench.datasets.load import FILE, find_split, load_split
    from bench.errors import BenchError
    from bench.evaluation.loop import evaluate
    from bench.evaluation.progress import message
    from bench.reporting.rows import run_row
    from bench.reporting.terminal import print_rows
    from bench.settings import assignments

    how = {"device": device, "dtype": dtype, "batch_size": batch_size, "seed": seed, "deterministic": deterministic}
    how |= {"compile": compiled, "channels_last": channels_last, "offline": offline}
    resolved = opt.settings_of(config, results, **how)
    options = assignments(settings or [])
    names, split_names = opt.listed(pipeline), opt.listed(split)
    # Every name is looked up before the first split is read, and every split read before a pipeline is loaded.
    for name in names:
        registry.origin(registry.PIPELINES, name)
    if on is not None:
        registry.origin(registry.DATASETS, on)
    for name in split_names:
        if not name.startswith(FILE):
            find_split(name)
    splits = [load_split(name, resolved) for name in split_names]
    splits = splits if limit is None else [each.limited(limit) for each in splits]
    own = {"weights": weights, "tokenizer": tokenizer or None, "preprocessing": preprocessing}
    runs, failed = [], False
    for name in names:
        for data in splits:
            try:
                with opt.as_options(name, options, own) as flags:
                    run = evaluate(name, data, resolved, flags, fresh=fresh, on=on)
            except BenchError as error:
                if len(names) == len(splits) == 1:
                    raise
                # A pair that fails is reported at once, and the others are run.
                message(f"{name} on {data.name}: {error}")
                failed = True
                continue
            runs.append(run)
            if run.already_done and run.rank.index == 0:
                message(f"{name} on {data.name}: done before, nothing computed ({run.folder}); --fresh runs it again")
    complete = [run for run in runs if run.rank.index == 0]  # the other ranks have no finished record
    if complete or not runs:
        print_rows([run.record for run in complete], Console(stderr=as_json))
        if as_json:
            emit({"rows": [run_row(run.record, run.folder) for run in complete]})
    if failed:
        raise typer.Exit(2)
    if any(run.record.errors for run in complete):
        raise typer.Exit(3)
