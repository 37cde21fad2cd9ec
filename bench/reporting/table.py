"""One run as a row: the object that `--json` prints and the tables of a terminal, for `bench run` and `bench score`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.runs.record import Metrics, RunRecord, Stratum

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

BLANK = "–"
WIDE = 160


def row(record: RunRecord, run_dir: Path | str) -> dict[str, Any]:
    """A run as the JSON contract has it: accuracies are fractions with full precision, unknown values null.

    Plain values only; `strata` is cut -> label -> {n, hits, acc@0.5, ci95}; the last keys are about imported boxes.
    """
    metrics: dict[str, Any] = {} if record.metrics is None else record.metrics.model_dump(mode="json", by_alias=True)
    speed = record.throughput
    out: dict[str, Any] = {"pipeline": record.name, "split": record.identity.data.split}
    for key in ("n", "hits", "acc@0.5", "ci95", "acc@0.7", "acc@0.9", "mean_iou", "oracle@0.5", "no_box", "errors"):
        out[key] = metrics.get(key)
    out |= {
        "duplicates": metrics.get("duplicates"),
        "proposals_per_picture": metrics.get("proposals_per_picture"),
        "strata": metrics.get("strata", {}),
        "expressions_per_s": speed.expressions_per_s if speed else None,
        "pictures_per_s": speed.pictures_per_s if speed else None,
        "peak_memory_mb": speed.peak_memory_mb if speed else None,
        "run_dir": str(run_dir),
        "protocol": record.protocol,
        "signature": record.signature,
        "provenance": record.provenance,
        "partial": record.identity.data.partial,
    }
    for key in ("missing", "extra", "other_picture"):
        out[key] = None if record.imported is None else getattr(record.imported, key)
    return out


def print_rows(records: Sequence[RunRecord], console: Console | None = None) -> None:
    """The runs in a table a split, what must be known beside the numbers, the strata; on `console`, default stdout."""
    from rich.console import Console as Terminal

    console = console or Terminal()
    if not console.is_terminal:
        console.width = max(console.width, WIDE)  # a file or a pipe has no edge to fold at
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.signature, []).append(record)
    for group in groups.values():
        console.print(_scores(group))
        for record in group:
            for line in remarks(record):
                console.print(f"  {line}", style="yellow", markup=False, highlight=False)
        if any(record.metrics and record.metrics.strata for record in group):
            console.print()
            console.print(_strata(group))


def remarks(record: RunRecord) -> list[str]:
    """What a reader must know beside the numbers, one line each; plain text that may hold anything."""
    said = []
    metrics, data, imported = record.metrics, record.identity.data, record.imported
    if data.partial:
        said.append(f"partial: the first {data.pictures:,} pictures of {data.split} only, so in no leaderboard")
    if metrics and metrics.errors:
        said.append(f"unreadable pictures: {metrics.errors:,} (their expressions are misses)")
        said += [f"    {picture}: {why}" for picture, why in list(record.errors.items())[:5]]
    if metrics and metrics.duplicates:
        said.append(f"second answers, dropped: {metrics.duplicates:,}")
    if imported:
        reasons = {
            "missing": "expressions without a row, counted as misses",
            "extra": "rows about no expression of the split",
            "other_picture": "rows that name another picture than their expression's, counted as misses",
        }
        for kind, reason in reasons.items():
            if count := getattr(imported, kind):
                examples = ", ".join(imported.examples.get(kind, ())[:5])
                said.append(f"{reason}: {count:,} ({examples}{', ...' if count > 5 else ''})")
        if imported.duplicates:
            said.append(f"second rows of one expression, dropped: {imported.duplicates:,}")
    return [f"{record.name}: {line}" for line in (*said, *record.notes)]


def _scores(records: Sequence[RunRecord]) -> Table:
    """The table of runs that share a signature; columns in which no run has anything to say are left out."""
    from rich.text import Text

    data = records[0].identity.data
    level = next((record.metrics.bootstrap.confidence for record in records if record.metrics), 0.95)
    grid = empty_table(f"{data.split}  {data.expressions:,} expressions  {records[0].signature.split('|')[1]}")
    # Names are data: as Text they are shown as they are, with no markup read into them.
    grid.add_column("pipeline", style="bold", overflow="fold", min_width=12)
    columns = {name: [cell(record) for record in records] for name, cell in COLUMNS.items()}
    for name in [name for name in OPTIONAL if not set(columns[name]) - {BLANK, "0"}]:
        del columns[name]
    for name in columns:
        header = f"{100 * level:g} % interval" if name == "interval" else name
        grid.add_column(header, justify="right", no_wrap=True, style="bold green" if name == "Acc@0.5" else "")
    for number, record in enumerate(records):
        grid.add_row(Text(record.name), *(Text(cells[number]) for cells in columns.values()))
    return grid


def empty_table(title: str) -> Table:
    """The look of every table in the terminal: no frame, a line under the header."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    return Grid(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
    )


