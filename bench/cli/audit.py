"""`bench audit`: the labels of a split that stored runs and the annotations themselves make doubtful; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import SPLIT, Config, Json, Results, settings_of
from bench.cli.output import echo, emit

LISTED = 20  # expressions on the terminal; --json and the page have all


def audit(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Two or more run folders, PIPELINE/SPLIT or, with --split, pipelines."),
    ],
    split: Annotated[
        str | None, typer.Option("--split", "-s", help="Split of the runs that are given by name.", **SPLIT)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a page on which a person flags each label.")
    ] = None,
    results: Results = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List labels that are doubtful: runs agree against them, or the same words have another box.

    The page saves a file of flags, which `bench score RUN --flags FILE` takes.
    """
    from bench.audit.doubts import audit as find_doubts
    from bench.comparison.compared_runs import find_runs

    resolved = settings_of(config, results)
    made = find_doubts(find_runs(runs, split, resolved), resolved, split)
    counts = made.counts()
    echo(
        "{doubtful:,} of {expressions:,} labels are doubtful: on {runs_agree:,} all runs miss and agree with one "
        "another (on another annotated object: {on_another_object:,}); {same_text:,} have words that have another box "
        "on the same image. All runs miss {missed_by_all:,}; {repeated:,} repeat an earlier text and box.".format(
            **counts
        ),
        err=as_json,
    )
    ids = list(made.known.position)
    rows = [
        {
            "id": ids[place],
            "file": made.known.files[made.known.image[place]],
            "text": made.known.texts[place],
            "runs_agree": bool(made.agreed[place]),
            "same_text": bool(made.same_text[place]),
            "other": ids[made.other[place]] if made.other[place] >= 0 else None,
        }
        for place in made.doubtful.tolist()
    ]
    for row in rows[:LISTED]:
        echo(f"  {row['id']}  {row['file']}  {row['text']}", err=as_json)
    if len(rows) > LISTED:
        echo(f"  and {len(rows) - LISTED:,} more; --json and --out have all", err=as_json)
    if out is not None:
        from bench.reporting.report.audit import write_page

        missing = write_page(made, out)
        echo(f"{out}: a page with {len(rows):,} labels to review", err=as_json)
        if missing:
            echo(f"images that cannot be drawn: {missing:,}; their boxes are on a blank frame", err=as_json)
    if as_json:
        emit({"counts": counts, "doubtful": rows})
