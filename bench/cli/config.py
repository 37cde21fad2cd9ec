"""`bench config`: what is in force, and from where."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.options import Config, Json, settings_of
from bench.cli.output import console_of, echo, emit, table_of

app = typer.Typer(help="Show the settings in force, and the schema of bench.toml.", no_args_is_help=True)


@app.command()
def show(
    section: Annotated[
        str,
        typer.Argument(
            help="Show this section only: run, evaluation, pipelines.NAME, train.NAME, label.NAME.", show_default="all"
        ),
    ] = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """Show every setting and its origin: the code's default, the project's bench.toml or your own file."""
    from bench.reporting.terminal import print_table
    from bench.tables import in_force

    resolved = settings_of(config)
    rows = in_force(resolved, section)
    if json:
        emit({"home": str(resolved.home), "settings": rows})
        return
    cells = ((key, repr(row["value"]), row["from"]) for key, row in rows.items())
    print_table(console_of(), table_of(("key", "value", "from"), cells, fold=("value", "from")))
    echo(f"\nprepared data and weights: {resolved.home}")


@app.command()
def schema() -> None:
    """Print the JSON schema of bench.toml, for editors."""
    import json

    from bench.settings import Settings

    print(json.dumps(Settings.model_json_schema(), indent=2))
