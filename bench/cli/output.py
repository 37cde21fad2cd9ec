"""What commands print: JSON for programs, tables for people, logs on stderr."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bench.printing import echo as echo

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 240


def emit(value: Any) -> None:
    """Print one line of JSON; a number that is not finite is null."""
    import json

    print(json.dumps(_finite(value), default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and value - value != 0 else value


def console_of(json: bool = False) -> Console:
    """Open a console on stdout, or on stderr where stdout is for a program; a file is wide and folds no line."""
    from bench.evaluation.progress import Terminal

    console = Terminal(stderr=json, soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    return console


def table_console(json: bool) -> Console:
    """Open a console for tables: on stdout, or where stdout is for a program on stderr, and then not under --quiet."""
    from bench.evaluation.progress import Terminal, is_quiet

    return Terminal(stderr=json, quiet=json and is_quiet(), emoji=False)


def table_of(
    columns: Collection[str],
    rows: Iterable[Iterable[str]],
    title: str | None = None,
    right: Collection[str] = (),
    fold: Collection[str] = (),
) -> Table:
    """Make a plain table of texts; the columns in `right` are aligned there, those in `fold` may be broken."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", show_header=bool(columns))
    for column in columns:
        justify: Any = "right" if column in right else "left"
        table.add_column(column, overflow="fold", no_wrap=column not in fold, justify=justify)
    for row in rows:
        table.add_row(*row)
    return table


def log_to_stderr(name: str, leads: bool = True) -> None:
    """Show warnings, and the logger `name` from INFO on; of a rank that does not lead only its warnings.

    Under `--quiet` only errors pass.
    """
    import logging

    from rich.logging import RichHandler

    from bench.evaluation.progress import Terminal
    from bench.printing import PlainFormatter

    console = Terminal(stderr=True)
    if console.is_terminal:
        handler: Any = RichHandler(
            console=console, show_path=False, show_time=False, show_level=False, highlighter=None
        )
        handler.setFormatter(PlainFormatter("%(message)s"))
    else:  # a file has no edge to fold at
        handler = logging.StreamHandler()
        handler.setFormatter(PlainFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
    level = logging.INFO if leads else logging.WARNING
    logging.getLogger(name).setLevel(max(level, logging.getLogger("bench").level))
