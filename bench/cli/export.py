"""`bench export`: a pipeline's weights in the format of its official code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import (
    Config,
    Force,
    Json,
    Offline,
    On,
    Set,
    Weights,
    as_options,
    assignments,
    pipeline_names,
    settings_of,
)
from bench.cli.output import echo, emit


def export(
    pipeline: Annotated[
        str,
        typer.Option(
            "--pipeline", "-p", help="A pipeline that has an official format: clipvg.", autocompletion=pipeline_names
        ),
    ],
    official: Annotated[Path, typer.Option("--official", help="The file to write.")],
    weights: Weights = None,
    on: On = None,
    set_: Set = None,
    force: Force = False,
    offline: Offline = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Write a pipeline's weights as a file that its authors' own code loads."""
    from bench import registry
    from bench.errors import UsageError
    from bench.evaluation.opening import OWN_DATA, pipeline_context
    from bench.hashing import sha256_file
    from bench.runs.files import make_folder

    resolved = settings_of(config, offline=offline)
    with as_options(pipeline, assignments(set_ or []), {"weights": weights}) as options:
        write = registry.load(registry.PIPELINES, pipeline, "export")
        if official.is_dir():
            raise UsageError(f"--official {official} is a folder; name the file to write")
        if official.exists() and not force:
            raise UsageError(f"--official {official} exists; --force replaces it")
        make_folder(official.parent)
        # On the CPU: numbers are copied here, not computed.
        path = write(pipeline_context(pipeline, on or OWN_DATA, resolved, options, device="cpu"), official)
    size = path.stat().st_size
    if json:
        emit({"pipeline": pipeline, "path": str(path), "bytes": size, "sha256": sha256_file(path)})
    else:
        echo(f"{path}: {size / 1e6:.1f} MB")
