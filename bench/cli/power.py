"""`bench power`: which difference of two pipelines a split shows, and how many expressions show a given one."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.options import SPLIT, Config, Json, Results, settings_of
from bench.cli.output import echo, emit


def power(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Two runs of one split, to measure what is assumed otherwise."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", "-s", help="Split, or that of runs given by name.", **SPLIT)
    ] = None,
    difference: Annotated[float | None, typer.Option(help="A true difference of accuracy, in points.")] = None,
    chance: Annotated[float, typer.Option("--power", help="Probability to find the difference.")] = 0.8,
    confidence: Annotated[float, typer.Option(help="Level of the comparison.")] = 0.95,
    discordant: Annotated[
        float | None,
        typer.Option(help="Share of expressions that exactly one of the two hits.", show_default="0.12"),
    ] = None,
    design_effect: Annotated[
        float | None,
        typer.Option(help="Variance of the difference against independent expressions.", show_default="1.4"),
    ] = None,
    results: Results = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Compute which difference a split shows, and how many expressions show a given one."""
    from bench.comparison.compared_runs import find_runs
    from bench.comparison.power import DISCORDANT, EFFECT, MEASURED, measured, power_of, published_counts, sentences
    from bench.errors import UsageError

    resolved = settings_of(config, results)
    images: int | None
    if runs:
        if len(runs) != 2:
            raise UsageError(f"bench power takes two runs, or none and --split; not {len(runs)}")
        name, n, images, share, effect = measured(find_runs(runs, split, resolved))
        assumed = "measured on the two runs"
    elif split:
        name, n, images = published_counts(split, resolved)
        share, effect, assumed = DISCORDANT, EFFECT, MEASURED
    else:
        raise UsageError("give --split NAME, or two runs; `bench data list` shows the splits")
    if discordant is not None or design_effect is not None:
        assumed = ""
    share = share if discordant is None else discordant
    effect = effect if design_effect is None else design_effect
    fraction = None if difference is None else difference / 100
    answer = power_of(name, n, images, fraction, share, effect, assumed, chance, confidence)
    for line in sentences(answer):
        echo(line, err=as_json)
    if as_json:
        emit(answer)
