"""`bench doctor`: what this machine can run, and what is missing for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import Config, Json, Set, Ways, as_options, settings_of
from bench.cli.output import console_of, emit, table_of

if TYPE_CHECKING:
    from rich.console import Console


def doctor(
    pipeline: Annotated[str | None, typer.Option("--pipeline", "-p", help="Build this one, ground one scene.")] = None,
    train_step: Annotated[
        str | None,
        typer.Option("--train-step", help="Show this pipeline's first training step on --split, to compare."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", "-s", help="Of --train-step: a split or file:PATH.jsonl, one batch.")
    ] = None,
    weights: Annotated[str | None, typer.Option("--weights", help="Of --train-step: where the step starts.")] = None,
    preprocessing: Annotated[Ways | None, typer.Option(help="Of --train-step: how images are prepared.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of --train-step: only the first N images.")] = None,
    part: Annotated[str | None, typer.Option("--part", help="Of --train-step: one of what is trained.")] = None,
    set_: Set = None,
    device: Annotated[str, typer.Option(help="Of --train-step: auto, cpu, cuda or cuda:1.")] = "cpu",
    config: Config = None,
    json: Json = False,
) -> None:
    """What this machine will run, how fast roughly, and what is missing. Exit 1 when a named pipeline does not work.

    A second of matrix products is measured; the rates of full-size models are estimates, within a factor of 3.

    With --train-step: loss terms, gradient norms and boxes of one step in float32, to compare with other code.
    """
    from bench.errors import UsageError
    from bench.settings import assignments

    if train_step is None:
        if split or weights or preprocessing or limit or part or set_:
            raise UsageError(
                "--split, --weights, --preprocessing, --limit, --part and --set go with --train-step PIPELINE"
            )
        _look_around(pipeline, config, json)
        return
    from bench.training.gradient_check import first_step

    if split is None or pipeline is not None:
        raise UsageError("--train-step PIPELINE needs --split, for example file:rows.jsonl, and no --pipeline")
    resolved = settings_of(config, device=device, dtype="float32")
    own = {"start_from": weights, "preprocessing": preprocessing}
    with as_options(train_step, assignments(set_ or []), own) as recipe:
        step = first_step(train_step, split, resolved, recipe, part, limit)
    step = {"pipeline": train_step, "split": split, **step}
    if json:
        emit(step)
    else:
        console_of().print(table_of((), _lines(step)))


def _look_around(pipeline: str | None, config: Path | None, json: bool) -> None:
    from bench.doctor.machine import examine

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

    rates = {row["pipeline"]: row for row in report.get("estimates", ())}
    right = ("roughly ex/s", "weights") if rates else ()
    rows = []
    for state in report["pipelines"]:
        cells = [state["pipeline"], state["shapes"], state["elsewhere"]]
        if row := rates.get(state["pipeline"]):
            big = " (too big)" if row["fits"] is False else ""
            cells += [f"{row['expressions_per_s']:g}", f"{row['weights_gb']:.1f} GiB{big}"]
        rows.append(map(escape, cells))
    console.print(table_of(("pipeline", "on shapes", "elsewhere", *right), rows, "\npipelines", right))
    if not rates:
        return
    speed = report["speed"]
    within = next(iter(rates.values()))["within"]
    bound = "at most" if within is None else f"roughly, within a factor of {within:g}"
    gflops = ", ".join(f"{rate:g} in {kind}" for kind, rate in speed["matmul_gflops"].items())
    free = "" if speed["memory_free_gb"] is None else f"; {speed['memory_free_gb']} GiB of memory free"
    typer.echo(
        f"\n{bound}: full-size models in {speed['dtype']}, 7 expressions an image, from this "
        f"machine's matrix products (GFLOP/s: {gflops}){free}; bench speed measures"
    )
    if missing := {what: how for state in report["pipelines"] for what, how in state["how"].items()}:
        console.print("\nwhat is missing, and what brings it", style="italic")
        for what, how in missing.items():
            typer.echo(f"{what}\n    {how}")


def _show_splits(report: Mapping[str, Any], console: Console) -> None:
    rows = (
        (row["dataset"], ", ".join(row["ready"]) or "none", "" if row["ready"] == row["parts"] else row["how"])
        for row in report["splits"]
    )
    console.print(table_of(("data set", "ready", "for the rest"), rows, "\ndata sets"))
    if report["faster"]:
        console.print("\nwhat would be faster, or do more", style="italic")
        for line in report["faster"]:
            typer.echo(f"- {line}")


def _lines(step: Mapping[str, Any], indent: str = "") -> list[tuple[str, str]]:
    """Write a step's numbers, one a line and a table below its name; lists (boxes) are left to JSON."""
    lines = []
    for key, value in step.items():
        if isinstance(value, Mapping):
            lines += [("", ""), (key.replace("_", " "), ""), *_lines(value, "  ")]
        elif not isinstance(value, list):
            name = key if indent else key.replace("_", " ")
            lines.append((f"{indent}{name}", f"{value:.8g}" if isinstance(value, float) else str(value)))
    return lines