def _strata(records: Sequence[RunRecord]) -> Table:
    from rich.text import Text

    found = [(record.name, record.metrics) for record in records if record.metrics]
    grid = empty_table("Acc@0.5 % by stratum")
    grid.add_column("cut", style="dim")
    grid.add_column("label", overflow="fold")
    grid.add_column("n", justify="right")
    for name, _ in found:
        grid.add_column(Text(name), justify="right")
    for cut, labels in _cuts([metrics for _, metrics in found]).items():
        for place, label in enumerate(labels):
            cells = [metrics.strata.get(cut, {}).get(label) for _, metrics in found]
            n = next(cell.n for cell in cells if cell)
            shown = [_cell(cell, with_interval=len(found) <= 2) for cell in cells]
            grid.add_row(Text("" if place else cut), Text(label), f"{n:,}", *shown)
        grid.add_section()
    return grid


def _cell(stratum: Stratum | None, with_interval: bool) -> Text:
    from rich.text import Text

    if stratum is None:
        return Text(BLANK)
    return Text.assemble(percent(stratum.accuracy), (f" {interval(stratum.ci95)}" if with_interval else "", "dim"))


def _cuts(found: Sequence[Metrics]) -> Mapping[str, list[str]]:
    """Every cut with its labels, in the order in which the runs have them."""
    cuts: dict[str, dict[str, None]] = {}
    for metrics in found:
        for cut, labels in metrics.strata.items():
            cuts.setdefault(cut, {}).update(dict.fromkeys(labels))
    return {cut: list(labels) for cut, labels in cuts.items()}


def percent(value: float | None) -> str:
    """A fraction in percent with two digits; a dash for None."""
    return BLANK if value is None else f"{100 * value:.2f}"


def interval(bounds: tuple[float, float]) -> str:
    """Two fractions as "[78.41, 80.92]" percent."""
    return f"[{percent(bounds[0])}, {percent(bounds[1])}]"


def rate(value: float | None) -> str:
    """Something per second with three digits or all before the point; a dash for None."""
    if value is None:
        return BLANK
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def _of(pick: Callable[[Metrics], str]) -> Callable[[RunRecord], str]:
    return lambda record: pick(record.metrics) if record.metrics else BLANK


COLUMNS: dict[str, Callable[[RunRecord], str]] = {
    "Acc@0.5": lambda record: percent(record.metrics.accuracy) if record.metrics else "unfinished",
    "interval": _of(lambda m: interval(m.ci95)),
    "0.7": _of(lambda m: percent(m.accuracy_70)),
    "0.9": _of(lambda m: percent(m.accuracy_90)),
    "mIoU": _of(lambda m: percent(m.mean_iou)),
    "ceiling": _of(lambda m: percent(m.oracle)),
    "no box": _of(lambda m: f"{m.no_box:,}"),
    "errors": _of(lambda m: f"{m.errors:,}"),
    "ex/s": lambda record: rate(record.throughput.expressions_per_s if record.throughput else None),
}
OPTIONAL = ("ceiling", "no box", "errors", "ex/s")
