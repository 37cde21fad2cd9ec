"""`bench run`: pipelines against splits, every pair of them a run of its own under results/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.flags import as_options
from bench.cli.options import (
    BatchSize,
    ChannelsLast,
    Compile,
    Config,
    Deterministic,
    Device,
    Dtype,
    Json,
    Offline,
    Preprocessing,
    Results,
    Seed,
    Set,
    Weights,
)

if TYPE_CHECKING:
    from bench.datasets.split import Split
    from bench.evaluation.loop import Evaluated
    from bench.settings import Resolved


def run(
    pipeline: Annotated[
        list[str], typer.Option("--pipeline", "-p", help="Pipelines: a,b or the flag repeated.", show_default=False)
    ],
    split: Annotated[
        list[str],
        typer.Option(
            "--split", "-s", help="Splits: a,b or the flag repeated; own data: file:PATH.jsonl.", show_default=False
        ),
    ],
    results: Results = None,
    on: Annotated[
        str | None,
        typer.Option(help="Take the weights and options for this data set, not the split's own.", show_default=False),
    ] = None,
    weights: Weights = None,
    preprocessing: Preprocessing = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first N pictures; such a run is in no table.", show_default=False),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    deterministic: Deterministic = False,
    compiled: Compile = False,
    channels_last: ChannelsLast = False,
    offline: Offline = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew beside what is stored.")] = False,
    config: Config = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Run pipelines on splits: every pair is scored and kept under results/runs.

    The same command continues a run that was stopped, and reports a finished one without computing it anew.

    Leaves with 3 when pictures could not be read (the same command tries just those again), with 2 when a pair failed.
    """
    from bench import registry
    from bench.settings import assignments, load_settings

    flags = {
        "results": str(results) if results else None,
        "run.device": device,
        "run.dtype": dtype,
        "run.batch_size": batch_size,
        "run.seed": seed,
        "run.deterministic": deterministic or None,
        "run.compile": compiled or None,
        "run.channels_last": channels_last or None,
        "run.offline": offline or None,
    }
    resolved = load_settings(config, flags)
    options = assignments(settings or [])
    own = {"weights": weights, "preprocessing": preprocessing}
    names = listed(pipeline)
    for name in names:
        registry.origin("pipeline", name)
    if on is not None:
        registry.origin("dataset", on)
    splits = _load(listed(split), resolved, limit)
    done, failed = _product(names, splits, resolved, options, own, fresh, on)
    _show(done, as_json)
    if failed:
        raise typer.Exit(2)
    if any(e.record and e.record.errors for e in done):
        raise typer.Exit(3)


def _load(names: list[str], resolved: Resolved, limit: int | None) -> list[Split]:
    """Every split, before the first pipeline is loaded; their names are looked at before the first is read."""
    from bench.datasets.load import FILE, find_split, load_split

    for name in names:
        if not name.startswith(FILE):
            find_split(name)
    splits = [load_split(name, resolved) for name in names]
    return splits if limit is None else [split.limited(limit) for split in splits]


def _product(
    names: list[str],
    splits: list[Split],
    resolved: Resolved,
    options: dict[str, Any],
    own: dict[str, Any],
    fresh: bool,
    on: str | None,
) -> tuple[list[Evaluated], bool]:
    """Every pair; one that fails is reported at once and does not keep the others from being run.

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
            with as_options(name, own) as flagged:
                found = evaluate(name, split, resolved, options | flagged, fresh=fresh, on=on)
        except BenchError as error:
            if len(pairs) == 1:
                raise
            say(f"{name} on {split.name}: {error}")
            failed = True
            continue
        if found.already_done and found.record:
            say(f"{name} on {split.name}: done before, nothing computed ({found.folder}); --fresh runs it again")
        done.append(found)
    return done, failed


def _show(done: list[Evaluated], as_json: bool) -> None:
    import json

    from rich.console import Console

    from bench.reporting.table import row
    from bench.reporting.terminal import print_rows

    rows = [(e.record, e.folder) for e in done if e.record]
    if done and not rows:  # a rank other than 0
        return
    print_rows([record for record, _ in rows], Console(stderr=as_json))
    if as_json:
        print(json.dumps({"rows": [row(*each) for each in rows]}, ensure_ascii=False, allow_nan=False))


def listed(values: list[str]) -> list[str]:
    """Names from repeated flags and comma lists, in order, each once. A `file:` value is one path, commas and all."""
    parts = [p.strip() for v in values for p in ([v] if v.startswith("file:") else v.split(","))]
    return [part for part in dict.fromkeys(parts) if part]
