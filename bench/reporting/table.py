"""List the columns of every table once, with the text of each cell.

Terminal, Markdown, CSV, LaTeX and HTML take their columns from COLUMNS and add only their own markup. A new column is
one entry there. The formats stay our own lines: pandas would import for a second and escape no name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from bench.errors import UnknownName
from bench.printing import printable
from bench.reporting.cells import BLANK, count, interval, interval_of, percent, rate, signed
from bench.reporting.marks import marks
from bench.reporting.rows import Row, RunRow

# Not in tables over sets of boxes.
OF_ONE_BOX = ("acc@0.5", "ci95", "acc@0.7", "acc@0.9", "mean_iou", "oracle@0.5", "beside")


def spreadsheet(value: Any) -> Any:
    """Return a cell of a CSV: printable, and a ' before text that a spreadsheet would run as a formula."""
    value = printable(value) if isinstance(value, str) else value
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")) else value


@dataclass(frozen=True, slots=True)
class Column:
    """One column of every table: a cell's text is `format` of its `value`, by default the row's key `name`.

    `tables` has a letter for each table that shows the column: (t)erminal, (m)arkdown, (b)ehind the runs in Markdown,
    (h)tml, (l)atex, (c)sv; `optional` those that leave it out where every cell is blank. `data`: the words of
    strangers, to be escaped. `digits`: how much of a hash is printed.
    """

    name: str
    header: str
    why: str
    format: Callable[[Any], str]
    value: Callable[[Row], Any] | None = None
    tables: str = "tmhlc"
    optional: str = "tmhl"
    right: bool = True
    data: bool = False
    digits: int = 0

    def raw(self, row: RunRow) -> Any:
        """Return the value in full precision, as the CSV has it."""
        return self.value(cast(Row, row)) if self.value else row.get(self.name)

    def text(self, row: RunRow) -> str:
        """Return the cell as people read it."""
        value = self.raw(row)
        return BLANK if value is None and self.name == "threshold" else self.format(value)


def filled_columns(table: str, rows: Sequence[RunRow], chosen: Collection[str] = ()) -> list[tuple[Column, list[str]]]:
    """Return the columns of a table (a letter of `Column.tables`), or those `chosen` by name, with their cells' texts.

    Raises UnknownName for a column that does not exist.
    """
    for name in chosen:
        if name not in {column.name for column in COLUMNS}:
            raise UnknownName("column", name, (column.name for column in COLUMNS))
    if chosen:
        picked = [column for column in COLUMNS if column.name in (*chosen, "pipeline")]
        return [(column, [column.text(row) for row in rows]) for column in picked]
    known = [column for column in COLUMNS if table in column.tables]
    if table != "c" and any("several" in row for row in rows):
        known = [column for column in known if column.name not in OF_ONE_BOX]
    columns = [(column, [column.text(row) for row in rows]) for column in known]
    return [
        (column, cells)
        for column, cells in columns
        if table not in column.optional or set(cells) - {BLANK, "0", "None"}
    ]


def _whole(row: Row) -> Row:
    return row


def _latency(row: Row) -> str:
    return BLANK if row["latency_ms"] is None else busy(row) + rate(row["latency_ms"])


def first_published(key: str) -> Callable[[Row], Any]:
    """Return what picks a key of a row's first published accuracy."""
    return lambda row: next((entry[key] for entry in row["published"] if entry["metric"] == "acc@0.5"), None)


def measured(*keys: str) -> Callable[[Row], Any]:
    """Return what picks a nested key of a row's speed."""

    def pick(row: Row) -> Any:
        value: Any = row["speed"]
        for key in keys:
            value = value and value[key]
        return value

    return pick


def _rank(bounds: Sequence[int] | None) -> str:
    """ "1", or "2-4" where the paired test cannot tell it from others."""
    return "-".join(map(str, dict.fromkeys(bounds))) if bounds else BLANK


def _published(row: Row) -> str:
    """Format the first published accuracy and the row's difference to it; "..." where more values circulate."""
    entries = [entry for entry in row["published"] if entry["metric"] == "acc@0.5"]
    if not entries:
        return BLANK
    more = " ..." if len(entries) > 1 else ""
    return f"{entries[0]['value']:.2f} ({signed(entries[0]['difference'])}){more}"


def _speed(row: Row) -> str:
    """Format expressions a second; "~" marks a busy machine, brackets the whole evaluation's."""
    if row["speed"] is None:
        return BLANK if row["expressions_per_s"] is None else f"({rate(row['expressions_per_s'])})"
    return busy(row) + rate(row["speed"]["expressions_per_s"]["median"])


