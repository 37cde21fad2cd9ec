"""Text on its way to a terminal or a table: nothing in it moves the cursor, sets a colour or a title.

Names, kinds and messages come from other people's files and packages, so `printable` is applied at the places where
text is printed: by `echo`, by consoles (`Terminal` of bench/evaluation/progress.py), by cells of CSV and by logs.
"""

from __future__ import annotations

import logging
import sys

# Escape and every other control character but tab and newline; U+009B starts a sequence, too.
CONTROL = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\t"), ord("\n")})


def printable(text: str) -> str:
    """Remove the control characters of a text, tabs and newlines apart."""
    return text if text.isascii() and text.isprintable() else text.translate(CONTROL)


def is_text(value: object) -> bool:
    """Tell whether a value is a text that UTF-8 can store, which half a surrogate pair is not."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def echo(text: object, nl: bool = True, err: bool = False) -> None:
    """Print a text on stdout or stderr."""
    print(printable(str(text)), end="\n" if nl else "", file=sys.stderr if err else sys.stdout)


class PlainFormatter(logging.Formatter):
    """A formatter of log lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return printable(super().format(record))
