"""`bench config`: what is in force, and from where."""

from __future__ import annotations

import typer

from bench.cli.options import Config, Json

app = typer.Typer(help="The settings in force, and the schema of bench.toml.", no_args_is_help=True)


@app.command()
def show(config: Config = None, json: Json = False) -> None:
    """Every setting in force with the layer it came from: the project's defaults or a bench.toml of yours."""
    import json as encoder

    from rich.console import Console
    from rich.table import Table

    from bench.settings import flattened, load_settings

    resolved = load_settings(config)
    values = flattened(resolved.settings.model_dump())
    if json:
        rows = {key: {"value": v, "from": resolved.origin.get(key, "built in")} for key, v in values.items()}
        print(encoder.dumps({"home": str(resolved.home), "settings": rows}))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("key", "value", "from"):
        table.add_column(column, overflow="fold")
    for key, value in values.items():
        table.add_row(key, repr(value), resolved.origin.get(key, "built in"))
    console = Console()
    console.print(table)
    console.print(f"\nprepared data and weights: {resolved.home}", soft_wrap=True)


@app.command()
def schema() -> None:
    """The JSON schema of bench.toml, for editors."""
    import json as encoder

    from bench.settings import Settings

    print(encoder.dumps(Settings.model_json_schema(), indent=2))
