"""`bench compare`: runs against one another on the same expressions, paired and clustered by image; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import MORE, SPLIT, Config, Json, Results
from bench.cli.output import echo, emit, table_console

if TYPE_CHECKING:
    from bench.settings import Resolved


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Two or more run folders, PIPELINE/SPLIT or, with --split, pipelines."),
    ],
    published: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Compare one run with this method's published value.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", "-s", help="Split of the runs that are given by name.", **SPLIT)
    ] = None,
    baseline_only: Annotated[
        bool, typer.Option("--baseline-only", help="Compare only the first run with each other.")
    ] = False,
    flips: Annotated[
        Path | None, typer.Option(help="Write the expressions that only one run hits to this JSONL.")
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(min=100, help="Bootstrap draws over images.", show_default="10000", rich_help_panel=MORE),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the draws.", show_default="0", rich_help_panel=MORE)
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="Level of the intervals.", show_default="0.95")] = None,
    results: Results = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Compare runs of one split: which is better, by how much, how certain that is, and on which expressions.

    The first run is the baseline. Runs on other expressions or under other rules are refused.
    """
    import json

    from bench.comparison.compare import compare as compare_runs
    from bench.comparison.compared_runs import find_runs
    from bench.reporting.comparison_text import print_comparison
    from bench.settings import load_settings

    flags = {"draws": draws, "seed": seed, "confidence": confidence}
    flat = {f"evaluation.{key}": value for key, value in flags.items()}
    resolved = load_settings(config, flat | {"results": str(results) if results else None})
    rule = resolved.settings.evaluation
    folders = find_runs(runs, split, resolved)
    if published is not None:
        _published(folders, published, resolved, as_json)
        return
    compared = compare_runs(folders, rule.draws, rule.seed, rule.confidence, baseline_only)
    texts = _texts(folders[0], resolved) if flips or as_json else None
    if flips is not None:
        from bench.runs.files import write_atomically

        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in compared.flips(texts))
        write_atomically(flips, "".join(lines).encode())
    print_comparison(compared, table_console(as_json))
    if as_json:
        emit(compared.as_object(texts))


def _published(folders: list[Path], name: str, resolved: Resolved, as_json: bool) -> None:
    from bench.errors import UsageError
    from bench.reporting.paper_difference import against_published, sentences
    from bench.runs.record import read_record

    if len(folders) != 1:
        raise UsageError(f"--published takes one run, not {len(folders)}")
    settings = resolved.settings
    rows = against_published(folders[0], name, Path(settings.results), settings.evaluation.confidence)
    for row in rows:
        for line in sentences(read_record(folders[0]), row):
            echo(line, err=as_json)
    if as_json:
        emit({"published": rows})


def _texts(folder: Path, resolved: Resolved) -> dict[str, str] | None:
    """Map expression ids to texts where the split is at hand; else log why there are none."""
    from bench.errors import BenchError
    from bench.evaluation.progress import message
    from bench.evaluation.rescored import split_of
    from bench.runs.record import read_record

    try:
        split = split_of(folder, read_record(folder), None, resolved)
    except BenchError as error:
        message(f"the flips are listed without their texts: {error}")
        return None
    return {expression.id: expression.text for scene in split.scenes for expression in scene.expressions}