def busy(row: Row) -> str:
    """Return the mark of a speed that is in doubt."""
    return "~" if row["speed"] and row["speed"]["noisy"] else ""


def _millions(value: int | None) -> str:
    """Format millions, with three digits."""
    return BLANK if value is None else "0" if value == 0 else f"{value / 1e6:.3g} M"


def _word(value: str | None) -> str:
    return value or BLANK


def _hashes(weights: Mapping[str, str]) -> str:
    return " ".join(str(sha256) for _, sha256 in sorted(weights.items()) if sha256) or BLANK


def _words(row: Row) -> str:
    return "; ".join(word for _, word in marks(row))


def _csv(name: str, value: Callable[[Row], Any] | None = None, optional: str = "") -> Column:
    """Return a column of the CSV alone."""
    return Column(name, name, "", str, value, tables="c", optional=optional)


def _threshold(row: Row) -> float | None:
    known: float | None = row.get("several", {}).get("threshold")
    return known


def _maker(row: Row) -> str | None:
    maker: str | None = row.get("masks", {}).get("by")
    return maker


def _masks(name: str, header: str, why: str, tables: str, *keys: str) -> tuple[Column, ...]:
    """Return the columns of a quantity of masks, there only where some run has masks."""
    return _ratio(name, header, why, tables, "masks", *keys)


def _ratio(name: str, header: str, why: str, tables: str, *keys: str) -> tuple[Column, ...]:
    """Return the columns of a share with its interval: for readers, and its value and ends for the CSV."""

    def part(row: Row) -> Any:
        value: Any = row
        for key in keys:
            value = value and value.get(key)
        return value

    def end(at: int) -> Callable[[Row], Any]:
        return lambda row: (known := part(row)) and known["ci95"] and known["ci95"][at]

    def cell(known: Any) -> str:
        return f"{percent(known['value'])} {interval(known['ci95'], known['ci95_note'])}" if known else BLANK

    return (
        Column(name, header, why, cell, part, tables=tables, optional=tables),
        _csv(f"{name}_value", lambda row: (known := part(row)) and known["value"], "c"),
        _csv(f"{name}_low", end(0), "c"),
        _csv(f"{name}_high", end(1), "c"),
    )


