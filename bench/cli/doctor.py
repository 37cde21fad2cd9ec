"""`bench doctor`: what this machine can run, and what is missing for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.flags import Ways, as_options
from bench.cli.options import Config, Json

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 160


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
    preprocessing: Annotated[Ways | None, typer.Option(help="Of --train-step: how pictures are made ready.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of --train-step: only the first N pictures.")] = None,
    part: Annotated[str | None, typer.Option("--part", help="Of --train-step: one of what is trained.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Of --train-step: KEY=VALUE of its training's table.")
    ] = None,
    device: Annotated[str, typer.Option(help="Of --train-step: auto, cpu, cuda or cuda:1.")] = "cpu",
    config: Config = None,
    json: Json = False,
) -> None:
    """What this machine will run, how fast roughly, and what is missing. Exit 1 when a named pipeline does not work.

    A second of matrix products is measured; the rates of full-size models are estimates, within a factor of 3.

    With --train-step: loss terms, gradient norms and boxes of one step in float32, to hold against other code.
    """
    from bench.errors import UsageError
    from bench.settings import assignments, load_settings, merged

    if train_step is None:
        if split or weights or preprocessing or limit or part or set_:
            raise UsageError(
                "--split, --weights, --preprocessing, --limit, --part and --set go with --train-step PIPELINE"
            )
        _look_around(pipeline, config, json)
        return
    from bench.doctor.machine import train_step as take

    if split is None or pipeline is not None:
        raise UsageError("--train-step PIPELINE needs --split, for example file:rows.jsonl, and no --pipeline")
    resolved = load_settings(config, {"run.device": device, "run.dtype": "float32"})
    with as_options(train_step, {"start_from": weights, "preprocessing": preprocessing}) as flagged:
        found = take(train_step, split, resolved, merged(assignments(set_ or []), flagged), part, limit)
    _show_step(found, json)


def _look_around(pipeline: str | None, config: Path | None, json: bool) -> None:
    import json as encoder

    from rich.console import Console
    from rich.table import Table

    from bench.doctor.estimate import estimates, measured
    from bench.doctor.machine import faster, machine, pipeline_states, split_states, try_out
    from bench.evaluation.device import resolve_device
    from bench.settings import load_settings

    resolved = load_settings(config)
    found: dict[str, Any] = {"machine": machine(resolved)}
    if pipeline:
        found["pipelines"] = [try_out(pipeline, resolved)]
    else:
        run = resolved.settings.run
        speed = measured(resolve_device(run.device), run.dtype)
        found |= {"pipelines": pipeline_states(resolved), "speed": speed, "estimates": estimates(speed)}
        found |= {"splits": split_states(resolved), "faster": faster(speed)}
    if json:
        print(encoder.dumps(found))
    else:
        console = Console()
        if not console.is_terminal:
            console.width = max(console.width, WIDE)  # a file or a pipe has no edge to fold at
        grid = Table(box=None, show_header=False, pad_edge=False)
        for key, value in found["machine"].items():
            grid.add_row(key, str(value))
        console.print(grid)
        _show_pipelines(found, console)
        if not pipeline:
            _show_splits(found, console)
    if pipeline and found["pipelines"][0]["shapes"] != "works":
        raise typer.Exit(1)


def _show_pipelines(found: dict[str, Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    rates = {row["pipeline"]: row for row in found.get("estimates", ())}
    table = Table(box=None, pad_edge=False, title="\npipelines", title_justify="left")
    for column in ("pipeline", "on shapes", "elsewhere", *(("roughly ex/s", "weights") if rates else ())):
        table.add_column(column, overflow="fold", justify="right" if column in ("roughly ex/s", "weights") else "left")
    for state in found["pipelines"]:
        cells = [state["pipeline"], state["shapes"], state["elsewhere"]]
        if rates:
            row = rates.get(state["pipeline"])
            big = "" if row is None or row["fits"] is not False else " (too big)"
            cells += ["", ""] if row is None else [f"{row['expressions_per_s']:g}", f"{row['weights_gb']:.1f} GiB{big}"]
        table.add_row(*map(escape, cells))
    console.print(table)
    if not rates:
        return
    speed = found["speed"]
    within = next(iter(rates.values()))["within"]
    bound = "at most" if within is None else f"roughly, within a factor of {within:g}"
    told = ", ".join(f"{rate:g} in {kind}" for kind, rate in speed["matmul_gflops"].items())
    free = "" if speed["memory_free_gb"] is None else f"; {speed['memory_free_gb']} GiB of memory free"
    console.print(
        f"\n{bound}: full-size models in {speed['dtype']}, 7 expressions a picture, from this "
        f"machine's matrix products (GFLOP/s: {told}){free}; bench speed measures",
        highlight=False,
        markup=False,
    )
    if missing := {what: how for state in found["pipelines"] for what, how in state["how"].items()}:
        console.print("\nwhat is missing, and what brings it", style="italic")
        for what, how in missing.items():
            console.print(f"{what}\n    {how}", highlight=False, markup=False, soft_wrap=True)


def _show_splits(found: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="\ndata sets", title_justify="left")
    for column in ("data set", "ready", "for the rest"):
        table.add_column(column, overflow="fold")
    for row in found["splits"]:
        all_there = row["ready"] == row["parts"]
        table.add_row(row["dataset"], ", ".join(row["ready"]) or "none", "" if all_there else row["how"])
    console.print(table)
    if found["faster"]:
        console.print("\nwhat would be faster, or do more", style="italic")
        for line in found["faster"]:
            console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)


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
