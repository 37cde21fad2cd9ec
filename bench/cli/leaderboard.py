"""`bench leaderboard`: the tables of results/, made from the runs that are there; and what was published, others' runs
taken in, other formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.cli.options import Config, Json, Results

if TYPE_CHECKING:
    from bench.reporting.boards import Leaderboard


def leaderboard(
    results: Results = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; leave with 1 when the files are not what the runs give.")
    ] = False,
    submit: Annotated[
        Path | None,
        typer.Option(help="Take in somebody else's run folder, after a re-score of its predictions.", metavar="DIR"),
    ] = None,
    export: Annotated[
        Literal["md", "csv", "latex", "hub", "fiftyone"] | None,
        typer.Option(help="Write the tables in another format to --out.", show_default=False),
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
    from bench.settings import load_settings

    given = {"--check": check, "--submit": submit, "--export": export, "--published": published}
    asked = [name for name, value in given.items() if value]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} are asked for at once; give one of them")
    wrong = {
        "--out": out and not export,
        "--force": force and not export,
        "--hub-dataset": hub_dataset and export != "hub",
        "--split": split and not (export or submit),
    }
    if first := next((name for name, unused in wrong.items() if unused), None):
        raise UsageError(f"{first} means nothing here; `bench leaderboard --help` says what it goes with")
    resolved = load_settings(config, {"results": str(results) if results else None})
    folder = Path(resolved.settings.results)
    if published:
        said = _published(published, as_json)
    elif export:
        from bench.reporting.exports.writing import export as write_export

        if out is None:
            raise UsageError(f"--export {export} needs --out PATH")
        written = write_export(export, out, folder, resolved, split, hub_dataset, force)
        for path in written:
            typer.echo(f"{path} written", err=as_json)
        said = {"written": [str(path) for path in written]}
    else:
        said = _tables(folder, check, _submitted(submit, folder, resolved, split, as_json), as_json)
    if as_json:
        import json

        print(json.dumps(said, ensure_ascii=False, allow_nan=False))


def _submitted(submit: Path | None, folder: Path, resolved: Any, split: str | None, as_json: bool) -> Path | None:
    if submit is None:
        return None
    from bench.verbs.submission import submit as take

    taken = take(submit, folder, resolved, split)
    typer.echo(f"{taken}: taken; its predictions give what its record says", err=as_json)
    return taken


def _tables(folder: Path, check: bool, taken: Path | None, as_json: bool) -> dict[str, Any]:
    from bench.reporting import leaderboard as board

    found: Leaderboard = board.check(folder) if check else board.write(folder)
    shown = sum(len(table.rows) for table in found.boards)
    done = "is up to date" if check else "written"
    typer.echo(f"{folder / board.NAMES[0]} {done}; runs shown: {shown}, tables: {len(found.boards)}", err=as_json)
    for entry in found.left_out:
        typer.echo(f"left out: {entry.run}: {entry.reason}", err=as_json)
    return board.as_object(found) | ({} if taken is None else {"submitted": str(taken)})


def _published(split: str, as_json: bool) -> dict[str, Any]:
    from rich.console import Console

    from bench.datasets.load import find_split
    from bench.reporting.published import on_split, print_published

    dataset, part = find_split(split)
    name = f"{dataset.name}-{part.name}"
    found = on_split(name)
    print_published(name, found, Console(stderr=as_json))
    kept = [{"value": e.values[name], **e.model_dump(mode="json", exclude={"values"})} for e in found]
    return {"split": name, "published": kept}
