"""`bench train`: a pipeline's own weights, from a split, by the recipe in bench.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.options import Config, Device, Json, Limit, Offline, Seed, Set, settings_of
from bench.cli.output import emit, log_to_stderr


def train(
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="A pipeline that can be trained.")],
    split: Annotated[str, typer.Option("--split", "-s", help="What to train on, for example shapes-train.")],
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            "--labels",
            help="Expressions from this file instead, about the split's images: an index list (.pth) or a .jsonl, "
            "pseudo-labels too; may be repeated.",
        ),
    ] = None,
    curriculum: Annotated[
        Literal["single", "multi"] | None,
        typer.Option("--curriculum", help="Select among the rows of --labels first: CLIP-VG's SSA or MSA."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what the curriculum would do and cost.")
    ] = False,
    part: Annotated[str | None, typer.Option("--part", help="Only one of what it trains, e.g. detector.")] = None,
    validate: Annotated[
        str | None,
        typer.Option(
            "--validate", help="Split that weights are chosen by and scored on.", show_default="the data set's val"
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the weights.")] = Path("weights"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew, not from a stopped training.")] = False,
    limit: Limit = None,
    set_: Set = None,
    device: Device = None,
    seed: Seed = None,
    offline: Offline = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Train a pipeline's weights; beside each file lies the command, seed and score that made it.

    The same command resumes a training that was stopped. On several GPUs: torchrun --nproc-per-node 8 --no-python
    bench train ...; the steps stay the same, and rank 0 writes.
    """
    import logging

    from bench.runs.shards import from_environment
    from bench.settings import assignments

    leads = from_environment().index == 0
    log_to_stderr("bench.train", leads)
    logging.getLogger("bench.train").info("%s on %s: loading", pipeline, split)  # the imports below take seconds
    resolved = settings_of(config, device=device, seed=seed, offline=offline)
    recipe = assignments(set_ or [])
    from bench.training.jobs import train_pipeline

    made = train_pipeline(
        pipeline, split, resolved, part, validate, out, limit, recipe, labels or [], fresh, curriculum, dry_run
    )
    if json and leads:
        emit({"weights": made})
    elif leads:
        for name, path in made.items():
            typer.echo(f"{name}: {path}")
