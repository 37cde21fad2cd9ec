"""Logs on stderr: a line each, with colours on a terminal."""

from __future__ import annotations


def log_to_stderr(name: str, leads: bool = True) -> None:
    """Shows warnings, and what the logger `name` says besides; of a rank that does not lead its warnings alone."""
    import logging

    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(stderr=True)
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    else:  # a file has no edge to fold at
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger(name).setLevel(logging.INFO if leads else logging.WARNING)
