"""`bench label`: pseudo-labels for pictures, and what there is to do with them: stats, export, score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import label_score
from bench.cli.options import Config, Device, Json, Offline, Seed

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Make pseudo-labels for pictures; no annotation is read. Then look at them, export and score them.",
    invoke_without_command=True,
    no_args_is_help=True,
)
Files = Annotated[list[Path], typer.Argument(help="Pseudo-labels: .jsonl, or with --split official lists (.pth).")]
Threshold = Annotated[
    float, typer.Option("--threshold", help="Reliability that the lists' names say their rows were kept at.")
]


@app.callback()
def label(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Option("--source", help="What says the words: template, relation or caption.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", "-s", help="Whose pictures, e.g. shapes-train.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Instead of a split: every picture in this folder.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The .jsonl to write (and its record, a .json beside it).")
    ] = None,
    lists: Annotated[Path | None, typer.Option(help="Folder for the official lists (.pth) besides.")] = None,
    threshold: Threshold = 0.5,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N pictures.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the source's options, e.g. per_picture=3.")
    ] = None,
    device: Device = None,
    seed: Seed = None,
    offline: Offline = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Makes pseudo-labels, unless a verb of `bench label` was named. The help text is the app's."""
    from bench.errors import UsageError

    if context.invoked_subcommand is not None:
        if source is not None or out is not None:
            raise UsageError(f"bench label {context.invoked_subcommand}: its options come after its name")
        return
    for flag, given in (("--source", source), ("--out", out)):
        if given is None:
            raise UsageError(
                f"bench label: {flag} is needed, as in --source template --split shapes-train --out t.jsonl"
            )
    import json as encoder

    from bench.cli.logs import log_to_stderr
    from bench.settings import assignments, load_settings
    from bench.verbs.labelling import Asked, make_labels

    log_to_stderr("bench.label")
    resolved = load_settings(config, {"run.device": device, "run.seed": seed, "run.offline": offline or None})
    options = assignments(set_ or [])
    asked = Asked(str(source), Path(str(out)), split, pictures, limit, options, lists, threshold)
    record = make_labels(asked, resolved)
    if json:
        print(encoder.dumps({"file": str(out), **record}, default=str))
        return
    console = _console()
    console.print(_summary(record, str(out)), markup=False)
    for name in record.get("lists", ()):
        console.print(f"  {lists}/{name}", markup=False)


@app.command()
def stats(
    files: Files,
    split: Annotated[str | None, typer.Option("--split", "-s", help="Whose pictures they are about.")] = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Draw a contact sheet of them in this file.")] = None,
    pictures: Annotated[int, typer.Option(min=1, max=200, help="Pictures on the sheet, spread over all.")] = 12,
    config: Config = None,
    json: Json = False,
) -> None:
    """Count rows, pictures, words, duplicates and box sizes, by source; draw a contact sheet."""
    import json as encoder

    from bench.reporting.label_stats import print_stats
    from bench.settings import load_settings
    from bench.verbs.label_files import draw_sheet, statistics

    resolved = load_settings(config)
    found = statistics(files, split, resolved)
    if sheet is not None:
        draw_sheet(files, split, resolved, sheet, pictures)
    if json:
        print(encoder.dumps({"files": [str(path) for path in files], "sources": found}))
        return
    print_stats(found)
    if sheet is not None:
        _console().print(f"drawn in {sheet}", markup=False)


@app.command()
def export(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="Folder; the lists go into its folder of the data set.")],
    split: Annotated[str | None, typer.Option("--split", "-s", help="Whose pictures they are about.")] = None,
    threshold: Threshold = 0.5,
    json: Json = False,
) -> None:
    """Write pseudo-labels as the official lists: one a source, and one of all that lie there, merged in order."""
    import json as encoder

    from bench.datasets.pseudo_lists import export_lists
    from bench.verbs.label_files import dataset_of_labels

    written = export_lists(files, out, dataset_of_labels(files, split), threshold)
    if json:
        print(encoder.dumps({"lists": [str(path) for path in written]}))
        return
    for path in written:
        _console().print(str(path), markup=False)


app.command("score")(label_score.score)


def _summary(record: dict[str, Any], out: str) -> str:
    without, twice = record["pictures_without_rows"], record["duplicates_dropped"]
    return (
        f"{record['rows']:,} rows about {record['pictures_with_rows']:,} pictures in {out} "
        f"({without:,} pictures without a row, {twice:,} duplicates dropped); "
        f"{record['seconds']:,.1f} s, {record['rows_per_s'] or 0:,.0f} rows/s"
    )


def _console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False)
