"""`bench list`: what is registered and what has been run."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import Config, Json, Results, settings_of
from bench.cli.output import console_of, emit, table_of

if TYPE_CHECKING:
    from bench.settings import Resolved


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
    rows = {What.pipelines: _pipelines, What.splits: _splits, What.runs: _runs}[what](settings_of(config, results))
    if json:
        emit({what.value: rows})
    elif rows:
        cells = (["" if v is None else str(v) for v in row.values()] for row in rows)
        console_of().print(table_of(rows[0], cells))
    else:
        typer.echo(f"no {what.value} yet")


def _pipelines(resolved: Resolved) -> list[dict[str, object]]:
    """List every pipeline with what bench.toml says of its weights; nothing of a pipeline is imported."""
    from bench import registry

    rows: list[dict[str, object]] = []
    for name in registry.names(registry.PIPELINES):
        table = resolved.settings.pipelines.get(name, {})
        card = table.get("card", {})
        rows.append(
            {
                "pipeline": name,
                "weights": _weights({key: value for key, value in table.items() if key != "on"}),
                "licence": card.get("licence"),
                "saw test images": card.get("saw_test_images"),
                "trainable": "yes" if registry.has(name, "tasks") else "",
                "from": registry.origin(registry.PIPELINES, name),
            }
        )
    return rows


def _weights(table: Mapping[str, Any]) -> str:
    """Name the weights of a pipeline's table, in its order: "yolo11x.pt, ViT-B-16 openai"."""
    names = [f"{table.get('model', '')} {table['pretrained']}".strip()] if "pretrained" in table else []
    names += [table["weights"]] if isinstance(table.get("weights"), str) else []
    for value in table.values():
        inner = value if isinstance(value, list) else [value]
        names += [named for part in inner if isinstance(part, Mapping) and (named := _weights(part))]
    return ", ".join(names)


def _splits(_: Resolved) -> list[dict[str, object]]:
    from bench.datasets.load import datasets

    return [
        {
            "split": f"{dataset.name}-{part.name}",
            "data set": dataset.title,
            "expressions": part.expressions,
            "images": part.images,
        }
        for dataset in datasets()
        for part in dataset.parts
    ]


def _runs(resolved: Resolved) -> list[dict[str, object]]:
    from bench.errors import RunError
    from bench.runs.record import read_record

    rows: list[dict[str, object]] = []
    for path in sorted(Path(resolved.settings.results).glob("runs/*/*/*/run.json")):
        row: dict[str, object] = {"run": str(path.parent), "status": "unreadable", "acc@0.5": None, "finished": None}
        try:
            record = read_record(path.parent)
            accuracy = f"{100 * record.metrics.accuracy:.2f}" if record.metrics else None
            row |= {"status": record.status, "acc@0.5": accuracy, "finished": record.finished}
        except RunError:
            pass
        rows.append(row)
    return rows
