"""`bench report`: the runs of a split as one HTML file, with every answer on its image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import SPLIT, Config, Json, Results, settings_of
from bench.cli.output import echo, emit


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Run folders or pipelines.",
            show_default="the rows of the leaderboard",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", "-s", help="Split of the runs: shapes-val, refcoco-val, file:PATH.jsonl.", **SPLIT)
    ] = "shapes-val",
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")] = Path("report.html"),
    limit: Annotated[int | None, typer.Option(min=1, help="Show the first N images in the gallery.")] = None,
    thumbnail: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Longer side of the images.", show_default="as large as 25 MB allow"),
    ] = None,
    training: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Show the curves of this training; may be repeated.")
    ] = None,
    reliability: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Show the histograms of this `bench label score`.")
    ] = None,
    results: Results = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file: tables, comparison, charts and a gallery of every answer.

    It opens in any browser, needs no server and fetches nothing.
    """
    from bench.datasets.load import load_split
    from bench.reporting.report.page import write_report
    from bench.reporting.report.selection import choose

    resolved = settings_of(config, results)
    folder = Path(resolved.settings.results)
    answered, chosen = choose(runs or [], load_split(split, resolved), folder)
    made = write_report(answered, chosen, out, limit, thumbnail, training or (), reliability or ())
    echo(
        "{path}: {mb:.1f} MB; pipelines: {runs}, expressions: {expressions:,}, "
        "images: {images:,} of at most {thumbnail} pixels".format(mb=made["bytes"] / 1e6, **made),
        err=as_json,
    )
    if made["missing"]:
        echo(f"images that cannot be drawn: {made['missing']:,} (the report states why)", err=as_json)
    if as_json:
        emit(made)
