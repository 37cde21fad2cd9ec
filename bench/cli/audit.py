"""`bench audit` and `bench data review`: labels that are doubtful, and flags that say so; no torch, no images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import SPLIT, Config, Json, Results, settings_of
from bench.cli.output import echo, emit

SHOWN = 20  # expressions on the terminal; --json and the page have all


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
    for row in rows[:SHOWN]:
        echo(f"  {row['id']}  {row['file']}  {row['text']}", err=as_json)
    if len(rows) > SHOWN:
        echo(f"  and {len(rows) - SHOWN:,} more; --json and --out have all", err=as_json)
    if out is not None:
        from bench.reporting.report.audit import write_page

        missing = write_page(made, out)
        echo(f"{out}: a page with {len(rows):,} labels to judge", err=as_json)
        if missing:
            echo(f"images that cannot be drawn: {missing:,}; their boxes are on a blank frame", err=as_json)
    if as_json:
        emit({"counts": counts, "doubtful": rows})


def review(
    split: Annotated[str, typer.Argument(metavar="SPLIT", help="The split that was reviewed: refcoco-val.")],
    reviewed: Annotated[Path, typer.Option(metavar="FILE", help="JSON or JSONL with a row a reviewed expression.")],
    doubtful: Annotated[
        str, typer.Option(metavar="KEY=VALUE,...", help="Key of a row, and what it says of a wrong label.")
    ] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of flags to write.")] = Path("flags.json"),
    xyxy: Annotated[
        bool, typer.Option("--xyxy", help="The file's boxes are corners, not x, y, width, height.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Turn somebody's review of a split into flags, matched by id, by object and text, or by box and text.

    Without --doubtful the keys of the file are listed.
    """
    from dataclasses import asdict

    from bench.audit.flags import read_review, write_flags
    from bench.datasets.load import load_split
    from bench.errors import DataError

    data = load_split(split, settings_of(config))
    made = read_review(reviewed, data, doubtful, xywh=not xyxy)
    if not made.flags:
        raise DataError(f"{reviewed}: not one of its {made.rows:,} rows matches {data.name}; is it another split's?")
    write_flags(out, data, made.flags, reviewed.name)
    wrong = sum(flag == "doubtful" for flag in made.flags.values())
    echo(
        f"{out}: {len(made.flags):,} expressions of {data.name} have a flag, {wrong:,} of them doubtful. Rows matched "
        f"by id {made.by_id:,}, by object {made.by_target:,}, by box {made.by_box:,}; not matched: {made.unmatched:,} "
        f"of {made.rows:,}",
        err=json,
    )
    if json:
        emit(asdict(made) | {"out": out, "unmatched": made.unmatched})
