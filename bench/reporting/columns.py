"""What the cells of a leaderboard say, as Markdown: rank, speed, memory, parameters, what was published, marks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.reporting.markdown_text import code, escape
from bench.reporting.table import BLANK, interval, percent, rate

Row = Mapping[str, Any]
Column = tuple[str, bool, Callable[[Row], str]]  # header, whether aligned right, cell

MARKS: tuple[tuple[str, Callable[[Row], bool], str], ...] = (
    ("†", lambda r: r["provenance"] == "imported", "boxes made elsewhere and scored here"),
    (
        "‡",
        lambda r: r["saw_test_images"] == "yes",
        "its training saw test pictures, so the score may flatter it: the RefCOCO family's val and test pictures lie "
        "in COCO train2014 and train2017, and a detector trained there has seen the very boxes that are asked for",
    ),
    (
        "§",
        lambda r: r["saw_test_images"] == "unknown",
        "whether its training saw test pictures is not known, so the score may flatter it too",
    ),
    ("¶", lambda r: bool(r["errors"]), "some pictures could not be read; their expressions are misses"),
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
    (lambda r: r["peak_gb_of"] == "process", "GB: of the whole process, pictures in memory included"),
)


def rank(r: Row) -> str:
    """ "1", or "2-4" where the paired test cannot tell it from others."""
    if r["rank"] is None:
        return BLANK
    best, worst = r["rank"]
    return str(best) if best == worst else f"{best}-{worst}"


def name(r: Row) -> str:
    return escape(r["pipeline"]) + "".join(f" {mark}" for mark, applies, _ in MARKS if applies(r))


def accuracy(r: Row) -> str:
    return f"{percent(r['acc@0.5'])} {interval(r['ci95'])}".replace("[", r"\[")


def speed(r: Row) -> str:
    """Expressions a second: measured; "~" before what a busy machine gave; in brackets the whole evaluation's."""
    if r["speed"] is None:
        return BLANK if r["expressions_per_s"] is None else f"({rate(r['expressions_per_s'])})"
    said = rate(r["speed"]["expressions_per_s"]["median"])
    return f"\\~{said}" if r["speed"]["noisy"] else said


def milliseconds(r: Row) -> str:
    if r["latency_ms"] is None:
        return BLANK
    return f"\\~{rate(r['latency_ms'])}" if r["speed"]["noisy"] else rate(r["latency_ms"])


def parameters(r: Row) -> str:
    """Millions, with three digits."""
    count = r["parameters"]
    return BLANK if count is None else "0" if count == 0 else f"{count / 1e6:.3g} M"


def signed(points: float) -> str:
    """A difference in points: "+0.62", "−0.29", "0.00"."""
    said = f"{points:+.2f}"
    return "0.00" if float(said) == 0 else said.replace("-", "−")


def published(r: Row) -> str:
    """The first published accuracy and the row's difference to it; "..." where more values circulate."""
    found = [entry for entry in r["published"] if entry["metric"] == "acc@0.5"]
    if not found:
        return BLANK
    more = " ..." if len(found) > 1 else ""
    return f"{found[0]['value']:.2f} ({signed(found[0]['difference'])}){more}"


def verdict(entry: Mapping[str, Any]) -> str:
    """Whether the published value lies in the row's own interval."""
    within = entry["within_interval"]
    return BLANK if within is None else "yes" if within else "no"


def weights(r: Row) -> str:
    return ", ".join(code(str(sha), 8) for _, sha in sorted(r["weights"].items()) if sha) or BLANK


MAIN: tuple[Column, ...] = (
    ("rank", True, rank),
    ("pipeline", False, name),
    ("Acc@0.5", True, accuracy),
    ("published", True, published),
    ("mIoU", True, lambda r: percent(r["mean_iou"])),
    ("ceiling", True, lambda r: percent(r["oracle@0.5"])),
    ("ex/s", True, speed),
    ("ms", True, milliseconds),
    ("GB", True, lambda r: BLANK if r["peak_gb"] is None else f"{r['peak_gb']:.2f}"),
    ("params", True, parameters),
    ("training", False, lambda r: r["training_data"]),
    ("date", False, lambda r: escape(r["date"])),
    ("commit", False, lambda r: code(r["commit"] or "", 7)),
)
MORE: tuple[Column, ...] = (
    ("pipeline", False, lambda r: escape(r["pipeline"])),
    ("Acc@0.7", True, lambda r: percent(r["acc@0.7"])),
    ("Acc@0.9", True, lambda r: percent(r["acc@0.9"])),
    ("no box", True, lambda r: f"{r['no_box']:,}"),
    ("device", False, lambda r: escape(r["device"]) or BLANK),
    ("dtype", False, lambda r: escape(r["dtype"])),
    ("weights", False, weights),
    ("settings", False, lambda r: code(r["settings_hash"], 8)),
)
OPTIONAL = ("published", "ceiling", "ms", "GB", "params")  # columns that are left out where no row has anything to say