COLUMNS: tuple[Column, ...] = (
    _csv("signature"),
    _csv("split"),
    _csv("protocol"),
    Column("rank", "rank", "range of ranks that the paired test leaves open", _rank, tables="mhl", optional="h"),
    Column("pipeline", "pipeline", "", str, tables="mblc", optional="", right=False, data=True),
    _csv("marks", _words),
    _csv("rank_best", lambda row: row["rank"] and row["rank"][0]),
    _csv("rank_worst", lambda row: row["rank"] and row["rank"][1]),
    _csv("n"),
    _csv("hits"),
    Column("acc@0.5", "Acc@0.5", "", percent, tables="tmlc", optional=""),
    Column("ci95", "interval", "", str, lambda row: interval_of(row) or BLANK, tables="t", optional=""),
    *_ratio("sets_exact", "F1 = 1", "a box for every target, and no other box", "tmhl", "several", "exact"),
    *_ratio(
        "sets_no_target_accuracy",
        "N-acc",
        "rejected, of those that refer to nothing",
        "tmhl",
        "several",
        "no_target_accuracy",
    ),
    *_ratio(
        "sets_target_accuracy",
        "T-acc",
        "not rejected, of those that refer to something",
        "tmhl",
        "several",
        "target_accuracy",
    ),
    *_ratio("sets_mean_f1", "mean F1", "mean F1 of expressions", "tmhl", "several", "mean_f1"),
    Column("threshold", "threshold", "the score that a box needs", "{:g}".format, _threshold, "tmhlc", "tmhlc"),
    _csv("ci95_low", lambda row: row["ci95"] and row["ci95"][0]),
    _csv("ci95_high", lambda row: row["ci95"] and row["ci95"][1]),
    _csv("ci95_note"),
    Column("beside", "published", "what papers report, and how this run differs", _published, _whole, tables="mhl"),
    Column("acc@0.7", "0.7", "Acc@0.7", percent, tables="tbhc", optional="h"),
    Column("acc@0.9", "0.9", "Acc@0.9", percent, tables="tbhc", optional="h"),
    Column("mean_iou", "mIoU", "mean IoU", percent, optional="h"),
    *_masks("ciou", "cIoU", "masks: intersections over unions, summed over all expressions", "tmhl", "ciou"),
    *_masks("mask_miou", "mask mIoU", "masks: mean IoU", "tmhl", "miou"),
    *_masks("precision@0.5", "P@0.5", "masks: share with IoU >= 0.5", "mhl", "precision", "0.5"),
    *_masks("precision@0.6", "P@0.6", "", "", "precision", "0.6"),
    *_masks("precision@0.7", "P@0.7", "masks: share with IoU >= 0.7", "mhl", "precision", "0.7"),
    *_masks("precision@0.8", "P@0.8", "", "", "precision", "0.8"),
    *_masks("precision@0.9", "P@0.9", "masks: share with IoU >= 0.9", "mhl", "precision", "0.9"),
    *_masks("mask_giou", "gIoU", "masks: mean IoU with expressions that refer to nothing", "tmhl", "giou"),
    *_masks("no_target_accuracy", "N-acc", "empty masks of those that refer to nothing", "tmhl", "no_target_accuracy"),
    *_masks("target_accuracy", "T-acc", "masks of those that refer to something", "mhl", "target_accuracy"),
    Column("masks_by", "masks by", "what made masks of the boxes", _word, _maker, "tmhlc", "tmhlc", False, True),
    _csv("masks_n", lambda row: (row.get("masks") or {}).get("n"), "c"),
    _csv("masks_data", lambda row: (row.get("masks") or {}).get("data"), "c"),
    Column("oracle@0.5", "ceiling", "share of expressions for which some proposal would be a hit", percent),
    _csv("proposals_per_image"),
    Column("no_box", "no box", "expressions that got no box", count, tables="tbhc", optional="th"),
    Column("errors", "errors", "images that could not be read", count, tables="thc"),
    _csv("duplicates"),
    _csv("missing"),
    _csv("extra"),
    _csv("other_image"),
    Column("speed", "ex/s", "expressions per second, cold", _speed, _whole, tables="mhl", optional="hl"),
    _csv("speed_expressions_per_s", measured("expressions_per_s", "median")),
    _csv("speed_low", measured("expressions_per_s", "low")),
    _csv("speed_high", measured("expressions_per_s", "high")),
    _csv("speed_batch_size", measured("batch_size")),
    Column("latency_ms", "ms", "milliseconds for one expression, median", _latency, _whole, tables="mhl"),
    _csv("p50_ms", measured("p50_ms")),
    _csv("p90_ms", measured("p90_ms")),
    _csv("p99_ms", measured("p99_ms")),
    _csv("joules_per_expression", measured("joules_per_expression")),
    _csv("speed_noisy", lambda row: row["speed"] and "; ".join(row["speed"]["noisy"])),
    Column("peak_gb", "GB", "peak memory, 10⁹ bytes", lambda gb: BLANK if gb is None else f"{gb:.2f}", tables="mhc"),
    _csv("peak_gb_of"),
    Column("parameters", "params", "parameters of the whole pipeline", _millions, tables="mhlc"),
    Column("training_data", "training", "what it was trained on", str, tables="mhlc", optional="hl", right=False),
    _csv("published", first_published("value")),  # in percent, like its difference
    _csv("published_difference", first_published("difference")),
    _csv("published_source", first_published("source")),
    Column("expressions_per_s", "ex/s", "", rate, tables="tc"),
    _csv("images_per_s"),
    _csv("peak_memory_mb"),
    Column("device", "device", "what it ran on", _word, tables="bhc", optional="h", right=False, data=True),
    Column("dtype", "dtype", "", str, tables="bc", optional="", right=False, data=True),
    Column("hashes", "weights", "", _hashes, lambda row: row["weights"], tables="b", right=False, digits=8),
    _csv("weights", lambda row: json.dumps(row["weights"], sort_keys=True)),
    _csv("trained_on"),
    _csv("licence"),
    _csv("saw_test_images"),
    _csv("provenance"),
    _csv("submitted"),
    Column("date", "date", "", str, tables="mc", optional="", right=False, data=True),
    Column("commit", "commit", "", _word, tables="mc", optional="", right=False, digits=7),
    Column("settings_hash", "settings", "", str, tables="bc", optional="", right=False, digits=8),
    _csv("older_runs", lambda row: len(row["history"])),
    _csv("run_dir"),
)
