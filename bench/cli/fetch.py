"""`bench fetch`: published weights, brought to this disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import Config, Json, Offline, On, settings_of
from bench.cli.output import console_of, echo, emit, table_of

if TYPE_CHECKING:
    from rich.progress import TaskID


def fetch(
    names: Annotated[
        list[str],
        typer.Argument(metavar="WEIGHTS|PIPELINE...", help="yolo-clip, yolo11x.pt, OWNER/MODEL or 'ViT-B-16 openai'."),
    ],
    on: On = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--list", help="List what would be fetched, and from where.")
    ] = False,
    offline: Offline = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Fetch weights by name, or all that a pipeline needs; what is on this disk already is left as it is.

    Each file appears whole or not at all, and its hash is checked where it is known.
    """
    from rich.markup import escape

    from bench.errors import UsageError, WeightsError
    from bench.fetching.fetch import fetch as fetch_weights
    from bench.fetching.fetch import licence_of, wanted
    from bench.fetching.sources import at_hand
    from bench.hashing import sha256_file

    resolved = settings_of(config, offline=offline)
    sources = wanted(names, resolved, on or "")
    if dry_run:
        rows = [
            {
                "weights": source.what,
                "state": "there" if at_hand(source, resolved) else "to be fetched" if source.fetch_line else "by hand",
                "from": source.hub or source.url or source.how,
                "to": str(source.target if source.url else source.cache if source.hub else ""),
                "licence": licence_of(source, resolved),
            }
            for source in sources
        ]
        if json:
            emit({"weights": rows})
        elif rows:
            console_of().print(table_of(rows[0], (map(escape, row.values()) for row in rows)))
        else:
            echo(f"{', '.join(names)}: no weights are needed")
        return
    if resolved.settings.run.offline:
        raise UsageError("bench fetch needs the network: leave --offline (run.offline) out, or add --dry-run to list")
    done: list[dict[str, Any]] = []
    failed: list[str] = []
    with _progress() as report:
        for source in sources:
            there = at_hand(source, resolved)
            try:
                files = fetch_weights(source, resolved, report)
            except WeightsError as error:
                failed.append(str(error))
                continue
            for path in files:
                size, digest = path.stat().st_size, sha256_file(path)
                done.append({"weights": source.what, "file": path, "bytes": size, "sha256": digest})
                if not json:
                    state = "is there already" if there else "fetched"
                    echo(f"{source.what}: {state}, {path} ({size / 1e6:,.1f} MB, sha256 {digest[:12]})")
    if failed:
        raise WeightsError("\n".join(failed))
    if json:
        emit({"weights": done})
    elif not done:
        echo(f"{', '.join(names)}: no weights are needed")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """Draw a bar on a terminal; a file gets the line at the end alone. The hub's client draws its own."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = console_of(json=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, whole: int | None) -> None:
            task = tasks[what] if what in tasks else tasks.setdefault(what, bar.add_task(what))
            bar.update(task, completed=done, total=whole)

        yield report
