"""`bench frames`: imported predictions scored in every usual coordinate frame; a diagnosis that is not stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import SPLIT, Config, Json, Key, Xywh, settings_of
from bench.cli.output import console_of, emit, table_of


def frames(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON or JSONL with predictions.")],
    split: Annotated[
        str, typer.Option("--split", "-s", help="Split of the boxes: refcoco-val, file:PATH.jsonl.", **SPLIT)
    ],
    xywh: Xywh = False,
    key: Key = "auto",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Score a file of predictions in every usual coordinate frame, to find the one they are in.

    It is a diagnosis, not a score: the frame is chosen by the ground truth, and nothing is stored. Expressions without
    a row are left out, so the first hundred rows are enough.
    """
    from bench.datasets.load import load_split
    from bench.imported.alignment import align
    from bench.imported.box_files import read_boxes
    from bench.imported.frames import score_frames, with_sizes
    from bench.reporting.cells import interval, percent

    resolved = settings_of(config)
    data = with_sizes(load_split(split, resolved))
    aligned = align(read_boxes(file, xywh, "row" if key == "row" else "id"), data, key, str(file))
    result = score_frames(data, aligned.answers, xywh, resolved.settings.evaluation)
    if as_json:
        emit({"file": str(file), "split": data.name, **result})
        return
    console = console_of()
    console.print(
        f"{file} on {data.name}: {result['n']:,} expressions with a row, {result['images']:,} images.\n"
        "A diagnosis, not a score; nothing is stored.\n",
        markup=False,
    )
    rows = [
        (
            f"{f['frame']} (declared)" if f["frame"] == result["declared"] else f["frame"],
            percent(f["acc@0.5"]),
            interval(f["ci95"]),
            f"{f['no_box']:,}",
        )
        for f in result["frames"]
        if f["hits"] is not None
    ]
    level = f"{100 * resolved.settings.evaluation.confidence:g} % interval"
    console.print(table_of(("frame", "Acc@0.5", level, "no box"), rows, right=("Acc@0.5", level, "no box")))
    if left := [f["frame"] for f in result["frames"] if f["hits"] is None]:
        own = split.startswith("file:")
        how = "give rows a width and a height" if own else "prepare with --images (bench data prepare --help)"
        console.print(f"\nneeds image sizes: {how}\n  {'; '.join(left)}", markup=False)
    if result["warning"]:
        console.print(f"\nwarning: {result['warning']}", style="yellow", markup=False)
