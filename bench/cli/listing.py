"""`bench list`: what is registered and what has been run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class What(StrEnum):
    pipelines = "pipelines"
    splits = "splits"
    runs = "runs"


def listing(
    what: Annotated[What, typer.Argument(help="What to list.")] = What.pipelines,
    results: Annotated[Path, typer.Option("--results", "-o", help="Where the runs lie.")] = Path("results"),
    json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout.")] = False,
) -> None:
    """List pipelines, splits or runs."""
    import json as encoder

    from rich.console import Console
    from rich.table import Table

    rows = _runs(results) if what is What.runs else _pipelines() if what is What.pipelines else _splits()
    if json:
        print(encoder.dumps({what.value: rows}))
        return
    if not rows:
        Console().print(f"no {what.value} yet")
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if v is None else str(v) for v in row.values()))
    Console().print(table)


def _pipelines() -> list[dict[str, object]]:
    from bench import registry

    trainable = registry.names(registry.TRAINERS)
    return [
        {"pipeline": name, "trainable": "yes" if name in trainable else "", "from": registry.origin("pipeline", name)}
        for name in registry.names(registry.PIPELINES)
    ]


def _splits() -> list[dict[str, object]]:
    from bench.datasets.load import datasets

    return [
        {
            "split": f"{dataset.name}-{part.name}",
            "data set": dataset.title,
            "expressions": part.expressions,
            "pictures": part.pictures,
        }
        for dataset in datasets()
        for part in dataset.parts
    ]


def _runs(results: Path) -> list[dict[str, object]]:
    from bench.errors import RunError
    from bench.runs.record import read_record

    rows: list[dict[str, object]] = []
    for path in sorted(results.glob("runs/*/*/*/run.json")):
        try:
            record = read_record(path.parent)
        except RunError:
            rows.append({"run": str(path.parent), "status": "unreadable", "acc@0.5": None, "finished": None})
            continue
        accuracy = f"{100 * record.metrics.accuracy:.2f}" if record.metrics else None
        rows.append(
            {"run": str(path.parent), "status": record.status, "acc@0.5": accuracy, "finished": record.finished}
        )
    return rows
