"""`bench config`: what is in force, and from where."""

from __future__ import annotations

import typer

from bench.cli.options import Config, Json, settings_of
from bench.cli.output import console_of, emit, table_of

app = typer.Typer(help="The settings in force, and the schema of bench.toml.", no_args_is_help=True)


@app.command()
def show(config: Config = None, json: Json = False) -> None:
    """Every setting in force with the layer it came from: the project's defaults or a bench.toml of yours."""
    from bench.settings import flattened

    resolved = settings_of(config)
    values = flattened(resolved.settings.model_dump())
    rows = {key: {"value": v, "from": resolved.origin.get(key, "built in")} for key, v in values.items()}
    if json:
        emit({"home": str(resolved.home), "settings": rows})
        return
    cells = ((key, repr(row["value"]), row["from"]) for key, row in rows.items())
    console_of().print(table_of(("key", "value", "from"), cells))
    typer.echo(f"\nprepared data and weights: {resolved.home}")


@app.command()
def schema() -> None:
    """The JSON schema of bench.toml, for editors."""
    import json

    from bench.settings import Settings

    print(json.dumps(Settings.model_json_schema(), indent=2))
