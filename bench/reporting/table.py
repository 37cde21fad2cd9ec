"""One run as a row, and the columns of every table, each listed once.

A format (terminal, Markdown, LaTeX, HTML; exports/spreadsheet.py for CSV) takes its columns from COLUMNS and adds only
its own markup. A new column is one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.runs.record import RunRecord

BLANK = "–"
METRICS = (
    "n", "hits", "acc@0.5", "ci95", "acc@0.7", "acc@0.9", "mean_iou", "oracle@0.5", "no_box", "errors", "duplicates",
    "proposals_per_image",
)  # fmt: skip

Row = Mapping[str, Any]  # of `row`; in a leaderboard with the keys of bench/reporting/boards.py too


def row(record: RunRecord, run_dir: Path | str) -> dict[str, Any]:
    """A run as the JSON contract has it: accuracies are fractions with full precision, unknown values null.

    Plain values only; `strata` is cut -> label -> {n, hits, acc@0.5, ci95}; the last keys are about imported boxes.
    """
    metrics: dict[str, Any] = {} if record.metrics is None else record.metrics.model_dump(mode="json", by_alias=True)
    speed = record.throughput
    out: dict[str, Any] = {"pipeline": record.name, "split": record.identity.data.split}
    out |= {key: metrics.get(key) for key in METRICS} | {"strata": metrics.get("strata", {})}
    for key in ("expressions_per_s", "images_per_s", "peak_memory_mb"):
        out[key] = getattr(speed, key) if speed else None
    out |= {
        "run_dir": str(run_dir),
        "protocol": record.protocol,
        "signature": record.signature,
        "provenance": record.provenance,
        "partial": record.identity.data.partial,
    }
    for key in ("missing", "extra", "other_image"):
        out[key] = None if record.imported is None else getattr(record.imported, key)
    return out


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


def count(value: int | None) -> str:
    """A whole number with its thousands apart; a dash for None."""
    return BLANK if value is None else f"{value:,}"


def signed(points: float) -> str:
    """A difference in points: "+0.62", "−0.29", "0.00"."""
    text = f"{points:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of every table: `text` of a row is `format` of its `value`.

    `name` is the row's key and the CSV's field, `value` stands for it where a cell is made of several keys. `tables`
    has a letter for each table that shows the column: (t)erminal, (m)arkdown, (b)ehind the runs in Markdown, (h)tml,
    (l)atex; `optional` those that leave it out where no row has anything to say. `data`: the words of strangers, to be
    escaped. `digits`: how much of a hash is shown.
    """

    name: str
    header: str
    why: str
    format: Callable[[Any], str]
    value: Callable[[Row], Any] | None = None
    tables: str = "tmhl"
    optional: str = "tmhl"
    right: bool = True
    data: bool = False
    digits: int = 0

    def raw(self, row: Row) -> Any:
        return self.value(row) if self.value else row.get(self.name)

    def text(self, row: Row) -> str:
        return self.format(self.raw(row))


def shown(table: str, rows: Sequence[Row]) -> list[tuple[Column, list[str]]]:
    """The columns of a table (a letter of `Column.tables`) with the texts of their cells."""
    columns = [(column, [column.text(row) for row in rows]) for column in COLUMNS if table in column.tables]
    return [(column, cells) for column, cells in columns if table not in column.optional or set(cells) - {BLANK, "0"}]


def _whole(row: Row) -> Row:
    return row


def _latency(row: Row) -> str:
    return BLANK if row["latency_ms"] is None else busy(row) + rate(row["latency_ms"])


def _rank(bounds: Sequence[int] | None) -> str:
    """ "1", or "2-4" where the paired test cannot tell it from others."""
    return "-".join(map(str, dict.fromkeys(bounds))) if bounds else BLANK


def _published(row: Row) -> str:
    """The first published accuracy and the row's difference to it; "..." where more values circulate."""
    entries = [entry for entry in row["published"] if entry["metric"] == "acc@0.5"]
    if not entries:
        return BLANK
    more = " ..." if len(entries) > 1 else ""
    return f"{entries[0]['value']:.2f} ({signed(entries[0]['difference'])}){more}"


def _speed(row: Row) -> str:
    """Expressions a second: measured; "~" before what a busy machine gave; in brackets the whole evaluation's."""
    if row["speed"] is None:
        return BLANK if row["expressions_per_s"] is None else f"({rate(row['expressions_per_s'])})"
    return busy(row) + rate(row["speed"]["expressions_per_s"]["median"])


