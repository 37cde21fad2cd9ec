"""`bench doctor`: what this machine can run, and what is missing for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    pipeline: Annotated[str | None, typer.Option("--pipeline", "-p", help="Build this one and ask it once.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A bench.toml.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout.")] = False,
) -> None:
    """Versions, GPU, caches, and what each pipeline would need. Exit 1 when a named pipeline does not work."""
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
