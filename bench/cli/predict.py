"""`bench predict`: an image, an expression, a box in pixels of the original image; or a folder or JSONL of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli import options as opt
from bench.cli.output import echo, emit


def predict(
    pipeline: opt.Pipeline,
    text: Annotated[str | None, typer.Option("--text", "-t", metavar="TEXT", help="The referring expression.")] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            "-i",
            metavar="PATH",
            help="An image, or a folder; without --text each image has a .txt of expressions.",
        ),
    ] = None,
    scene: Annotated[
        str | None, typer.Option("--scene", metavar="SPLIT/ID", help="Use a scene of a split instead of --image.")
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option("--input", "-I", help='JSONL with {"image": ..., "text": ...} in each line.'),
    ] = None,
    on: opt.On = None,
    weights: opt.Weights = None,
    tokenizer: opt.Tokenizer = None,
    preprocessing: opt.Preprocessing = None,
    set_: opt.Set = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    seed: opt.Seed = None,
    deterministic: opt.Deterministic = False,
    offline: opt.Offline = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images in a batch, for many images.", rich_help_panel=opt.MORE)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Image file with the drawn box; for many images, a .jsonl of answers."),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option("--draw", metavar="FOLDER", help="Folder for drawings of many answers.")
    ] = None,
    several: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE", help="Return every box of at least that score, for one image.", rich_help_panel=opt.MORE
        ),
    ] = None,
    fresh: opt.Fresh = False,
    config: opt.Config = None,
    json: opt.Json = False,
) -> None:
    """Ground an expression in one image, or many: a folder with --image, a JSONL with --input.

    The answers about many images go into --out, one line an expression; the same command continues where it stopped.
    Exits with 3 when images could not be read: their lines say why, and the same command tries those again.
    """
    from bench.errors import UsageError

    how = {"device": device, "dtype": dtype, "seed": seed, "deterministic": deterministic, "offline": offline}
    resolved = opt.settings_of(config, None, **how, batch_size=batch_size)
    own = {"weights": weights or None, "tokenizer": tokenizer or None, "preprocessing": preprocessing}
    many = input_ is not None or (image is not None and image.is_dir())
    if many and scene is not None:
        raise UsageError("--scene names one image; it does not go with a folder or --input")
    if not many and (draw is not None or fresh or batch_size is not None):
        raise UsageError("--draw, --fresh and --batch-size are for many images: --image FOLDER or --input FILE.jsonl")
    if many and several is not None:
        raise UsageError("--several is for one image; of many, the best box of each expression is written")
    with opt.as_options(pipeline, opt.assignments(set_ or []), own) as options:
        if not many:
            from bench.predicting.one import ground_one

            answer = ground_one(pipeline, image, scene, text or "", resolved, on, options, several)
            if out is not None:
                answer.draw(out)
            record = answer.as_json()
            if json:
                emit(record)
            else:
                echo(_readable(record) + ("" if out is None else f"\ndrawn in {out}"))
            return
        from bench.predicting.expressions import requested
        from bench.predicting.many import answer_many

        scenes, images = requested(input_, image, text, draw, resolved)
        if out is None:
            raise UsageError("name the file for the answers: --out answers.jsonl")
        summary = answer_many(pipeline, scenes, images, out, resolved, on or "file", options, draw, fresh, input_)
    if json:
        emit(summary)
    else:
        kept = f" ({summary['kept']:,} were there)" if summary["kept"] else ""
        unread = f", {summary['errors']:,} images unreadable" if summary["errors"] else ""
        done = f"{summary['expressions']:,} answers about {summary['images']:,} images in {out}{kept}"
        echo(f"{done}: {summary['no_box']:,} without a box{unread}")
    if summary["errors"]:
        raise typer.Exit(3)


def _readable(record: dict[str, Any]) -> str:
    if "several" in record:
        lines = [
            f"[{', '.join(f'{v:.1f}' for v in each['box_xyxy'])}]"
            + ("" if each["score"] is None else f", score {each['score']:.3f}")
            for each in record["several"]
        ]
        return "\n".join([f"{len(lines)} boxes for {record['text']!r}", *lines])
    if record["box_xyxy"] is None:
        return f"no box for {record['text']!r}"
    box = ", ".join(f"{v:.1f}" for v in record["box_xyxy"])
    score = "" if record["score"] is None else f", score {record['score']:.3f}"
    of = "" if record["proposals"] is None else f", chosen from {len(record['proposals'])} proposals"
    note = f" ({record['note']})" if record["note"] else ""
    return f"[{box}] in {record['width']} x {record['height']}{score}{of}{note}"
