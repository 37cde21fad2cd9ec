"""`bench predict`: one picture, one expression, one box in pixels of the original picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.flags import Preprocessing, as_options


def predict(
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="A name of `bench list pipelines`.")],
    text: Annotated[str, typer.Option("--text", "-t", help="The referring expression.")],
    image: Annotated[Path | None, typer.Option("--image", "-i", help="A picture file.")] = None,
    scene: Annotated[
        str | None, typer.Option("--scene", help="Instead of --image: SPLIT/ID of a split's scene.")
    ] = None,
    on: Annotated[str | None, typer.Option("--on", help="Take the weights and options for this data set.")] = None,
    weights: Annotated[str | None, typer.Option("--weights", help="Weights instead of the ones in bench.toml.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Tokenizer for pipelines that read one: a folder or a hub id.")
    ] = None,
    preprocessing: Annotated[
        Preprocessing | None, typer.Option(help="How a picture is made ready, for pipelines that know several ways.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the pipeline's table.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    deterministic: Annotated[bool | None, typer.Option("--deterministic", help="Deterministic kernels.")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Never touch the network.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the answer into this picture file.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A bench.toml.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout.")] = False,
) -> None:
    """Ground one expression in one picture."""
    import json as encoder

    from bench.settings import assignments, load_settings
    from bench.verbs.single import predict_one

    flags = {"device": device, "dtype": dtype, "seed": seed, "deterministic": deterministic, "offline": offline}
    resolved = load_settings(config, {f"run.{key}": value for key, value in flags.items()})
    own = {"weights": weights or None, "tokenizer": tokenizer or None, "preprocessing": preprocessing}
    with as_options(pipeline, own) as flagged:
        options = assignments(set_ or []) | flagged
        answer = predict_one(pipeline, text, resolved, image=image, scene=scene, dataset=on, options=options)
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


def _readable(record: dict[str, Any]) -> str:
    if record["box_xyxy"] is None:
        return f"no box for {record['text']!r}"
    box = ", ".join(f"{v:.1f}" for v in record["box_xyxy"])
    score = "" if record["score"] is None else f", score {record['score']:.3f}"
    of = "" if record["proposals"] is None else f", chosen from {len(record['proposals'])} proposals"
    note = f" ({record['note']})" if record["note"] else ""
    return f"[{box}] in {record['width']} x {record['height']}{score}{of}{note}"
