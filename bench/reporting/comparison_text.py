"""Print a comparison in plain words: who is better, by how much, how sure, and in which strata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.comparison.compare import Comparison, Pair
from bench.reporting.cells import interval, measures, percent, signed
from bench.reporting.terminal import empty_table, print_table, wide

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PAIRS_WITH_STRATA = 3
MOST_STRATA = 8
MASKS = {"miou": "mask mIoU", "giou": "gIoU", "ciou": "cIoU"}
FEWEST = 20  # expressions of a stratum that is printed; all of them are in --json


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the runs, a paragraph a pair, and the strata that flip most of the first few pairs; default stdout."""
    console = wide(console)

    def emit(line: str = "", style: str = "") -> None:
        console.print(line, style=style, markup=False, highlight=False)

    rule = comparison.signature.split("|")[1]
    emit(f"{comparison.split}  {comparison.n:,} expressions about {comparison.images:,} images  {rule}", "bold")
    print_table(console, _runs(comparison), ("mIoU",))
    for note in comparison.notes:
        emit(f"  {note}", "yellow")
    for pair in comparison.pairs:
        emit()
        first, *others = paragraph(comparison, pair)
        emit(first, "bold")
        for line in others:
            emit(f"  {line}")
        strata = most_flipped(pair, comparison.n)
        if strata and len(comparison.pairs) <= PAIRS_WITH_STRATA:
            emit(f"\nwhere {pair.a} and {pair.b} flip most", "bold")
            print_table(console, _strata(comparison, pair, strata))
    if len(comparison.pairs) > PAIRS_WITH_STRATA:
        emit("\nThe strata of every pair are in --json.", "dim")


def paragraph(comparison: Comparison, pair: Pair) -> Iterator[str]:
    """Yield one pair in words, the verdict first. Percent and points everywhere."""
    runs = {run["label"]: run for run in comparison.runs}
    a, b = runs[pair.a], runs[pair.b]
    scores = f"{a['label']} {percent(a['acc@0.5'])}, {b['label']} {percent(b['acc@0.5'])}: "
    p = p_text(pair.p) + (f", after Holm {p_text(pair.p_holm)}" if len(comparison.pairs) > 1 else "")
    minus = f"{a['label']} - {b['label']}"
    better = "too close to call" if not pair.significant else f"{(a if pair.difference > 0 else b)['label']} is better"
    gap = f"{signed(100 * pair.difference)} points {_interval(pair.ci95, pair.few_different)}"
    yield f"{scores}{better}, {minus} = {gap} ({p})"
    yield f"{a['label']} = {a['name']}, {b['label']} = {b['name']}"
    if not pair.significant:
        if pair.detectable is not None and pair.detectable > 1:
            yield "so few images could show no difference at all, not even 0 against 100"
        elif pair.detectable is not None:
            yield f"the smallest true difference this split would show 4 times in 5: {percent(pair.detectable)} points"
    cells = pair.cells
    yield (
        f"both right {cells['both']:,}, only {a['label']} {cells['a_only']:,}, only {b['label']} {cells['b_only']:,}, "
        f"neither {cells['neither']:,}; McNemar's exact test {p_text(pair.mcnemar_p)}, which ignores that expressions "
        "share images"
    )
    yield (
        f"{measures(comparison.signature)[2]} {percent(a['mean_iou'])} and {percent(b['mean_iou'])}: {minus} = "
        f"{signed(100 * pair.mean_iou_difference)} points {interval(pair.mean_iou_ci95)}"
    )
    yield from mask_lines(pair, a["label"], b["label"], len(comparison.pairs))


def mask_lines(pair: Pair, a: str, b: str, pairs: int = 1) -> Iterator[str]:
    """Yield a line for each quantity that the masks of runs `a` and `b` are compared by; none without masks."""
    for key, name in MASKS.items():
        if pair.masks and (part := pair.masks.get(key)):
            p = p_text(part["p"]) + (f", after Holm {p_text(part['p_holm'])}" if pairs > 1 else "")
            yield (
                f"{name} {percent(part['a'])} and {percent(part['b'])} (n = {pair.masks['n']:,}): {a} - {b} = "
                f"{signed(100 * part['difference'])} points {interval(part['ci95'])} ({p})"
            )


def drop_lines(kind: str, compared: Comparison | None) -> list[str]:
    """Say what a perturbation costs, from the plain run (A) against the perturbed one (B); nothing without them."""
    if compared is None:
        return []
    (pair,), (plain, other) = compared.pairs, compared.runs
    low, high = pair.ci95
    lines = [
        f"{kind} costs {percent(pair.difference)} points {_interval(pair.ci95, pair.few_different)} "
        f"({p_text(pair.p)}): {percent(plain['acc@0.5'])} without it, {percent(other['acc@0.5'])} with it",
        f"by strata: bench compare {plain['run_dir']} {other['run_dir']}",
    ]
    if low <= 0 <= high:
        unread = "; a pipeline that scores the same on shuffled words has not read them" * (kind == "shuffle-words")
        lines.insert(1, f"the interval includes 0, so there may be no drop{unread}")
    return lines


def _interval(bounds: Sequence[float], few: int | None) -> str:
    """Format the interval of a difference, with the number of images that it comes from where these are few."""
    return interval(bounds, f"{few} image{'s' * (few != 1)} differ{'s' * (few == 1)}" if few is not None else "")


def most_flipped(pair: Pair, whole: int) -> list[Mapping[str, Any]]:
    """Return the strata in which the largest part of the expressions flips, most first.

    Those too small to show are left out, and those that are the `whole` split.
    """
    large = [s for s in pair.strata if FEWEST <= s["n"] < whole and s["a_only"] + s["b_only"]]
    return sorted(large, key=lambda s: -(s["a_only"] + s["b_only"]) / s["n"])[:MOST_STRATA]


def p_text(p: float) -> str:
    """Format "p = 0.034"; a sentence needs no more digits than "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _runs(comparison: Comparison) -> Table:
    from rich.text import Text

    table = empty_table("")
    levels = {run["confidence"] for run in comparison.runs}
    level = f"{100 * levels.pop():g} % interval" if len(levels) == 1 else "interval"
    accuracy, _, mean = measures(comparison.signature)
    for name in ("", "pipeline", accuracy, level, "mIoU" if mean == "mean IoU" else mean):
        table.add_column(name, justify="left" if name in ("", "pipeline") else "right", no_wrap=True)
    for run in comparison.runs:
        scores = percent(run["acc@0.5"]), interval(run["ci95"], run["ci95_note"]), percent(run["mean_iou"])
        table.add_row(run["label"], Text(run["name"]), *scores)
    return table


def _strata(comparison: Comparison, pair: Pair, strata: list[Mapping[str, Any]]) -> Table:
    from rich.text import Text

    table = empty_table("")
    table.add_column("cut", style="dim", no_wrap=True)
    table.add_column("label", overflow="fold")
    level = f"{100 * comparison.confidence:g} % interval"
    for name in ("n", f"only {pair.a}", f"only {pair.b}", f"{pair.a} - {pair.b}", level):
        table.add_column(name, justify="right", no_wrap=True)
    for row in strata:
        counts = (f"{row[key]:,}" for key in ("n", "a_only", "b_only"))
        difference = signed(100 * row["difference"]), _interval(row["ci95"], row["few_different"])
        table.add_row(Text(row["cut"]), Text(row["label"]), *counts, *difference)
    return table
