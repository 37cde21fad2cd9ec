"""`bench list`: what is registered and what has been run."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from bench.cli.options import Config, Json, Results, settings_of
from bench.cli.output import console_of, echo, emit, table_of

FOLD = ("what it does", "weights", "licence", "data set")
DROP = ("licence", "weights", "saw test images", "trainable")  # where the terminal is narrow, in this order


def listing(
    what: Annotated[
        Literal["pipelines", "splits", "runs"], typer.Argument(metavar="KIND", help="What to list.")
    ] = "pipelines",
    results: Results = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List pipelines, splits or runs."""
    from bench.doctor import readiness

    list_rows = {"pipelines": readiness.pipeline_rows, "splits": readiness.split_rows, "runs": readiness.run_rows}
    rows = list_rows[what](settings_of(config, results))
    if json:
        emit({what: rows})
    elif rows:
        from bench.reporting.terminal import print_table

        cells = (["" if v is None else str(v) for v in row.values()] for row in rows)
        table = table_of(rows[0], cells, right=("expressions", "images"), fold=FOLD)
        print_table(console_of(), table, DROP)
    else:
        echo(f"no {what} yet")
