"""`bench predict`: a picture, an expression, a box in pixels of the original picture; or a folder or JSONL of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.flags import as_options
from bench.cli.options import Config, Deterministic, Device, Dtype, Json, Offline, Preprocessing, Seed, Set, Weights

if TYPE_CHECKING:
    from bench.settings import Resolved


def predict(
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="A name of `bench list pipelines`.")],
    text: Annotated[str | None, typer.Option("--text", "-t", help="The referring expression.")] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            "-i",
            help="A picture file; or a folder: --text asks about all, else the lines of a .txt beside each.",
        ),
    ] = None,
    scene: Annotated[
        str | None, typer.Option("--scene", help="Instead of --image: SPLIT/ID of a split's scene.")
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option("--input", "-I", help='Instead of --image: a JSONL, {"image": ..., "text": ...} a line.'),
    ] = None,
    on: Annotated[str | None, typer.Option("--on", help="Take the weights and options for this data set.")] = None,
    weights: Weights = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Tokenizer for pipelines that read one: a folder or a hub id.")
    ] = None,
    preprocessing: Preprocessing = None,
    set_: Set = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = None,
    deterministic: Deterministic = False,
    offline: Offline = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Of many: pictures in a batch.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Draw the answer into this picture file; of many, the answers: a .jsonl file."),
    ] = None,
    draw: Annotated[Path | None, typer.Option("--draw", help="Of many: draw every answer into this folder.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Of many: forget the answers that --out holds.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Ground one expression in one picture, or many: a folder with --image, a JSONL with --input.

    Of many, the answers go into --out, an expression a line; the same command goes on where it was stopped. Leaves with
    3 when pictures could not be read: their lines say why, and the same command tries just those again.
    """
    from bench.errors import UsageError
    from bench.settings import assignments, load_settings

    flags = {
        "device": device,
        "dtype": dtype,
        "seed": seed,
        "deterministic": deterministic or None,
        "offline": offline or None,
    }
    flags["batch_size"] = batch_size
    resolved = load_settings(config, {f"run.{key}": value for key, value in flags.items()})
    own = {"weights": weights or None, "tokenizer": tokenizer or None, "preprocessing": preprocessing}
    many = input_ is not None or (image is not None and image.is_dir())
    if many and scene is not None:
        raise UsageError("--scene names one picture; it does not go with a folder or --input")
    if not many and (draw is not None or fresh or batch_size is not None):
        raise UsageError("--draw, --fresh and --batch-size are for many pictures: --image FOLDER or --input FILE.jsonl")
    with as_options(pipeline, own) as flagged:
        options = assignments(set_ or []) | flagged
        if many:
            _ask_many(pipeline, image, input_, text, resolved, on, options, out, draw, fresh, json)
        else:
            _ask_one(pipeline, image, scene, text or "", resolved, on, options, out, json)


def _ask_one(
    pipeline: str,
    image: Path | None,
    scene: str | None,
    text: str,
    resolved: Resolved,
    on: str | None,
    options: dict[str, Any],
    out: Path | None,
    json: bool,
) -> None:
    import json as encoder

    from bench.errors import UsageError
    from bench.evaluation.opening import OWN_DATA, open_pipeline
    from bench.predicting.one import ask_about, picture_of, read_picture

    if not text.strip():
        raise UsageError("--text is empty: say what to look for")
    if (image is None) == (scene is None):
        raise UsageError("give either --image FILE or --scene SPLIT/ID")
    picture, dataset = (read_picture(image), OWN_DATA) if image is not None else picture_of(str(scene), resolved)
    opened = open_pipeline(pipeline, on or dataset, resolved, options)
    answer = ask_about(opened, str(image or scene), picture, [text], pipeline)[0]
    if out is not None:
        answer.draw(out)
    record = answer.as_json()
    if json:
        print(encoder.dumps(record))
        return
    from rich.console import Console

    Console().print(_readable(record), highlight=False, soft_wrap=True)
    if out is not None:
        Console().print(f"drawn in {out}", soft_wrap=True)


def _ask_many(
    pipeline: str,
    folder: Path | None,
    file: Path | None,
    text: str | None,
    resolved: Resolved,
    on: str | None,
    options: dict[str, Any],
    out: Path | None,
    draw: Path | None,
    fresh: bool,
    json: bool,
) -> None:
    import json as encoder

    from bench.errors import UsageError
    from bench.predicting.many import answer_many
    from bench.predicting.questions import questions_of_file, questions_of_folder

    if file is not None and (folder is not None or text is not None):
        raise UsageError("--input says itself which pictures and texts are meant; leave --image and --text away")
    if out is None:
        raise UsageError("say with --out answers.jsonl where the answers go")
    if file is not None:
        questions = questions_of_file(file, resolved)
    else:
        assert folder is not None
        questions = questions_of_folder(folder, text, but=[draw] if draw else [])
    found = answer_many(pipeline, questions, out, resolved, on or "file", options, draw, fresh)
    if json:
        print(encoder.dumps(found))
    else:
        from rich.console import Console

        kept = f" ({found['kept']:,} were there)" if found["kept"] else ""
        unread = f", {found['errors']:,} pictures unreadable" if found["errors"] else ""
        told = f"{found['expressions']:,} answers about {found['pictures']:,} pictures in {out}{kept}"
        Console().print(
            f"{told}: {found['no_box']:,} without a box{unread}", highlight=False, soft_wrap=True, markup=False
        )
    if found["errors"]:
        raise typer.Exit(3)


def _readable(record: dict[str, Any]) -> str:
    if record["box_xyxy"] is None:
        return f"no box for {record['text']!r}"
    box = ", ".join(f"{v:.1f}" for v in record["box_xyxy"])
    score = "" if record["score"] is None else f", score {record['score']:.3f}"
    of = "" if record["proposals"] is None else f", chosen from {len(record['proposals'])} proposals"
    note = f" ({record['note']})" if record["note"] else ""
    return f"[{box}] in {record['width']} x {record['height']}{score}{of}{note}"
