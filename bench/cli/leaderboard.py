"""`bench leaderboard`: the tables of results/, made from the runs that are there; published values, submissions and
other formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.cli.options import Config, Json, Results, settings_of
from bench.cli.output import emit

if TYPE_CHECKING:
    from bench.settings import Resolved


def leaderboard(
    results: Results = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 when the files are not what the runs give.")
    ] = False,
    submit: Annotated[
        Path | None,
        typer.Option(help="Take in somebody else's run folder, after a re-score of its predictions.", metavar="DIR"),
    ] = None,
    export: Annotated[
        Literal["md", "csv", "latex", "hub", "fiftyone"] | None,
        typer.Option(help="Write the tables in another format to --out."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File (md, csv, latex) or folder (hub, fiftyone) of --export.")
    ] = None,
    published: Annotated[
        str | None, typer.Option(help="Print what papers published for a split, with sources.", metavar="SPLIT")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", "-s", help="With --export: this split only. With --submit: its data, file:PATH.jsonl."),
    ] = None,
    hub_dataset: Annotated[
        str | None, typer.Option(help="With --export hub: the data set's id on the hub, OWNER/NAME.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --export: replace files that are there.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write LEADERBOARD.md, .csv and .json from the stored runs: one table for each split, protocol and data."""
    from bench.errors import UsageError

    modes = {"--check": check, "--submit": submit, "--export": export, "--published": published}
    given = [name for name, value in modes.items() if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other; give one of them")
    unused = {
        "--out": out and not export,
        "--force": force and not export,
        "--hub-dataset": hub_dataset and export != "hub",
        "--split": split and not (export or submit),
    }
    if first := next((name for name, wrong in unused.items() if wrong), None):
        raise UsageError(f"{first} means nothing here; `bench leaderboard --help` lists what it goes with")
    resolved = settings_of(config, results)
    folder = Path(resolved.settings.results)
    if published:
        summary = _published(published, as_json)
    elif export:
        from bench.reporting.leaderboard import export as write_export

        if out is None:
            raise UsageError(f"--export {export} needs --out PATH")
        written = write_export(export, out, folder, resolved, split, hub_dataset, force)
        for path in written:
            typer.echo(f"{path} written", err=as_json)
        summary = {"written": [str(path) for path in written]}
    else:
        summary = _tables(folder, check, submit, resolved, split, as_json)
    if as_json:
        emit(summary)


def _tables(
    folder: Path, check: bool, submit: Path | None, resolved: Resolved, split: str | None, as_json: bool
) -> dict[str, Any]:
    from bench.reporting import leaderboard as board

    submitted = {}
    if submit is not None:
        from bench.leaderboard.submission import submit as take_in

        submitted = {"submitted": str(take_in(submit, folder, resolved, split))}
        typer.echo(f"{submitted['submitted']}: taken; its predictions give the numbers of its record", err=as_json)
    tables = board.check(folder) if check else board.write(folder)
    rows = sum(len(table.rows) for table in tables.boards)
    done = "is up to date" if check else "written"
    typer.echo(f"{folder / board.NAMES[0]} {done}; runs: {rows}, tables: {len(tables.boards)}", err=as_json)
    for run, reason in tables.left_out:
        typer.echo(f"left out: {run}: {reason}", err=as_json)
    return board.as_object(tables) | submitted


def _published(split: str, as_json: bool) -> dict[str, Any]:
    from rich.console import Console

    from bench.datasets.load import find_split
    from bench.reporting.published import on_split, print_published

    dataset, part = find_split(split)
    name = f"{dataset.name}-{part.name}"
    entries = on_split(name)
    print_published(name, entries, Console(stderr=as_json))
    rows = [{"value": e.values[name], **e.model_dump(mode="json", exclude={"values"})} for e in entries]
    return {"split": name, "published": rows}
