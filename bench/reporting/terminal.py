"""Print runs as the tables of a terminal, for `bench run` and `bench score`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from bench.reporting.rows import Row, run_row
from bench.reporting.table import BLANK, filled_columns, interval, legend, marks, percent
from bench.runs.record import Metrics, RunRecord

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 160


def wide(console: Console | None, width: int = WIDE) -> Console:
    """Return the console, default stdout; a file or a pipe has no edge to fold at, so it gets `width`."""
    from rich.console import Console as Terminal

    console = console or Terminal()
    if not console.is_terminal:
        console.width = max(console.width, width)
    return console


def print_rows(records: Sequence[RunRecord], console: Console | None = None) -> None:
    """Print a table a split, what must be known beside the numbers, and the strata; default stdout."""
    console = wide(console)
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.signature, []).append(record)
    for group in groups.values():
        console.print(_scores(group))
        for sign, why in legend([_marked(record) for record in group]):
            console.print(f"  {sign} {why}", style="dim", markup=False, highlight=False)
        for line in remarks([(record.name, record) for record in group]):
            console.print(f"  {line}", style="yellow", markup=False, highlight=False)
        if cuts_of([record.metrics for record in group if record.metrics]):
            console.print()
            console.print(_strata(group))


def remarks(named: Sequence[tuple[str, RunRecord]]) -> list[str]:
    """List what a reader must know beside the numbers of runs, each remark once; plain text that may hold anything."""
    names: dict[str, list[str]] = {}
    for name, record in named:
        for line in _remarks(record):
            names.setdefault(line, []).append(name)
    return [f"{', '.join(about)}: {line}" for line, about in names.items()]


def _remarks(record: RunRecord) -> list[str]:
    lines = []
    metrics, data, imported = record.metrics, record.identity.data, record.imported
    if record.part:
        lines.append(f"partial: {record.part}, so in no leaderboard")
    if metrics and metrics.errors:
        lines.append(f"unreadable images: {metrics.errors:,} (their expressions are misses)")
        lines += [f"    {image}: {why}" for image, why in list(record.errors.items())[:5]]
    if metrics and metrics.duplicates:
        lines.append(f"second answers, dropped: {metrics.duplicates:,}")
    if imported:
        reasons = {
            "missing": "expressions without a row, counted as misses",
            "extra": "rows about no expression of the split",
            "other_image": "rows that name another image than their expression's, counted as misses",
        }
        for kind, reason in reasons.items():
            if count := getattr(imported, kind):
                keys = imported.examples.get(kind, ())[:5]
                rows = all(key.isdecimal() and int(key) < data.expressions for key in keys)
                by = "row" if rows or (kind != "missing" and imported.keyed_by == "row") else "id"
                examples = f"{by}{'s' if count > 1 else ''} {', '.join(keys)}"
                lines.append(f"{reason}: {count:,} ({examples}{', ...' if count > 5 else ''})")
        if imported.duplicates:
            lines.append(f"second rows of one expression, dropped: {imported.duplicates:,}")
    return [*lines, *record.notes]


def _scores(records: Sequence[RunRecord]) -> Table:
    """Make the table of runs that share a signature."""
    from rich.text import Text

    data = records[0].identity.data
    level = next((record.metrics.bootstrap.confidence for record in records if record.metrics), 0.95)
    grid = empty_table(f"{data.split}  {data.expressions:,} expressions  {records[0].signature.split('|')[1]}")
    # Names are data: a Text takes no markup from them.
    grid.add_column("pipeline", style="bold", overflow="fold", min_width=12)
    columns = filled_columns("t", [run_row(record, "") for record in records])
    for column, _ in columns:
        header = f"{100 * level:g} % interval" if column.name == "ci95" else column.header
        grid.add_column(header, justify="right", no_wrap=True, style="bold green" if column.name == "acc@0.5" else "")
    for number, record in enumerate(records):
        cells = [Text(cells[number]) for _, cells in columns]
        signs = "".join(sign for sign, _ in marks(_marked(record)))
        grid.add_row(
            Text(f"{record.name} {signs}".rstrip()), *(cells if record.metrics else [Text("unfinished"), *cells[1:]])
        )
    return grid


def _marked(record: RunRecord) -> Row:
    """Return a run as a row with what its marks are about."""
    facts = {"saw_test_images": str(record.card.get("saw_test_images") or "unknown"), "submitted": None}
    return cast(Row, {**run_row(record, ""), **facts})


def empty_table(title: str) -> Table:
    """Make a table with the look of all in the terminal: no frame, a line under the header."""
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

    scored = [(record.name, record.metrics) for record in records if record.metrics]
    grid = empty_table("Acc@0.5 % by stratum")
    grid.add_column("cut", style="dim")
    grid.add_column("label", overflow="fold")
    grid.add_column("n", justify="right")
    for name, _ in scored:
        grid.add_column(Text(name), justify="right")
    for cut, labels in cuts_of([metrics for _, metrics in scored]).items():
        for place, label in enumerate(labels):
            cells = [metrics.strata.get(cut, {}).get(label) for _, metrics in scored]
            n = next(cell.n for cell in cells if cell)
            texts = [Text(percent(cell.accuracy) if cell else BLANK) for cell in cells]
            for text, cell in zip(texts, cells, strict=True):
                if cell and len(scored) <= 2:
                    text.append(f" {interval(cell.ci95, cell.ci95_note)}", "dim")
            grid.add_row(Text("" if place else cut), Text(label), f"{n:,}", *texts)
        grid.add_section()
    return grid


def cuts_of(several: Sequence[Metrics]) -> Mapping[str, list[str]]:
    """Return every cut with its labels, in the order in which the runs have them; one with one label cuts nothing."""
    cuts: dict[str, dict[str, None]] = {}
    for metrics in several:
        for cut, labels in metrics.strata.items():
            cuts.setdefault(cut, {}).update(dict.fromkeys(labels))
    return {cut: list(labels) for cut, labels in cuts.items() if len(labels) > 1}
