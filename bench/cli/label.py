"""`bench label`: pseudo-labels for images, and what there is to do with them: stats, export, score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import (
    SPLIT,
    BatchSize,
    Config,
    Device,
    Dtype,
    Json,
    Limit,
    Offline,
    Seed,
    Set,
    assignments,
    pipeline_names,
    settings_of,
)
from bench.cli.output import echo, emit, log_to_stderr, table_console

app = typer.Typer(
    help="Make pseudo-labels for images, without their annotations; count, export and score them.",
    invoke_without_command=True,
    no_args_is_help=True,
)
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="Pseudo-labels: .jsonl or, with --split, official lists (.pth).")
]
Split = Annotated[str | None, typer.Option("--split", "-s", help="Split of the images, e.g. shapes-train.", **SPLIT)]
Threshold = Annotated[float, typer.Option("--threshold", help="Reliability threshold, part of the lists' names.")]


@app.callback()
def label(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Option("--source", help="Source of the expressions: template, relation or caption.")
    ] = None,
    split: Split = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of images, instead of a split's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .jsonl file to write; its record is a .json beside it.")
    ] = None,
    lists: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the official lists (.pth) in this folder too.")
    ] = None,
    threshold: Threshold = 0.5,
    limit: Limit = None,
    set_: Set = None,
    device: Device = None,
    seed: Seed = None,
    offline: Offline = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make pseudo-labels, unless a command of `bench label` is named. The help text is the app's."""
    from bench.errors import UsageError

    if context.invoked_subcommand is not None:
        if source is not None or out is not None:
            raise UsageError(f"bench label {context.invoked_subcommand}: its options come after its name")
        return
    if source is None or out is None:
        flag = "--source" if source is None else "--out"
        raise UsageError(f"bench label: {flag} is needed, as in --source template --split shapes-train --out t.jsonl")
    from bench.evaluation.progress import saying_how_to_go_on
    from bench.labelling.making import make_labels

    log_to_stderr("bench.label")
    resolved = settings_of(config, device=device, seed=seed, offline=offline)
    with saying_how_to_go_on(f"stopped; {out} is as it was, and the same command continues after the last image"):
        record = make_labels(source, out, resolved, split, images, limit, assignments(set_ or []), lists, threshold)
    if json:
        emit({"file": out, **record})
        return
    without, twice = record["images_without_rows"], record["duplicates_dropped"]
    echo(
        f"{record['rows']:,} rows about {record['images_with_rows']:,} images in {out} "
        f"({without:,} images without a row, {twice:,} duplicates dropped); {record['seconds']:,.1f} s, "
        + (
            f"{record['rows_per_s']:,.0f} rows/s"
            if record["rows_per_s"]
            else f"{record['continued_after']:,} images before"
        )
    )
    for name in record.get("lists", ()):
        echo(f"  {lists}/{name}")


@app.command()
def stats(
    files: Files,
    split: Split = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Draw a contact sheet in this file.")] = None,
    scenes: Annotated[int, typer.Option(min=1, max=200, help="Number of scenes on the sheet.")] = 12,
    config: Config = None,
    json: Json = False,
) -> None:
    """Count rows, images, words, duplicates and box sizes, by source; draw a contact sheet."""
    from bench.labelling.statistics import draw_sheet, statistics
    from bench.reporting.label_stats import print_stats

    resolved = settings_of(config)
    counted = statistics(files, split, resolved)
    if sheet is not None:
        draw_sheet(files, split, resolved, sheet, scenes)
    if json:
        emit({"files": [str(path) for path in files], "sources": counted})
        return
    print_stats(counted)
    if sheet is not None:
        echo(f"drawn in {sheet}")


@app.command()
def export(
    files: Files,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder; the lists go into DATASET/ in it.")
    ],
    split: Split = None,
    threshold: Threshold = 0.5,
    json: Json = False,
) -> None:
    """Write pseudo-labels as official lists: one for each source, and one of all sources merged in order."""
    from bench.labelling.label_files import export_lists
    from bench.labelling.statistics import dataset_of_labels

    written = export_lists(files, out, dataset_of_labels(files, split), threshold)
    if json:
        emit({"lists": written})
        return
    for path in written:
        echo(path)


@app.command()
def score(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Pseudo-labels, one file a source: .jsonl or official lists (.pth)."),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option("--scorer", "-m", metavar="FILE", help="Weights that score the labels; may be repeated."),
    ] = None,
    split: Split = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the rows, record and histograms.")
    ] = Path("reliability"),
    result: Annotated[Path | None, typer.Option("--from", help="Show an official ..._iou_result.pth instead.")] = None,
    official_files: Annotated[
        bool, typer.Option("--official-files", help="Write the official refine and iou_result files too.")
    ] = False,
    pipeline: Annotated[
        str, typer.Option("--pipeline", "-p", help="Pipeline of the scorers.", autocompletion=pipeline_names)
    ] = "clipvg",
    protocol: Annotated[
        str, typer.Option("--protocol", help="IoU to use: iou, or letterbox-clamped like the official scorer.")
    ] = "iou",
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    set_: Set = None,
    offline: Offline = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Score pseudo-labels by the IoU of each scorer's box with the row's own box, and draw histograms.

    Every scorer scores every file; pairs already in the folder are not scored again.
    """
    from bench.errors import UsageError
    from bench.evaluation.progress import saying_how_to_go_on
    from bench.labelling.scorer_files import show_official
    from bench.labelling.scoring import score_labels
    from bench.reporting.reliability_table import print_pairs
    from bench.runs.reliability import IMAGE

    log_to_stderr("bench.label")
    if result is not None:
        if files or scorer or official_files:
            raise UsageError("--from shows an existing result: it takes no label files, --scorer or --official-files")
        record = show_official(result, out)
    else:
        if not files or not scorer or split is None:
            missing = [n for n, g in (("a label file", files), ("--scorer", scorer), ("--split", split)) if not g]
            raise UsageError(
                f"{' and '.join(missing)} missing: bench label score template.jsonl --scorer WEIGHTS "
                "--split shapes-train --out FOLDER (or --from FILE_iou_result.pth)"
            )
        resolved = settings_of(config, device=device, dtype=dtype, batch_size=batch_size, offline=offline)
        options = assignments(set_ or [])
        with saying_how_to_go_on(f"stopped; the same command continues ({out})"):
            record = score_labels(scorer, files, split, out, resolved, pipeline, options, protocol, official_files)
    print_pairs(record["pairs"], table_console(json))
    echo(out / IMAGE, err=json)
    if json:
        pairs = [{k: v for k, v in pair.items() if k != "counts"} for pair in record["pairs"]]
        emit({"folder": out, **record, "pairs": pairs})
