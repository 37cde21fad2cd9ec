"""`bench table`: the table that papers print, of published values and stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.leaderboard import stored_results
from bench.cli.options import MORE, Config, Force, Json, Results, listed, settings_of
from bench.cli.output import echo, emit


def table(
    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--splits", "--split", "-s", help="Data sets and splits: a,b.", show_default="refcoco,refcoco+,refcocog"
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="ROW", help="Mark significant differences from this row of our runs.")
    ] = None,
    format: Annotated[Literal["md", "csv", "latex"], typer.Option("--format", "-f", help="The format.")] = "md",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to write.", show_default="stdout")] = None,
    published: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD", help="Published rows: a method, all or none; may be repeated.", show_default="usual ones"
        ),
    ] = None,
    metric: Annotated[
        Literal["acc@0.5", "acc@0.7", "acc@0.9", "mean_iou", "mask_miou", "ciou"],
        typer.Option(help="Number in the columns."),
    ] = "acc@0.5",
    protocol: Annotated[
        str,
        typer.Option(
            help="Protocol of our runs: iou, strict, giou, letterbox-clamped or letterbox-dilated.",
            rich_help_panel=MORE,
        ),
    ] = "iou",
    force: Force = False,
    results: Results = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Print the table that papers print: methods in rows, splits in columns, published rows above ours."""
    from bench.datasets.load import FILE, load_split
    from bench.errors import UsageError
    from bench.evaluation.protocols import protocol as protocol_named
    from bench.reporting.exports.paper import paper_csv, paper_latex, paper_markdown
    from bench.reporting.paper_table import paper_splits, paper_table
    from bench.runs.files import make_folder, write_atomically

    if out is not None and out.is_dir():
        raise UsageError(f"--out {out} is a folder; name the file to write")
    if out is not None and out.exists() and not force:
        raise UsageError(f"--out {out} exists; --force replaces it")
    resolved = settings_of(config, results)
    folder, names = stored_results(resolved), listed(splits or ["refcoco,refcoco+,refcocog"])
    columns = paper_splits(names)
    own = (load_split(n, resolved) for n in names if n.startswith(FILE) and Path(n.removeprefix(FILE)).is_file())
    data = {split.name: split.fingerprint for split in own}
    made = paper_table(folder, columns, against, metric, protocol_named(protocol).name, published or (), data)
    text = {"md": paper_markdown, "csv": paper_csv, "latex": paper_latex}[format](made)
    for note in made.notes:
        echo(note, err=True)
    if out is not None:
        make_folder(out.parent)
        write_atomically(out, text.encode())
        echo(f"{out}: rows: {len(made.rows)}, columns: {len(columns)}", err=as_json)
    else:
        echo(text, nl=False, err=as_json)
    if as_json:
        emit(
            {
                "splits": columns,
                **{key: getattr(made, key) for key in ("metric", "protocol", "against", "tests", "notes")},
                "rows": [
                    {
                        **{key: getattr(row, key) for key in ("name", "training", "backbone", "protocols", "values")},
                        "ours": not row.sources,
                        "sources": row.sources or {split: run for split, (_, run) in row.runs.items()},
                        "marks": [word for _, word in row.marks],
                        "signs": row.signs,
                        "p_holm": row.p,
                    }
                    for row in made.rows
                ],
            }
        )
