"""`bench doctor`: what this machine can run, and what is missing for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import Config, Json, pipeline_names, settings_of
from bench.cli.output import console_of, echo, emit, table_of

if TYPE_CHECKING:
    from rich.console import Console


def doctor(
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline", "-p", help="Load this pipeline and ground one scene.", autocompletion=pipeline_names
        ),
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Check what this machine can run and how fast roughly, and what is missing.

    A second of matrix products is measured; the rates of full-size models are estimates, within a factor of 3. Exits
    with 1 when the named pipeline does not work.
    """
    from bench.doctor.machine import examine
    from bench.evaluation.progress import message

    message("looking at this machine ...")
    report = examine(settings_of(config), pipeline)
    if json:
        emit(report)
    else:
        console = console_of()
        console.print(table_of((), ((key, str(value)) for key, value in report["machine"].items())))
        _show_pipelines(report, console)
        if not pipeline:
            _show_splits(report, console)
    if pipeline and report["pipelines"][0]["shapes"] != "works":
        raise typer.Exit(1)


def _show_pipelines(report: Mapping[str, Any], console: Console) -> None:
    from rich.markup import escape

    from bench.reporting.terminal import print_table

    rates = {row["pipeline"]: row for row in report.get("estimates", ())}
    right = ("roughly ex/s", "weights") if rates else ()
    rows = []
    for state in report["pipelines"]:
        cells = [state["pipeline"], state["shapes"], state["elsewhere"]]
        if row := rates.get(state["pipeline"]):
            big = " (too big)" if row["fits"] is False else ""
            cells += [f"{row['expressions_per_s']:g}", f"{row['weights_gb']:.1f} GiB{big}"]
        rows.append(map(escape, cells))
    columns = ("pipeline", "on shapes", "elsewhere", *right)
    print_table(console, table_of(columns, rows, "\npipelines", right, fold=columns[1:3]), right)
    if not rates:
        return
    speed = report["speed"]
    within = next(iter(rates.values()))["within"]
    bound = "at most" if within is None else f"roughly, within a factor of {within:g}"
    gflops = ", ".join(f"{rate:g} in {kind}" for kind, rate in speed["matmul_gflops"].items())
    free = "" if speed["memory_free_gb"] is None else f"; {speed['memory_free_gb']} GiB of memory free"
    echo(
        f"\n{bound}: full-size models in {speed['dtype']}, 7 expressions an image, from this "
        f"machine's matrix products (GFLOP/s: {gflops}){free}; bench speed measures exactly"
    )
    if missing := {what: how for state in report["pipelines"] for what, how in state["how"].items()}:
        console.print("\nwhat is missing, and how to get it", style="italic")
        for what, how in missing.items():
            echo(f"{what}\n    {how}")


def _show_splits(report: Mapping[str, Any], console: Console) -> None:
    from bench.reporting.terminal import print_table

    rows = (
        (
            row["dataset"],
            ", ".join([*row["ready"], *(f"{part} ({state})" for part, state in row["partly"].items())]) or "none",
            "" if row["ready"] == row["parts"] else row["how"],
        )
        for row in report["splits"]
    )
    columns = ("data set", "ready", "for the rest")
    print_table(console, table_of(columns, rows, "\ndata sets", fold=columns[1:]))
    if report["faster"]:
        console.print("\nwhat would be faster, or do more", style="italic")
        for line in report["faster"]:
            echo(f"- {line}")
