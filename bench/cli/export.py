"""`bench export`: a pipeline's weights in the format of its official code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.flags import as_options
from bench.cli.options import Config, Json, Offline, Set, Weights


def export(
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="A pipeline that has an official format: clipvg.")],
    official: Annotated[Path, typer.Option("--official", help="The file to write, as the official code loads it.")],
    weights: Weights = None,
    on: Annotated[
        str | None, typer.Option("--on", help="Take bench.toml's weights and options for this data set.")
    ] = None,
    set_: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    offline: Offline = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Write a pipeline's weights as a file that its authors' own code loads."""
    import json as encoder

    from rich.console import Console

    from bench.settings import assignments, load_settings
    from bench.verbs.exporting import export_official

    resolved = load_settings(config, {"run.offline": offline or None})
    with as_options(pipeline, {"weights": weights}) as flagged:
        options = assignments(set_ or []) | flagged
        made = export_official(pipeline, official, resolved, on or "file", options, force)
    if json:
        print(encoder.dumps(made))
        return
    Console().print(f"{made['path']}: {made['bytes'] / 1e6:.1f} MB", highlight=False, soft_wrap=True)
