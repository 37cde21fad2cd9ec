"""Data as Markdown: tables that read well as plain text too, and words that cannot be markup."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

from bench.reporting.table import BLANK


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table whose columns line up in plain text; `right` numbers the columns that are aligned right."""
    widths = [max(3, *(_width(cells[n]) for cells in (header, *rows))) for n in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            " " * (widths[n] - _width(text)) + text if n in right else text + " " * (widths[n] - _width(text))
            for n, text in enumerate(cells)
        )
        return "| " + " | ".join(padded) + " |\n"

    rule = "|".join("-" * (w + 1) + ":" if n in right else ":" + "-" * (w + 1) for n, w in enumerate(widths))
    return line(header) + f"|{rule}|\n" + "".join(line(cells) for cells in rows)


def escape(text: str) -> str:
    """Data as one line of plain Markdown text: no markup, no HTML, no new cell or row."""
    flat = " ".join(text.split())
    flat = "".join(c for c in flat if unicodedata.category(c) not in ("Cc", "Cf", "Cs") or c == "\u200d")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(flat, quote=False))


def code(digest: str, digits: int) -> str:
    """The first digits of a hash, as code; backslashes do not escape there, so only letters and digits are kept."""
    kept = re.sub(r"[^0-9A-Za-z]", "", digest)[:digits]
    return f"`{kept}`" if kept else BLANK


def _width(text: str) -> int:
    """Columns of a terminal: wide letters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
