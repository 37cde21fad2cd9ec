"""`bench train`: a pipeline's own weights, from a split, by the recipe in bench.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.cli import options as opt
from bench.cli.output import console_of, echo, emit, log_to_stderr, table_console, table_of

if TYPE_CHECKING:
    from bench.settings import Resolved


def train(
    pipeline: opt.Pipeline,
    split: Annotated[
        str,
        typer.Option("--split", "-s", help="Split to train on, e.g. shapes-train or file:PATH.jsonl.", **opt.SPLIT),
    ],
    validate: Annotated[
        str | None,
        typer.Option(
            "--validate",
            help="Split to choose weights by and to score on.",
            show_default="the data set's val",
            **opt.SPLIT,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the weights.")] = Path(
        "weights"
    ),
    labels: Annotated[
        list[Path] | None,
        typer.Option("--labels", help="Pseudo-labels or an index list (.jsonl, .pth) about the split's images."),
    ] = None,
    curriculum: Annotated[
        Literal["single", "multi"] | None,
        typer.Option("--curriculum", help="Select among the rows of --labels: CLIP-VG's SSA or MSA."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="FILE", help="Weights to start from instead of bench.toml's.")
    ] = None,
    on: opt.On = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Largest batch of a process.", show_default="64")
    ] = None,
    set_: opt.Set = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use only the first N images.", rich_help_panel=opt.MORE)
    ] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", help="Train only this part of the pipeline, e.g. detector.", rich_help_panel=opt.MORE),
    ] = None,
    tokenizer: opt.Tokenizer = None,
    preprocessing: opt.Preprocessing = None,
    fresh: opt.Fresh = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print what the curriculum would do and cost, and stop.", rich_help_panel=opt.MORE
        ),
    ] = False,
    check_step: Annotated[
        bool,
        typer.Option(
            "--check-step",
            help="Print the first step's losses, gradient norms and boxes (float32, on the CPU), and stop.",
            rich_help_panel=opt.MORE,
        ),
    ] = False,
    seed: opt.Seed = None,
    offline: opt.Offline = False,
    config: opt.Config = None,
    json: opt.Json = False,
) -> None:
    """Train a pipeline's weights. A record beside each file names the command, seed and score that made it.

    The same command resumes a training that was stopped. On several GPUs: torchrun --nproc-per-node 8 --no-python
    bench train ...; the steps stay the same, and rank 0 writes.
    """
    from bench.runs.shards import from_environment

    leads = from_environment().index == 0
    own = {
        "start_from": weights,
        "tokenizer": tokenizer or None,
        "preprocessing": preprocessing,
        "dtype": dtype,
        "batch": batch_size,
    }
    if check_step:
        resolved = opt.settings_of(config, device=device or "cpu", dtype="float32", seed=seed, offline=offline)
        with opt.as_options(pipeline, opt.assignments(set_ or []), own) as recipe:
            step = _first_step(pipeline, split, resolved, recipe, part, limit)
        if json:
            emit(step)
        else:
            console_of().print(table_of((), _lines(step)))
        return
    log_to_stderr("bench.train", leads)
    resolved = opt.settings_of(config, device=device, dtype=dtype, seed=seed, offline=offline)
    from bench.evaluation.progress import saying_how_to_go_on

    how = f"stopped; the same command continues what is stored under {out}"
    with opt.as_options(pipeline, opt.assignments(set_ or []), own) as recipe, saying_how_to_go_on(how):
        from bench.training.jobs import train_pipeline

        made = train_pipeline(
            *(pipeline, split, resolved, part, validate, out, limit, recipe),
            *(labels or [], fresh, curriculum, dry_run),
            on=on,
        )
    for name, path in made.items() if leads else ():
        _compare_with_start(pipeline, name, path, resolved, on, json)
    if json and leads:
        emit({"weights": made})
    elif leads:
        for name, path in made.items():
            echo(f"{name}: {path}")


def _compare_with_start(
    pipeline: str, part: str, path: Path, resolved: Resolved, on: str | None, as_json: bool
) -> None:
    """Print `bench compare` of the pipelines that a training names in its record, and of the one with its weights."""
    named = loads(path.with_suffix(".json").read_text(encoding="utf-8"))["training"].get("compare")
    if not named:
        return
    from bench.comparison.compare import compare
    from bench.datasets.load import load_split
    from bench.evaluation.loop import evaluate
    from bench.reporting.comparison_text import print_comparison

    settings = resolved.settings
    stored = replace(resolved, settings=settings.model_copy(update={"results": str(path.parent / "compared")}))
    split, rule = load_split(named["split"], resolved), settings.evaluation
    options = {"tuned": {"weights": f"{part}={path.resolve()}"}, **named["pipelines"]}
    runs = [evaluate(pipeline, split, stored, table, on=on, beside=True).folder for table in options.values()]
    compared = compare(runs, rule.draws, rule.seed, rule.confidence, baseline_only=True, labels=list(options))
    print_comparison(compared, table_console(as_json))


def _first_step(
    pipeline: str, split: str, resolved: Any, recipe: Mapping[str, Any], part: str | None, limit: int | None
) -> dict[str, Any]:
    from bench.training.gradient_check import first_step

    step = first_step(pipeline, split, resolved, recipe, part, limit)
    return {"pipeline": pipeline, "split": split, **step}


def _lines(step: Mapping[str, Any], indent: str = "") -> list[tuple[str, str]]:
    """Write a step's numbers, one a line and a table below its name; lists (boxes) are left to JSON."""
    lines = []
    for key, value in step.items():
        if isinstance(value, Mapping):
            lines += [("", ""), (key.replace("_", " "), ""), *_lines(value, "  ")]
        elif not isinstance(value, list):
            name = key if indent else key.replace("_", " ")
            lines.append((f"{indent}{name}", f"{value:.8g}" if isinstance(value, float) else str(value)))
    return lines