def busy(row: Row) -> str:
    """The mark of a speed that was measured on a busy machine."""
    return "~" if row["speed"] and row["speed"]["noisy"] else ""


def _millions(value: int | None) -> str:
    """Millions, with three digits."""
    return BLANK if value is None else "0" if value == 0 else f"{value / 1e6:.3g} M"


def _word(value: str | None) -> str:
    return value or BLANK


def _hashes(weights: Mapping[str, str]) -> str:
    return " ".join(str(sha256) for _, sha256 in sorted(weights.items()) if sha256) or BLANK


COLUMNS: tuple[Column, ...] = (
    Column("rank", "rank", "range of ranks that the paired test leaves open", _rank, tables="mhl", optional="h"),
    Column("pipeline", "pipeline", "", str, tables="mbl", optional="", right=False, data=True),
    Column("acc@0.5", "Acc@0.5", "", percent, tables="tml", optional=""),
    Column("ci95", "interval", "", lambda bounds: interval(bounds) if bounds else BLANK, tables="t", optional=""),
    Column("published", "published", "what papers report, and how this run differs", _published, _whole, tables="mhl"),
    Column("acc@0.7", "0.7", "Acc@0.7", percent, tables="tbh", optional="h"),
    Column("acc@0.9", "0.9", "Acc@0.9", percent, tables="tbh", optional="h"),
    Column("mean_iou", "mIoU", "mean IoU", percent, optional="h"),
    Column("oracle@0.5", "ceiling", "share of expressions for which some proposal would be a hit", percent),
    Column("no_box", "no box", "expressions that got no box", count, tables="tbh", optional="th"),
    Column("errors", "errors", "images that could not be read", count, tables="th"),
    Column("expressions_per_s", "ex/s", "", rate, tables="t"),
    Column("speed", "ex/s", "expressions per second, cold", _speed, _whole, tables="mhl", optional="hl"),
    Column("latency_ms", "ms", "milliseconds for one expression, median", _latency, _whole, tables="mhl"),
    Column("peak_gb", "GB", "peak memory, 10⁹ bytes", lambda gb: BLANK if gb is None else f"{gb:.2f}", tables="mh"),
    Column("parameters", "params", "parameters of the whole pipeline", _millions, tables="mhl"),
    Column("training_data", "training", "what it was trained on", str, tables="mhl", optional="hl", right=False),
    Column("date", "date", "", str, tables="m", optional="", right=False, data=True),
    Column("commit", "commit", "", _word, tables="m", optional="", right=False, digits=7),
    Column("device", "device", "what it ran on", _word, tables="bh", optional="h", right=False, data=True),
    Column("dtype", "dtype", "", str, tables="b", optional="", right=False, data=True),
    Column("weights", "weights", "", _hashes, tables="b", optional="", right=False, digits=8),
    Column("settings_hash", "settings", "", str, tables="b", optional="", right=False, digits=8),
)

MARKS: tuple[tuple[str, Callable[[Row], bool], str], ...] = (
    ("†", lambda r: r["provenance"] == "imported", "boxes made elsewhere and scored here"),
    (
        "‡",
        lambda r: r["saw_test_images"] == "yes",
        "its training saw test images, so the score may flatter it: the RefCOCO family's val and test images lie "
        "in COCO train2014 and train2017, and a detector trained there has seen the very boxes that are asked for",
    ),
    (
        "§",
        lambda r: r["saw_test_images"] == "unknown",
        "whether its training saw test images is not known, so the score may flatter it too",
    ),
    ("¶", lambda r: bool(r["errors"]), "some images could not be read; their expressions are misses"),
    ("◊", lambda r: r["submitted"] is not None, "somebody else's run, taken in after a re-score of its boxes here"),
)

REMARKS: tuple[tuple[Callable[[Row], bool], str], ...] = (
    (
        lambda r: r["speed"] is None and r["expressions_per_s"] is not None,
        "(ex/s) in brackets: of the whole evaluation, decoding included, no measurement of speed; "
        "`bench speed` makes one",
    ),
    (
        lambda r: bool(r["speed"] and r["speed"]["noisy"]),
        "~ measured while the machine was busy, or its clocks were held down, or with repeats far apart",
    ),
    (lambda r: r["peak_gb_of"] == "process", "GB: of the whole process, images in memory included"),
)
