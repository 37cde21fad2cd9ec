"""`bench leaderboard`: the tables of results/, made from the runs that are there; published values, submissions and
other formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.cli.options import SPLIT, Config, Force, Json, Results, listed, settings_of
from bench.cli.output import echo, emit, table_console

if TYPE_CHECKING:
    from bench.settings import Resolved

app = typer.Typer(invoke_without_command=True)


@app.callback()
def leaderboard(
    context: typer.Context,
    results: Results = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit with 1 if the files are not the runs', or a run is damaged."),
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write LEADERBOARD.md, .csv and .json from the stored runs: a table for each split, protocol and data."""
    from bench.errors import UsageError
    from bench.reporting import leaderboard as board

    if context.invoked_subcommand:
        if results or check or config or as_json:
            raise UsageError(f"write options after the command: bench leaderboard {context.invoked_subcommand} ...")
        return
    resolved = settings_of(config, results)
    folder = stored_results(resolved)
    _made(board.check(folder, resolved) if check else board.write(folder), folder, check, as_json)


@app.command()
def submit(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of somebody else's run.")],
    split: Annotated[
        str | None, typer.Option("--split", "-s", help="Its split, if it is file:PATH.jsonl.", **SPLIT)
    ] = None,
    results: Results = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Add somebody else's run after a re-score of its predictions, and write the tables."""
    from bench.leaderboard.submission import submit as add
    from bench.reporting import leaderboard as board

    resolved = settings_of(config, results)
    folder = Path(resolved.settings.results)
    added = str(add(run, folder, resolved, split))
    echo(f"{added}: added; its predictions give the numbers of its record", err=as_json)
    _made(board.write(folder), folder, False, as_json, submitted=added)


@app.command()
def published(
    split: Annotated[str, typer.Argument(metavar="SPLIT", help="A split, for example refcoco-val.")],
    as_json: Json = False,
) -> None:
    """Print what papers published for a split, with sources."""
    from bench.reporting.published import find_published_split, on_split, print_published

    name = find_published_split(split)
    entries = on_split(name)
    print_published(name, entries, table_console(as_json))
    if as_json:
        rows = [{"value": e.values[name], **e.model_dump(mode="json", exclude={"values"})} for e in entries]
        emit({"split": name, "published": rows})


@app.command()
def export(
    format: Annotated[
        Literal["md", "csv", "latex", "hub", "fiftyone"], typer.Argument(metavar="FORMAT", help="The format.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PATH", help="File (md, csv, latex) or folder (hub, fiftyone).")
    ],
    split: Annotated[
        str | None, typer.Option("--split", "-s", help="Write the tables of this split only.", **SPLIT)
    ] = None,
    hub_dataset: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Id of the data set on the hub, for hub.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="With md, csv, latex: columns of LEADERBOARD.csv, a,b.", show_default="the format's"
        ),
    ] = None,
    force: Force = False,
    results: Results = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write the tables in another format: md, csv, latex, hub or fiftyone."""
    from bench.errors import UsageError
    from bench.reporting.leaderboard import FILES
    from bench.reporting.leaderboard import export as write_export

    if hub_dataset and format != "hub":
        raise UsageError(f"--hub-dataset means nothing for {format}; it goes with hub")
    if columns and format not in FILES:
        raise UsageError(f"--columns means nothing for {format}; it goes with {', '.join(FILES)}")
    resolved = settings_of(config, results)
    names = listed(columns or [])
    written = write_export(format, out, stored_results(resolved), resolved, split, hub_dataset, force, names)
    for path in written:
        echo(f"{path} written", err=as_json)
    if as_json:
        emit({"written": [str(path) for path in written]})


def stored_results(resolved: Resolved) -> Path:
    """Return the folder of results. Raises UsageError where there is none."""
    from bench.errors import UsageError

    folder = Path(resolved.settings.results)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such results folder; `bench run` makes one, --results names another")
    return folder


def _made(tables: Any, folder: Path, check: bool, as_json: bool, **more: str) -> None:
    """Print what the tables hold."""
    from bench.reporting.leaderboard import NAMES, as_object
    from bench.runs.integrity import has_hashes
    from bench.runs.record import read_record

    rows = sum(len(table.rows) for table in tables.boards)
    done = "is up to date" if check else "written"
    echo(f"{folder / NAMES[0]} {done}; runs: {rows}, tables: {len(tables.boards)}", err=as_json)
    hashed = [has_hashes(read_record(folder / row["run_dir"])) for table in tables.boards for row in table.rows]
    if old := hashed.count(False):
        echo(f"without hashes, as older versions left them: {old}; `bench verify --seal` checks them", err=as_json)
    for run, reason in tables.left_out:
        echo(f"left out: {run}: {reason}", err=as_json)
    if as_json:
        emit(as_object(tables) | more)
