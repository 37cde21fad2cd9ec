"""`bench doctor`: what this machine can run, and what is missing for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.flags import Preprocessing, as_options


def doctor(
    pipeline: Annotated[str | None, typer.Option("--pipeline", "-p", help="Build this one and ask it once.")] = None,
    train_step: Annotated[
        str | None,
        typer.Option("--train-step", help="Show this pipeline's first training step on --split, to compare."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", "-s", help="Of --train-step: a split or file:PATH.jsonl, one batch.")
    ] = None,
    weights: Annotated[str | None, typer.Option("--weights", help="Of --train-step: where the step begins.")] = None,
    preprocessing: Annotated[
        Preprocessing | None, typer.Option(help="Of --train-step: how pictures are made ready.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of --train-step: only the first N pictures.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Of --train-step: KEY=VALUE of the pipeline's table.")
    ] = None,
    device: Annotated[str, typer.Option(help="Of --train-step: auto, cpu, cuda, cuda:1")] = "cpu",
    config: Annotated[Path | None, typer.Option("--config", help="A bench.toml.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout.")] = False,
) -> None:
    """Versions, GPU, caches, and what each pipeline would need. Exit 1 when a named pipeline does not work.

    With --train-step: loss terms, gradient norms and boxes of one step in float32, to hold against other code.
    """
    from bench.errors import UsageError
    from bench.settings import assignments, load_settings

    if train_step is None:
        if split or weights or preprocessing or limit or set_:
            raise UsageError("--split, --weights, --preprocessing, --limit and --set go with --train-step PIPELINE")
        _look_around(pipeline, config, json)
        return
    from bench.verbs.checkup import train_step as take

    if split is None or pipeline is not None:
        raise UsageError("--train-step PIPELINE needs --split, for example file:rows.jsonl, and no --pipeline")
    resolved = load_settings(config, {"run.device": device, "run.dtype": "float32"})
    with as_options(train_step, {"weights": weights, "preprocessing": preprocessing}) as flagged:
        found = take(train_step, split, resolved, assignments(set_ or []) | flagged, limit)
    _show_step(found, json)


def _look_around(pipeline: str | None, config: Path | None, json: bool) -> None:
    import json as encoder

    from rich.console import Console
    from rich.table import Table

    from bench.settings import load_settings
    from bench.verbs.checkup import machine, pipeline_states, try_out

    resolved = load_settings(config)
    facts = machine(resolved)
    states = [try_out(pipeline, resolved)] if pipeline else pipeline_states(resolved)
    if json:
        print(encoder.dumps({"machine": facts, "pipelines": states}))
    else:
        console = Console()
        grid = Table(box=None, show_header=False, pad_edge=False)
        for key, value in facts.items():
            grid.add_row(key, str(value))
        console.print(grid)
        table = Table(box=None, pad_edge=False, title="\npipelines", title_justify="left")
        for column in ("pipeline", "on shapes", "elsewhere"):
            table.add_column(column, overflow="fold")
        for state in states:
            table.add_row(state["pipeline"], state["shapes"], state["elsewhere"])
        console.print(table)
    if pipeline and states[0]["shapes"] != "works":
        raise typer.Exit(1)


def _show_step(found: dict[str, Any], json: bool) -> None:
    """Every number at full precision in JSON; for people, one line each with boxes and the like left to JSON."""
    import json as encoder

    from rich.console import Console
    from rich.table import Table

    if json:
        print(encoder.dumps(found))
        return
    grid = Table(box=None, show_header=False, pad_edge=False)
    for key, value in found.items():
        if isinstance(value, dict):
            grid.add_row("", "")
            grid.add_row(key.replace("_", " "), "")
            for name, number in value.items():
                grid.add_row(f"  {name}", _number(number))
        elif not isinstance(value, list):
            grid.add_row(key.replace("_", " "), _number(value))
    Console().print(grid)


def _number(value: Any) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)
