"""`bench run`: pipelines against splits, every pair of them a run of its own under results/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.cli import options as opt
from bench.cli.output import console_of, echo, emit, table_console, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.comparison.compare import Comparison
    from bench.evaluation.study import Pair
    from bench.runs.store import Run


Kind = Literal["shuffle-words", "drop-relations", "mirror", "prompt", "jpeg", "resize"]


def run(
    pipeline: opt.Pipelines = None,
    split: opt.Splits = None,
    study: Annotated[
        Path | None,
        typer.Option("--study", help="A TOML file of pipelines, splits and settings, instead of -p and -s."),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Run N pairs at a time, each in its own process.")
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List the pairs (done, partial or to do), and stop.", rich_help_panel=opt.MORE),
    ] = False,
    slurm: Annotated[
        bool,
        typer.Option(
            "--slurm", help="Print a Slurm script, an array of one task a pair, and stop.", rich_help_panel=opt.MORE
        ),
    ] = False,
    task: Annotated[
        int | None, typer.Option("--task", min=1, help="Run only the pair of this number.", rich_help_panel=opt.MORE)
    ] = None,
    results: opt.Results = None,
    on: opt.On = None,
    weights: opt.Weights = None,
    tokenizer: opt.Tokenizer = None,
    preprocessing: opt.Preprocessing = None,
    limit: opt.Partial = None,
    perturb: Annotated[
        Kind | None,
        typer.Option(
            "--perturb",
            metavar="KIND",
            help="Print the drop on shuffle-words, drop-relations, mirror, prompt, jpeg or resize.",
            rich_help_panel=opt.MORE,
        ),
    ] = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    batch_size: opt.BatchSize = None,
    seed: opt.Seed = None,
    deterministic: opt.Deterministic = False,
    compiled: opt.Compile = False,
    channels_last: opt.ChannelsLast = False,
    offline: opt.Offline = False,
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate",
            help="Run each pipeline in a process of its own: a crash or a hang costs an image.",
            rich_help_panel=opt.MORE,
        ),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again, beside the stored run.")] = False,
    config: opt.Config = None,
    settings: opt.Set = None,
    as_json: opt.Json = False,
) -> None:
    """Run pipelines on splits, score every pair and store it under results/runs.

    The same command continues a run that was stopped, and reports a finished one without computing it anew.

    Exits with 2 when a pair failed, with 3 when images could not be read; the same command tries those again.
    """
    import sys

    from bench.errors import BenchError, UsageError
    from bench.evaluation import jobs as parallel
    from bench.evaluation.loop import evaluate
    from bench.evaluation.progress import message
    from bench.evaluation.study import Study, plan, read_study

    given = {"device": device, "dtype": dtype, "batch_size": batch_size, "seed": seed, "deterministic": deterministic}
    given |= {"compile": compiled, "channels_last": channels_last, "offline": offline, "isolate": isolate}
    own = {"weights": weights, "tokenizer": tokenizer or None, "preprocessing": preprocessing, "perturb": perturb}
    options = opt.assignments(settings or []) | {key: value for key, value in own.items() if value is not None}
    names, split_names = opt.listed(pipeline), opt.listed(split)
    if study is None and not (names and split_names):
        raise UsageError("bench run needs --pipeline and --split, or --study FILE")

    def wanted(number: int, of: str, on_split: str) -> bool:  # beside a study, -p and -s choose among its pairs
        return (task or number) == number and of in (names or [of]) and on_split in (split_names or [on_split])

    whole = Study(pipelines=tuple(names), splits=tuple(split_names)) if study is None else read_study(study)
    pairs = plan(whole, config, opt.flags_of(results, **given), options, on, limit, wanted)
    if slurm:
        words = [word for word in sys.argv[1:] if word != "--slurm"]
        echo(parallel.array_script(words, pairs, study.stem if study else "bench"), nl=False)
        return
    if dry_run:
        print_states(pairs, as_json)
        return
    runs: dict[int, Run] = {}
    failed: dict[int, str] = {}
    if jobs > 1 and len(pairs) > 1:
        runs, failed = parallel.run_all(pairs, sys.argv[1:], jobs, fresh)
    else:
        for pair in pairs:
            try:
                with opt.as_options(pair.pipeline, pair.options, own) as flags:
                    one = evaluate(
                        pair.pipeline,
                        pair.split,
                        pair.resolved,
                        flags,
                        fresh=fresh,
                        on=pair.on,
                        beside=bool(pair.variant),
                    )
            except BenchError as error:
                if len(pairs) == 1:
                    raise
                # A pair that fails is reported at once, and the others are run.
                failed[pair.number] = str(error)
                message(f"{pair}: {error}", error=True)
                continue
            if one.rank.index == 0:  # the other ranks have no finished record
                runs[pair.number] = one
                if one.already_done:
                    message(f"{pair}: done before, nothing computed ({one.folder}); --fresh runs it again")
    finish(pairs, runs, failed, as_json, one_task=task is not None)


def print_states(pairs: Sequence[Pair], as_json: bool) -> None:
    """Print every pair and what is stored of it."""
    from bench.evaluation.study import stored

    rows = []
    for pair in pairs:
        run, images = stored(pair), len(pair.split.scenes)
        answered = images - len(run.pending) if run else 0
        state = "done" if run and run.already_done else "partial" if answered else "to do"
        row = {"number": pair.number, "pipeline": pair.pipeline, "variant": pair.variant, "split": pair.split.name}
        rows.append(row | {"state": state, "images": images, "answered": answered, "run_dir": run and str(run.folder)})
    if as_json:
        emit({"pairs": rows})
        return
    variants = any(row["variant"] for row in rows)
    columns = [key for key in rows[0] if key != "run_dir" and (key != "variant" or variants)]
    console_of().print(table_of(columns, ([f"{row[key]}" for key in columns] for row in rows)))


def finish(
    pairs: Sequence[Pair], runs: Mapping[int, Run], failed: Mapping[int, str], as_json: bool, one_task: bool
) -> None:
    """Print the rows of all pairs and the failures, and leave with the exit code; after `one_task` nothing is next."""
    import shlex

    from bench.evaluation.progress import message
    from bench.reporting.comparison_text import drop_lines
    from bench.reporting.rows import run_row
    from bench.reporting.terminal import print_rows
    from bench.runs.record import split_command

    complete = [(pair, runs[pair.number]) for pair in pairs if pair.number in runs]
    if complete or failed:
        print_rows(
            [run.record.model_copy(update={"name": _name(pair, run)}) for pair, run in complete], table_console(as_json)
        )
    drops = {pair.number: drop_of(pair, run) for pair, run in complete if run.record.perturbed}
    for pair, run in complete if drops else ():
        if run.record.perturbed:
            for line in drop_lines(run.record.perturbed, drops[pair.number]) or [_without_plain()]:
                echo(f"{_name(pair, run)} on {pair.split.name}: {line}", err=as_json)
    whole = [run for _, run in complete if not run.record.identity.data.partial]
    if whole and not as_json and not one_task:
        results = whole[0].folder.parents[3]
        at = "" if results == Path("results") else f" --results {shlex.quote(str(results))}"
        split = shlex.quote(split_command(whole[0].record))
        message(f"next: bench report --split {split}{at} --out report.html")
    if failed and len(pairs) > 1:
        message(f"{len(failed)} of {len(pairs)} failed:", error=True)
        for pair in pairs:
            if pair.number in failed:
                message(f"  [{pair.number}] {pair}: {failed[pair.number]}", error=True)
    if as_json and (complete or failed):  # other ranks print nothing
        rows: list[dict[str, Any]] = [
            run_row(run.record, run.folder)
            | ({"variant": pair.variant} if pair.variant else {})
            | ({"drop": _plain_drop(drops[pair.number])} if pair.number in drops else {})
            for pair, run in complete
        ]
        emit({"rows": rows})
    if failed:
        raise typer.Exit(2)
    if any(run.record.errors for _, run in complete):
        raise typer.Exit(3)


def drop_of(pair: Pair, run: Run) -> Comparison | None:
    """Compare a perturbed run with the plain one of the same settings, which comes first; None without one."""
    from dataclasses import replace

    from bench.comparison.compare import compare
    from bench.evaluation.study import stored

    plain = stored(replace(pair, options={**pair.options, "perturb": ""}))
    if plain is None or plain.record.status != "complete":
        return None
    rule = pair.resolved.settings.evaluation
    return compare([plain.folder, run.folder], rule.draws, rule.seed, rule.confidence)


def _plain_drop(compared: Comparison | None) -> dict[str, Any] | None:
    if compared is None:
        return None
    (pair,), plain = compared.pairs, compared.runs[0]
    keys = ("difference", "ci95", "few_different", "p")
    return {key: plain[key] for key in ("run_dir", "acc@0.5")} | {key: getattr(pair, key) for key in keys}


def _name(pair: Pair, run: Run) -> str:
    """Name a pair with its variant and what was perturbed."""
    return f"{pair.name}{run.record.name.removeprefix(pair.pipeline)}"


def _without_plain() -> str:
    """Say which command makes the run that a drop is counted from."""
    import re
    import shlex
    import sys

    words = re.sub(r" --perturb[= ]\S+", "", shlex.join(["bench", *sys.argv[1:]]))
    return (
        "no finished run of the same settings without the perturbation is stored, so there is no drop yet; make it "
        f"with `{words}`, then give this command again"
    )
