"""What a file of pseudo-labels is like, by source: counts, words, duplicates, box sizes; as numbers and as a table.

Pure: rows in, numbers out. A row is what the reader of a label file found, with what it says of its making.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.boxes import box_area_xyxy
from bench.grounding import Box
from bench.reporting.terminal import wide

if TYPE_CHECKING:
    from rich.console import Console

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALL = 1 / 64  # of the picture's area: what Pseudo-Q drops
FREQUENT = 10
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row: its picture, phrase, box (xyxy pixels) and, where known, the area of its picture in pixels."""

    source: str
    picture: str
    text: str
    box: Box
    picture_area: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelStats:
    """One source. Shares are fractions; None where no row says.

    `words` is words in a phrase -> rows. `ambiguous` rows say the same of different boxes of one picture, and
    `repeated` rows the same of the same box as an earlier one. `entities` is the mean of what the rows' provenance
    says. `area` is quantile -> share of the picture that a box takes, of the `sized` rows whose picture's size is
    known.
    """

    source: str
    rows: int
    pictures: int
    rows_per_picture: tuple[int, float, int]  # least, mean, most
    phrases: int
    vocabulary: int
    words_mean: float
    words: dict[int, int]
    entities: float | None
    ambiguous: int
    repeated: int
    sized: int
    area: dict[str, float] | None
    small: float | None
    frequent: list[tuple[str, int]]
    templates: dict[str, int]
    detectors: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Plain values; `rows_per_picture` as {least, mean, most}."""
        least, mean, most = self.rows_per_picture
        return {**asdict(self), "rows_per_picture": {"least": least, "mean": mean, "most": most}}


def label_stats(rows: Iterable[LabelRow]) -> list[LabelStats]:
    """The statistics of each source, sources in order of first appearance."""
    sources: dict[str, list[LabelRow]] = {}
    for row in rows:
        sources.setdefault(row.source, []).append(row)
    return [_of_source(name, held) for name, held in sources.items()]


def _of_source(name: str, rows: Sequence[LabelRow]) -> LabelStats:
    per_picture = Counter(row.picture for row in rows)
    words = [row.text.lower().split() for row in rows]
    lengths = Counter(map(len, words))
    boxes: dict[tuple[str, str], set[Box]] = defaultdict(set)
    for row in rows:
        boxes[row.picture, _phrase(row)].add(row.box)
    once = {(row.picture, _phrase(row), row.box) for row in rows}
    entities = [n for row in rows if isinstance(n := row.provenance.get("entities"), (int, float))]
    shares = _shares(rows)
    return LabelStats(
        source=name,
        rows=len(rows),
        pictures=len(per_picture),
        rows_per_picture=(min(per_picture.values()), len(rows) / len(per_picture), max(per_picture.values())),
        phrases=len({_phrase(row) for row in rows}),
        vocabulary=len({word for phrase in words for word in phrase}),
        words_mean=sum(map(len, words)) / len(rows),
        words=dict(sorted(lengths.items())),
        entities=sum(entities) / len(entities) if entities else None,
        ambiguous=sum(len(boxes[row.picture, _phrase(row)]) > 1 for row in rows),
        repeated=len(rows) - len(once),
        sized=len(shares),
        area={f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(shares, QUANTILES), strict=True)}
        if len(shares)
        else None,
        small=float(np.mean(shares < SMALL)) if len(shares) else None,
        frequent=Counter(map(_phrase, rows)).most_common(FREQUENT),
        templates=_said(rows, "template"),
        detectors=_said(rows, "detector"),
    )


def _phrase(row: LabelRow) -> str:
    """The phrase as it is compared: a tokenizer knows no capitals either."""
    return " ".join(row.text.lower().split())


def _shares(rows: Sequence[LabelRow]) -> Any:
    """Share of its picture that each box takes, of the rows whose picture's size is known."""
    known = [(row.box, row.picture_area) for row in rows if row.picture_area]
    if not known:
        return np.zeros(0)
    return box_area_xyxy([box for box, _ in known]) / np.array([area for _, area in known])


def _said(rows: Sequence[LabelRow], key: str) -> dict[str, int]:
    """How many rows say each value of a key of their provenance, most frequent first."""
    return dict(Counter(str(row.provenance[key]) for row in rows if row.provenance.get(key)).most_common())


def print_stats(found: Sequence[LabelStats], console: Console | None = None) -> None:
    """A table with a column a source, and below it what does not fit into one."""
    from rich.console import Console as Terminal
    from rich.table import Table

    console = wide(console or Terminal(highlight=False))
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for stats in found:
        table.add_column(_plain(stats.source), justify="right", overflow="fold")
    for name, cells in zip(_ROWS, zip(*(_cells(stats) for stats in found), strict=True), strict=True):
        table.add_row(f"[dim]{name}[/dim]", *cells)
    console.print(table)
    for stats in found:
        for title, counts in (
            ("phrases", {said: n for said, n in stats.frequent if n > 1}),
            ("templates", stats.templates),
        ):
            if counts:
                shown = "; ".join(f"{_plain(said)} ({n:,})" for said, n in list(counts.items())[:FREQUENT])
                more = f"; {len(counts) - FREQUENT} more" if len(counts) > FREQUENT else ""
                name = f"[bold]{_plain(stats.source)}[/bold] {title}"
                console.print(f"\n{name}: {shown}{more}", soft_wrap=True)


_ROWS = (
    "rows", "pictures", "rows a picture, mean", "  least to most", "different phrases", "vocabulary",
    "words a phrase, mean", "  how long they are", "entities a phrase, mean", "rows on several boxes",
    "rows said twice", "box, share of the picture", "  5 to 95 %", "  under 1/64", "boxes from",
)  # fmt: skip


def _cells(stats: LabelStats) -> tuple[str, ...]:
    least, mean, most = stats.rows_per_picture
    area = stats.area
    return (
        f"{stats.rows:,}",
        f"{stats.pictures:,}",
        f"{mean:.2f}",
        f"{least} to {most}",
        f"{stats.phrases:,}",
        f"{stats.vocabulary:,}",
        f"{stats.words_mean:.2f}",
        _histogram(stats.words),
        "–" if stats.entities is None else f"{stats.entities:.2f}",
        f"{stats.ambiguous:,} ({stats.ambiguous / stats.rows:.1%})",
        f"{stats.repeated:,} ({stats.repeated / stats.rows:.1%})",
        "–" if area is None else f"{area['0.5']:.1%}",
        "–" if area is None else f"{area['0.05']:.1%} to {area['0.95']:.1%}",
        "–" if stats.small is None else f"{stats.small:.1%}",
        _plain("\n".join(list(stats.detectors)[:3]) or "–"),
    )


def _histogram(words: Mapping[int, int]) -> str:
    """ "2 ▃█▁ 4": how many phrases have each number of words, from the shortest to the longest."""
    low, high = min(words), max(words)
    high = min(high, low + 29)  # a stray long one must not make it unreadable
    most = max(words.values())
    bars = "".join(
        BARS[-(-words.get(n, 0) * (len(BARS) - 1) // most)] if words.get(n) else " " for n in range(low, high + 1)
    )
    return f"{low} {bars} {high}{'+' if max(words) > high else ''}"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
