"""List the marks of rows and the remarks under tables, once for every format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.reporting.rows import Row

# The one legend of every format: sign, word (CSV and hub), the rows it applies to, what it says.
MARKS: tuple[tuple[str, str, Callable[[Row], bool], str], ...] = (
    (
        "†",
        "imported",
        lambda r: r["provenance"] == "imported",
        "boxes predicted elsewhere, scored here; what is stated of their training is not checked",
    ),
    (
        "‡",
        "saw test images",
        lambda r: r["saw_test_images"] == "yes",
        "its training included test images, so the score may flatter it",
    ),
    (
        "§",
        "test images unknown",
        lambda r: r["saw_test_images"] == "unknown",
        "unknown whether its training included test images",
    ),
    (
        "¶",
        "unreadable images",
        lambda r: bool(r["errors"]),
        "some images were unreadable; their expressions are misses",
    ),
    (
        "○",
        "other masks",
        lambda r: bool(r.get("other_masks")),
        "scored by other ground-truth masks than the others, so its numbers of masks are left out",
    ),
    (
        "□",
        "one box",
        lambda r: bool(r.get("several") and r["several"]["one_box"]),
        "answers one box at most, where an expression may mean several objects",
    ),
    ("◊", "submitted", lambda r: r["submitted"] is not None, "another person's run, re-scored here"),
)
UNCHECKED = ("?", "recalled, inferred or from a third party; not looked up at its source")  # of a published value
NOISY = "measured while the machine was busy, its clocks slowed, repeats far apart, or at another commit than the run"

REMARKS: tuple[tuple[Callable[[Row], bool], str], ...] = (
    (
        lambda r: r["speed"] is None and r["expressions_per_s"] is not None,
        "(ex/s) in brackets: of the whole evaluation, decoding included, no measurement of speed; "
        "`bench speed` makes one",
    ),
    (
        lambda r: bool(r["speed"] and r["speed"]["noisy"]),
        f"~ {NOISY}",
    ),
    (lambda r: r["peak_gb_of"] == "process", "GB: of the whole process, images in memory included"),
)


def marks(row: Row) -> list[tuple[str, str]]:
    """Return the marks of a row: sign and word."""
    return [(sign, word) for sign, word, applies, _ in MARKS if applies(row)]


def legend(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the marks that occur in some row: sign and meaning."""
    return [(sign, why) for sign, _, applies, why in MARKS if any(applies(row) for row in rows)]
