"""A comparison in the terminal, in plain words: who is better by how much and how sure, then where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.comparison.results import Comparison, Pair, StratumDifference
from bench.reporting.table import interval, percent
from bench.reporting.terminal import empty_table, wide

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PAIRS_WITH_STRATA = 3
STRATA_SHOWN = 8
FEWEST = 20  # expressions of a stratum that is shown; all of them are in --json


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """The runs, a paragraph a pair, and the strata that flip most of the first few pairs; default stdout."""
    console = wide(console)

    def say(line: str = "", style: str = "") -> None:
        console.print(line, style=style, markup=False, highlight=False)

    rule = found.signature.split("|")[1]
    say(f"{found.split}  {found.n:,} expressions about {found.images:,} images  {rule}", "bold")
    console.print(_runs(found))
    for note in found.notes:
        say(f"  {note}", "yellow")
    for pair in found.pairs:
        say()
        first, *others = paragraph(found, pair)
        say(first, "bold")
        for line in others:
            say(f"  {line}")
        shown = most_flipped(pair, found.n)
        if shown and len(found.pairs) <= PAIRS_WITH_STRATA:
            say(f"\nwhere {pair.a} and {pair.b} flip most", "bold")
            console.print(_strata(found, pair, shown))
    if len(found.pairs) > PAIRS_WITH_STRATA:
        say("\nThe strata of every pair are in --json.", "dim")


def paragraph(found: Comparison, pair: Pair) -> Iterator[str]:
    """One pair in words, the verdict first. Percent and points everywhere."""
    runs = {run.label: run for run in found.runs}
    a, b = runs[pair.a], runs[pair.b]
    scores = f"{a.label} {percent(a.accuracy)}, {b.label} {percent(b.accuracy)}: "
    p = p_text(pair.p) + (f", after Holm {p_text(pair.p_holm)}" if len(found.pairs) > 1 else "")
    if pair.significant:
        better, worse = (b, a) if pair.difference > 0 else (a, b)
        size = abs(pair.difference)
        bounds = pair.ci95 if pair.difference > 0 else (-pair.ci95[1], -pair.ci95[0])
        yield f"{scores}{better.label} is better by {percent(size)} points {interval(bounds)} ({p})"
        yield f"{better.label} = {better.name}, {worse.label} = {worse.name}"
    else:
        gap = f"{b.label} - {a.label} = {signed(pair.difference)} points {interval(pair.ci95)}"
        yield f"{scores}cannot be told apart, {gap} ({p})"
        yield f"{a.label} = {a.name}, {b.label} = {b.name}"
        if pair.detectable is not None and pair.detectable > 1:
            yield "so few images could show no difference at all, not even 0 against 100"
        elif pair.detectable is not None:
            yield f"the smallest true difference this split would show 4 times in 5: {percent(pair.detectable)} points"
    cells = pair.cells
    yield (
        f"both right {cells.both:,}, only {a.label} {cells.a_only:,}, only {b.label} {cells.b_only:,}, neither "
        f"{cells.neither:,}; McNemar's exact test {p_text(pair.mcnemar_p)}, which ignores that expressions share "
        "images"
    )
    yield (
        f"mean IoU {percent(a.mean_iou)} and {percent(b.mean_iou)}: {b.label} - {a.label} = "
        f"{signed(pair.mean_iou_difference)} points {interval(pair.mean_iou_ci95)}"
    )


def most_flipped(pair: Pair, whole: int) -> list[StratumDifference]:
    """The strata in which the largest part of the expressions flips, most first.

    Those too small to show are left out, and those that are the `whole` split.
    """
    shown = [stratum for stratum in pair.strata if FEWEST <= stratum.n < whole and stratum.a_only + stratum.b_only]
    return sorted(shown, key=lambda s: -(s.a_only + s.b_only) / s.n)[:STRATA_SHOWN]


def p_text(p: float) -> str:
    """ "p = 0.034"; nobody needs more digits than "p < 0.001" in a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def signed(value: float) -> str:
    """A fraction in points with its sign."""
    return f"{100 * value:+.2f}"


def _runs(found: Comparison) -> Table:
    from rich.text import Text

    table = empty_table("")
    levels = {run.confidence for run in found.runs}
    level = f"{100 * levels.pop():g} % interval" if len(levels) == 1 else "interval"
    for name in ("", "pipeline", "Acc@0.5", level, "mIoU"):
        table.add_column(name, justify="left" if name in ("", "pipeline") else "right", overflow="fold")
    for run in found.runs:
        scores = percent(run.accuracy), interval(run.ci95), percent(run.mean_iou)
        table.add_row(run.label, Text(run.name), *scores)
    return table


def _strata(found: Comparison, pair: Pair, shown: list[StratumDifference]) -> Table:
    from rich.text import Text

    table = empty_table("")
    table.add_column("cut", style="dim")
    table.add_column("label", overflow="fold")
    level = f"{100 * found.confidence:g} % interval"
    for name in ("n", f"only {pair.a}", f"only {pair.b}", f"{pair.b} - {pair.a}", level):
        table.add_column(name, justify="right")
    for row in shown:
        counts = f"{row.n:,}", f"{row.a_only:,}", f"{row.b_only:,}"
        table.add_row(Text(row.cut), Text(row.label), *counts, signed(row.difference), interval(row.ci95))
    return table
