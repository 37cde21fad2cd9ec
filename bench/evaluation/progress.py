"""Progress of a run on stderr: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from bench.printing import printable

LINE_EVERY_S = 5.0
Advance = Callable[[int], None]


class Terminal(Console):
    """A console of whose output only its own styles are more than text (bench/printing.py)."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as a Console does, without the control characters of the texts."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


@contextmanager
def progress(title: str, total: int, before: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """Yield `advance(images)`. `before` images were answered in earlier sessions; the rate leaves them out."""
    console = Terminal(stderr=True, quiet=quiet or is_quiet(), emoji=False)  # file:bird: is no emoji
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(title, total=total, completed=before, rate="")
            start, done = time.monotonic(), 0

            def advance(images: int) -> None:
                nonlocal done
                done += images
                rate = done / max(time.monotonic() - start, 1e-9)
                bar.update(task, advance=images, rate=f"{rate:.1f} images/s")

            yield advance
    else:
        yield _lines(console, title, total, before)


@contextmanager
def saying_how_to_go_on(line: str) -> Iterator[None]:
    """Print a line where the block is interrupted: by Ctrl-C, or a command by SIGTERM or SIGHUP."""
    try:
        yield
    except KeyboardInterrupt:
        message(line)
        raise


def is_quiet() -> bool:
    """Tell whether only results and errors are to be printed (`--quiet`): the level of the logger "bench" says it."""
    return logging.getLogger("bench").level >= logging.ERROR


def message(line: str, error: bool = False) -> None:
    """Print one line on stderr; under `--quiet` only an error."""
    if is_quiet() and not error:
        return
    with suppress(OSError):  # a terminal that was closed must not end the work
        Terminal(stderr=True, emoji=False, force_jupyter=False).print(
            line, markup=False, highlight=False, soft_wrap=True
        )


def _lines(console: Console, title: str, total: int, before: int) -> Advance:
    start = last = time.monotonic()
    done = 0

    def advance(images: int) -> None:
        nonlocal done, last
        done += images
        now = time.monotonic()
        if now - last < LINE_EVERY_S:
            return
        last = now
        rate = done / (now - start)
        seconds = (total - before - done) / rate
        console.print(
            f"{title}: {before + done}/{total} images, {rate:.1f} images/s, {seconds:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )

    return advance
