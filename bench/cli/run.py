"""`bench run`: pipelines against splits, every pair of them a run of its own under results/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import options as opt
from bench.cli.output import emit

if TYPE_CHECKING:
    from bench.datasets.split import Split
    from bench.evaluation.loop import Evaluated
    from bench.settings import Resolved


def run(
    pipeline: opt.Pipelines,
    split: Annotated[
        list[str],
        typer.Option("--split", "-s", help="Splits: a,b or the flag repeated; own data: file:PATH.jsonl."),
    ],
    results: opt.Results = None,
    on: opt.On = None,
    weights: opt.Weights = None,
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
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew beside what is stored.")] = False,
    config: opt.Config = None,
    settings: opt.Set = None,
    as_json: opt.Json = False,
) -> None:
    """Run pipelines on splits: every pair is scored and kept under results/runs.

    The same command continues a run that was stopped, and reports a finished one without computing it anew.

    Leaves with 3 when images could not be read (the same command tries just those again), with 2 when a pair failed.
    """
    from rich.console import Console

    from bench import registry
    from bench.datasets.load import FILE, find_split, load_split
    from bench.reporting.table import row
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
    own = {"weights": weights, "preprocessing": preprocessing}
    done, failed = _product(names, splits, resolved, options, own, fresh, on)
    rows = [(e.record, e.folder) for e in done if e.record]
    if rows or not done:  # a rank other than 0 has no records
        print_rows([record for record, _ in rows], Console(stderr=as_json))
        if as_json:
            emit({"rows": [row(*each) for each in rows]})
    if failed:
        raise typer.Exit(2)
    if any(record.errors for record, _ in rows):
        raise typer.Exit(3)


def _product(
    names: list[str],
    splits: list[Split],
    resolved: Resolved,
    options: Mapping[str, Any],
    own: Mapping[str, object],
    fresh: bool,
    on: str | None,
) -> tuple[list[Evaluated], bool]:
    """Run every pair; one that fails is reported at once and does not keep the others from being run.

    `options` are --set KEY=VALUE, `own` the flags that set an option of the pipeline's, `on` the data set whose lines
    of bench.toml hold instead of the split's own.
    """
    from bench.errors import BenchError
    from bench.evaluation.loop import evaluate
    from bench.evaluation.progress import say

    pairs = [(name, split) for name in names for split in splits]
    done, failed = [], False
    for name, split in pairs:
        try:
            with opt.as_options(name, options, own) as given:
                one = evaluate(name, split, resolved, given, fresh=fresh, on=on)
        except BenchError as error:
            if len(pairs) == 1:
                raise
            say(f"{name} on {split.name}: {error}")
            failed = True
            continue
        if one.already_done and one.record:
            say(f"{name} on {split.name}: done before, nothing computed ({one.folder}); --fresh runs it again")
        done.append(one)
    return done, failed
