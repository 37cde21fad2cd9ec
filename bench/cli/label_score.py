"""`bench label score`: how far measurers agree with pseudo-labels, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import BatchSize, Config, Device, Dtype, Json, Offline, Set


def score(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Pseudo-labels, a source each: .jsonl or official lists (.pth).")
    ] = None,
    measurer: Annotated[
        list[str] | None, typer.Option("--measurer", "-m", help="Weights that score them; may be repeated.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", "-s", help="Whose pictures, e.g. shapes-train.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the rows, the record and the histograms.")] = Path(
        "reliability"
    ),
    result: Annotated[
        Path | None, typer.Option("--from", help="Instead: an official ..._iou_result.pth to draw and tabulate.")
    ] = None,
    lists: Annotated[bool, typer.Option("--lists", help="Write the official refine and iou_result files too.")] = False,
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="Whose weights the measurers are.")] = "clipvg",
    protocol: Annotated[
        str, typer.Option("--protocol", help="Of the IoU: iou, or letterbox-clamped as the official scorer.")
    ] = "iou",
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    set_: Set = None,
    offline: Offline = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Score pseudo-labels: the IoU of each measurer's box with each row's own, and its histograms.

    Every measurer scores every file; pairs that are done in the folder are not scored again.
    """
    import json as encoder

    from rich.console import Console

    from bench.cli.logs import log_to_stderr
    from bench.errors import UsageError
    from bench.labelling.scoring import score_labels, show_official
    from bench.reporting.reliability import print_pairs
    from bench.runs.reliability import PICTURE
    from bench.settings import assignments, load_settings

    log_to_stderr("bench.label")
    if result is not None:
        if files or measurer or lists:
            raise UsageError("--from draws a result that is there: it takes no label files, --measurer or --lists")
        record = show_official(result, out)
    else:
        if not files or not measurer or split is None:
            missing = [n for n, g in (("a label file", files), ("--measurer", measurer), ("--split", split)) if not g]
            raise UsageError(
                f"{' and '.join(missing)} missing: bench label score template.jsonl --measurer WEIGHTS "
                "--split shapes-train --out FOLDER (or --from FILE_iou_result.pth)"
            )
        run = {"device": device, "dtype": dtype, "batch_size": batch_size, "offline": offline or None}
        resolved = load_settings(config, {f"run.{key}": value for key, value in run.items()})
        options = assignments(set_ or [])
        record = score_labels(measurer, files, split, out, resolved, pipeline, options, protocol, lists)
    print_pairs(record["pairs"], Console(stderr=json))
    Console(stderr=json).print(f"{out / PICTURE}", markup=False, highlight=False, soft_wrap=True)
    if json:
        kept = [{k: v for k, v in pair.items() if k != "counts"} for pair in record["pairs"]]
        print(encoder.dumps({"folder": str(out), **record, "pairs": kept}, ensure_ascii=False))
