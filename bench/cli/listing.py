"""`bench list`: what is registered and what has been run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import Config, Json, Results

if TYPE_CHECKING:
    from bench.settings import Resolved

WIDE = 240


class What(StrEnum):
    pipelines = "pipelines"
    splits = "splits"
    runs = "runs"


def listing(
    what: Annotated[What, typer.Argument(help="What to list.")] = What.pipelines,
    results: Results = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List pipelines, splits or runs."""
    import json as encoder

    from rich.console import Console
    from rich.table import Table

    from bench.settings import load_settings

    resolved = load_settings(config, {"results": str(results) if results else None})
    rows = LISTS[what](resolved)
    if json:
        print(encoder.dumps({what.value: rows}))
        return
    console = Console()
    if not rows:
        console.print(f"no {what.value} yet")
        return
    if not console.is_terminal:
        console.width = max(console.width, WIDE)  # a file or a pipe has no edge to fold at
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if v is None else str(v) for v in row.values()))
    console.print(table)


def _pipelines(resolved: Resolved) -> list[dict[str, object]]:
    """Every pipeline with what bench.toml says of its weights; nothing of a pipeline is imported."""
    from bench import registry

    tables = resolved.settings.pipelines
    rows: list[dict[str, object]] = []
    for name in registry.names(registry.PIPELINES):
        table = tables.get(name, {})
        card = table.get("card", {})
        rows.append(
            {
                "pipeline": name,
                "weights": _weights({key: value for key, value in table.items() if key != "on"}),
                "licence": card.get("licence"),
                "saw test pictures": card.get("saw_test_images"),
                "trainable": "yes" if registry.has(name, "tasks") else "",
                "from": registry.origin("pipeline", name),
            }
        )
    return rows


def _weights(table: Mapping[str, Any]) -> str:
    """The weights a pipeline's table names, in its order: "yolo11x.pt, ViT-B-16 openai"."""
    found = [f"{table.get('model', '')} {table['pretrained']}".strip()] if "pretrained" in table else []
    found += [table["weights"]] if isinstance(table.get("weights"), str) else []
    for value in table.values():
        inner = value if isinstance(value, list) else [value]
        found += [named for part in inner if isinstance(part, Mapping) and (named := _weights(part))]
    return ", ".join(found)


def _splits(_: Resolved) -> list[dict[str, object]]:
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


def _runs(resolved: Resolved) -> list[dict[str, object]]:
    from bench.errors import RunError
    from bench.runs.record import read_record

    rows: list[dict[str, object]] = []
    for path in sorted(Path(resolved.settings.results).glob("runs/*/*/*/run.json")):
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


LISTS: dict[What, Callable[[Resolved], list[dict[str, object]]]] = {
    What.pipelines: _pipelines,
    What.splits: _splits,
    What.runs: _runs,
}
