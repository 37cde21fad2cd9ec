"""Summarise a file of pseudo-labels by source: counts, words, duplicates, box sizes; as numbers and as a table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.boxes import box_area_xyxy
from bench.datasets.fingerprint import image_key
from bench.grounding import Box, Expression, Scene
from bench.reporting.cells import BLANK
from bench.reporting.terminal import wide

if TYPE_CHECKING:
    from rich.console import Console

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALL = 1 / 64  # of the image's area: what Pseudo-Q drops
FREQUENT = 10
BARS = "▁▂▃▄▅▆▇█"


LabelRow = tuple[Scene, Expression, Mapping[str, Any]]  # the image, the phrase with its box, its provenance


def label_stats(sources: Mapping[str, Sequence[LabelRow]]) -> list[dict[str, Any]]:
    """Compute the statistics of the rows of each source; plain values for JSON.

    Shares are fractions; None where no row says. `words` is words in a phrase -> rows. `ambiguous` rows name different
    boxes of one image by the same phrase, and `repeated` rows the same box as an earlier one. `entities` is the mean
    of the rows' provenance. `area` is quantile -> share of the image that a box takes, of the `sized` rows whose
    image's size is known.
    """
    return [_of_source(name, own) for name, own in sources.items()]


def _of_source(name: str, rows: Sequence[LabelRow]) -> dict[str, Any]:
    images = [image_key(scene.file) for scene, *_ in rows]
    per_image = Counter(images)
    words = [expression.text.lower().split() for _, expression, _ in rows]
    phrases = [" ".join(phrase) for phrase in words]  # as they are compared: a tokenizer knows no capitals either
    boxes: dict[tuple[str, str], set[Box]] = defaultdict(set)
    for (_, expression, _), image, phrase in zip(rows, images, phrases, strict=True):
        boxes[image, phrase].add(expression.box)
    entities = [n for *_, provenance in rows if isinstance(n := provenance.get("entities"), (int, float))]
    sized = [(e.box, float(scene.width * scene.height)) for scene, e, _ in rows if scene.width and scene.height]
    shares = box_area_xyxy([box for box, _ in sized]) / np.array([area for _, area in sized]) if sized else np.zeros(0)
    area = (
        dict(zip(map("{:g}".format, QUANTILES), np.quantile(shares, QUANTILES).tolist(), strict=True))
        if sized
        else None
    )
    return {
        "source": name,
        "rows": len(rows),
        "images": len(per_image),
        "rows_per_image": {
            "least": min(per_image.values()),
            "mean": len(rows) / len(per_image),
            "most": max(per_image.values()),
        },
        "phrases": len(set(phrases)),
        "vocabulary": len({word for phrase in words for word in phrase}),
        "words_mean": sum(map(len, words)) / len(rows),
        "words": dict(sorted(Counter(map(len, words)).items())),
        "entities": sum(entities) / len(entities) if entities else None,
        "ambiguous": sum(len(boxes[each]) > 1 for each in zip(images, phrases, strict=True)),
        "repeated": len(rows) - sum(map(len, boxes.values())),
        "sized": len(sized),
        "area": area,
        "small": float(np.mean(shares < SMALL)) if sized else None,
        "frequent": Counter(phrases).most_common(FREQUENT),
        "templates": _values(rows, "template"),
        "detectors": _values(rows, "detector"),
    }


def _values(rows: Sequence[LabelRow], key: str) -> dict[str, int]:
    """Count the rows with each value of a key of their provenance, most frequent first."""
    return dict(Counter(str(each[key]) for *_, each in rows if each.get(key)).most_common())


def print_stats(sources: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print a table with a column a source, and below it what does not fit into one."""
    from rich.table import Table

    from bench.evaluation.progress import Terminal

    console = wide(console or Terminal(highlight=False))
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for stats in sources:
        table.add_column(_plain(stats["source"]), justify="right", overflow="fold")
    for cells in zip(*(_cells(stats).items() for stats in sources), strict=True):
        table.add_row(f"[dim]{cells[0][0]}[/dim]", *(text for _, text in cells))
    console.print(table)
    for stats in sources:
        repeated = {phrase: n for phrase, n in stats["frequent"] if n > 1}
        for title, counts in (("phrases", repeated), ("templates", stats["templates"])):
            if counts:
                first = "; ".join(f"{_plain(text)} ({n:,})" for text, n in list(counts.items())[:FREQUENT])
                more = f"; {len(counts) - FREQUENT} more" if len(counts) > FREQUENT else ""
                console.print(f"\n[bold]{_plain(stats['source'])}[/bold] {title}: {first}{more}", soft_wrap=True)


def _cells(stats: Mapping[str, Any]) -> dict[str, str]:
    """Return name of a line -> the source's cell in it."""
    per_image, area, rows = stats["rows_per_image"], stats["area"], stats["rows"]
    return {
        "rows": f"{rows:,}",
        "images": f"{stats['images']:,}",
        "rows an image, mean": f"{per_image['mean']:.2f}",
        "  least to most": f"{per_image['least']} to {per_image['most']}",
        "different phrases": f"{stats['phrases']:,}",
        "vocabulary": f"{stats['vocabulary']:,}",
        "words a phrase, mean": f"{stats['words_mean']:.2f}",
        "  how long they are": _histogram(stats["words"]),
        "entities a phrase, mean": BLANK if stats["entities"] is None else f"{stats['entities']:.2f}",
        "rows on several boxes": f"{stats['ambiguous']:,} ({stats['ambiguous'] / rows:.1%})",
        "repeated rows": f"{stats['repeated']:,} ({stats['repeated'] / rows:.1%})",
        "box, share of the image": BLANK if area is None else f"{area['0.5']:.1%}",
        "  5 to 95 %": BLANK if area is None else f"{area['0.05']:.1%} to {area['0.95']:.1%}",
        "  under 1/64": BLANK if area is None else f"{stats['small']:.1%}",
        "boxes from": _plain("\n".join(list(stats["detectors"])[:3]) or BLANK),
    }


def _histogram(words: Mapping[int, int]) -> str:
    """Draw "2 ▃█▁ 4": how many phrases have each number of words, from the shortest to the longest."""
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
