"""Print runs as the tables of a terminal, for `bench run` and `bench score`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from bench.reporting.cells import BLANK, interval, measures, percent
from bench.reporting.marks import legend, marks
from bench.reporting.rows import Row, run_row
from bench.reporting.table import filled_columns
from bench.runs.numbers import Metrics, Stratum
from bench.runs.record import RunRecord

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

WIDE = 160
FOLDED = 16  # the narrowest that running text is folded to
SPARE = ("0.9", "0.7", "no box", "ceiling", "ex/s", "errors", "mIoU")  # columns that a narrow terminal goes without


def wide(console: Console | None, width: int = WIDE) -> Console:
    """Return the console, default stdout; a file or a pipe has no edge to fold at, so it gets `width`."""
    from bench.evaluation.progress import Terminal

    console = console or Terminal()
    if not console.is_terminal:
        console.width = max(console.width, width)
    return console


def print_table(console: Console, table: Grid, drop: Sequence[str] = ()) -> None:
    """Print a table whose no_wrap columns (names, numbers) are never broken; the others are running text and fold.

    Where it is wider than the terminal, the columns in `drop` go, first ones first, and are named below; where that is
    not enough, each row gets a line for its first cell and one for the rest. A file has no edge: nothing goes there.
    """
    from rich.cells import cell_len

    def plain(cell: Any) -> str:
        return str(cell.plain) if hasattr(cell, "plain") else console.render_str(str(cell)).plain

    gap = 2 if table.box is None or table.collapse_padding else 3
    texts = [[plain(cell) for cell in (column.header, *column._cells)] for column in table.columns]
    widths = [max(map(cell_len, cells)) for cells in texts]
    if not console.is_terminal:
        console.width = max(console.width, sum(widths) + gap * (len(widths) + 1))
        console.print(table)
        return
    # 1. The columns that stay: running text needs FOLDED columns of the terminal, the others all of theirs.
    needs = [w if c.no_wrap else min(w, c.min_width or FOLDED) for w, c in zip(widths, table.columns, strict=True)]
    kept = list(range(len(needs)))
    gone: list[str] = []
    for header in drop:
        if sum(needs[n] for n in kept) + gap * (len(kept) - 1) <= console.width:
            break
        if out := [n for n in kept if texts[n][0] == header]:
            kept.remove(out[0])
            gone.append(header)
    # 2. Still too wide: two lines a row, with everything.
    if sum(needs[n] for n in kept) + gap * (len(kept) - 1) > console.width:
        for line in range(1, len(texts[0])):
            console.print(texts[0][line], style="bold", markup=False, highlight=False, soft_wrap=True)
            rest = [" ".join(filter(None, (cells[0], cells[line]))) for cells in texts[1:] if cells[line]]
            console.print("    " + ", ".join(rest), markup=False, highlight=False, soft_wrap=True)
        return
    table.columns = [table.columns[n] for n in kept]
    for place, column in enumerate(table.columns):
        column._index = place
    console.print(table)
    if gone:
        console.print(f"no room for: {', '.join(gone)}", style="dim", highlight=False)


def print_rows(records: Sequence[RunRecord], console: Console | None = None) -> None:
    """Print a table a split, what must be known beside the numbers, and the strata; default stdout."""
    console = wide(console)
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.comparable, []).append(record)
    for group in groups.values():
        print_table(console, _scores(group), SPARE)
        for sign, why in legend([_marked(record) for record in group]):
            console.print(f"  {sign} {why}", style="dim", markup=False, highlight=False)
        for line in remarks([(record.name, record) for record in group]):
            console.print(f"  {line}", style="yellow", markup=False, highlight=False)
        for table in _strata(group, console.width):
            console.print()
            print_table(console, table)


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
        lines.append(f"images without predictions: {metrics.errors:,} (their expressions are misses)")
        lines += [f"    {image}: {why}" for image, why in list(record.errors.items())[:5]]
    if metrics and metrics.duplicates:
        lines.append(f"second answers, dropped: {metrics.duplicates:,}")
    sets = metrics.several if metrics else None
    if sets and sets.threshold is None and not sets.one_box:
        lines.append(
            "no threshold: every box counts, whatever its score; bench score RUN --threshold VALRUN chooses one"
        )
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


def _scores(records: Sequence[RunRecord]) -> Grid:
    """Make the table of runs that share a signature."""
    from rich.text import Text

    data = records[0].identity.data
    level = next((record.metrics.bootstrap.confidence for record in records if record.metrics), 0.95)
    grid = empty_table(f"{data.split}  {data.expressions:,} expressions  {records[0].signature.split('|')[1]}")
    # Names are data: a Text takes no markup from them.
    grid.add_column("pipeline", style="bold", no_wrap=True)
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


def empty_table(title: str) -> Grid:
    """Make a table with the look of all in the terminal: no frame, a line under the header."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
    )


def _strata(records: Sequence[RunRecord], width: int) -> Iterator[Grid]:
    """Yield tables of strata in rows, each with as many pipelines in columns as fit."""
    from rich.text import Text

    scored = [(record.name, record.metrics) for record in records if record.metrics]
    cuts = cuts_of([metrics for _, metrics in scored])
    if not cuts:
        return
    texts = {
        name: [
            _stratum(metrics.strata.get(cut, {}).get(label), len(scored) <= 2)
            for cut, labels in cuts.items()
            for label in labels
        ]
        for name, metrics in scored
    }
    room = width - max(map(len, cuts)) - max(len(label) for labels in cuts.values() for label in labels) - 12
    columns: list[list[str]] = [[]]
    used = 0
    for name, cells in texts.items():
        need = max(len(name), *map(len, cells)) + 2
        if columns[-1] and used + need > room:
            columns.append([])
            used = 0
        columns[-1].append(name)
        used += need
    for number, some in enumerate(columns):
        grid = empty_table(f"{measures(records[0].signature)[0]} % by stratum" + (" (continued)" if number else ""))
        grid.add_column("cut", style="dim", no_wrap=True)
        grid.add_column("label", overflow="fold")
        grid.add_column("n", justify="right", no_wrap=True)
        for name in some:
            grid.add_column(Text(name), justify="right", no_wrap=True)
        rows = iter(zip(*(texts[name] for name in some), strict=True))
        for cut, labels in cuts.items():
            for place, label in enumerate(labels):
                n = next(m.strata[cut][label].n for _, m in scored if label in m.strata.get(cut, {}))
                grid.add_row(Text("" if place else cut), Text(label), f"{n:,}", *next(rows))
            grid.add_section()
        yield grid


def _stratum(cell: Stratum | None, with_interval: bool) -> Text:
    from rich.text import Text

    text = Text(percent(cell.accuracy) if cell else BLANK)
    return text.append(f" {interval(cell.ci95, cell.ci95_note)}", "dim") if cell and with_interval else text


def cuts_of(several: Sequence[Metrics]) -> Mapping[str, list[str]]:
    """Return every cut with its labels, in the order in which the runs have them; one with one label cuts nothing."""
    cuts: dict[str, dict[str, None]] = {}
    for metrics in several:
        for cut, labels in metrics.strata.items():
            cuts.setdefault(cut, {}).update(dict.fromkeys(labels))
    return {cut: list(labels) for cut, labels in cuts.items() if len(labels) > 1}
