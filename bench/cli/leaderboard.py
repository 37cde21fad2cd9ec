"""`bench leaderboard`: the tables of results/, made from the runs that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def leaderboard(
    results: Annotated[
        Path | None, typer.Option("--results", "-o", help="Where runs are kept.", show_default="results")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; leave with 1 when the files are not what the runs give.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="A bench.toml to use.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The last line of stdout is one JSON object.")] = False,
) -> None:
    """Write LEADERBOARD.md, .csv and .json from the stored runs: one table for each split, protocol and data."""
    import json

    from bench.reporting import leaderboard as board
    from bench.settings import load_settings

    folder = Path(load_settings(config, {"results": str(results) if results else None}).settings.results)
    found = board.check(folder) if check else board.write(folder)
    shown = sum(len(table.rows) for table in found.boards)
    done = "is up to date" if check else "written"
    typer.echo(f"{folder / board.NAMES[0]} {done}; runs shown: {shown}, tables: {len(found.boards)}", err=as_json)
    for entry in found.left_out:
        typer.echo(f"left out: {entry.run}: {entry.reason}", err=as_json)
    if as_json:
        print(json.dumps(board.as_object(found), ensure_ascii=False, allow_nan=False))
