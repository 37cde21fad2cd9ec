"""Format the numbers of a table's cells: fractions, intervals, rates, counts, differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BLANK = "–"


def measures(signature: str) -> tuple[str, str, str]:
    """Name what a run's accuracy, overlap and mean overlap are: of one box, or of sets of boxes."""
    return ("F1 = 1", "F1", "mean F1") if signature.startswith("f1=1|") else ("Acc@0.5", "IoU", "mean IoU")


def percent(value: float | None) -> str:
    """Format a fraction in percent with two digits; a dash for None."""
    return BLANK if value is None else _number(f"{100 * value:.2f}")


def interval(bounds: Sequence[float] | None, note: str | None = "") -> str:
    """Format two fractions as "[78.41, 80.92]" percent, a dash for None, and "(4 images)" where few inform it."""
    text = BLANK if bounds is None else f"[{percent(bounds[0])}, {percent(bounds[1])}]"
    return f"{text} ({note})" if note else text


def interval_of(row: Mapping[str, Any]) -> str:
    """Format the interval of a row, or of a stratum of one, with its note; "" for a run without metrics."""
    return "" if row.get("n") is None else interval(row["ci95"], row.get("ci95_note"))


def rate(value: float | None) -> str:
    """Format a rate per second with three digits or all before the point; a dash for None."""
    if value is None:
        return BLANK
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def count(value: int | None) -> str:
    """Format a whole number with its thousands apart; a dash for None."""
    return BLANK if value is None else f"{value:,}"


def signed(points: float, digits: int = 2) -> str:
    """Format a difference in points: "+0.62", "−0.29", "0.00"."""
    return _number(f"{points:+.{digits}f}")


def _number(text: str) -> str:
    """Return a formatted number with a true minus, and zero without a sign."""
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")
