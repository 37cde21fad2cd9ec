"""What commands print: JSON for programs, tables for people, logs on stderr."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

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
    from rich.console import Console

    console = Console(stderr=json, soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    return console


def table_console(json: bool) -> Console:
    """Open a console for tables: on stdout, or where stdout is for a program on stderr, and then not under --quiet."""
    from rich.console import Console

    from bench.evaluation.progress import is_quiet

    return Console(stderr=json, quiet=json and is_quiet(), emoji=False)


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

    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(stderr=True)
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_time=False, show_level=False, highlighter=None)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    else:  # a file has no edge to fold at
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    level = logging.INFO if leads else logging.WARNING
    logging.getLogger(name).setLevel(max(level, logging.getLogger("bench").level))
