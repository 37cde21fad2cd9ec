"""Options that many commands have: one name, one type, one sentence each; and the settings they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from bench.settings import Resolved

WHY = {
    "tokenizer": "its text encoder knows its own",
    "preprocessing": "it prepares images in one way only",
}
Ways = Literal["official", "clean", "auto"]  # of preparing an image
MORE = "More options"  # the help's panel for options that are seldom needed; at most 12 others come before it

Config = Annotated[
    Path | None,
    typer.Option("--config", help="A bench.toml to use instead of the nearest one.", rich_help_panel=MORE),
]
Results = Annotated[
    Path | None,
    typer.Option(
        "--results", help="Folder of the stored runs.", show_default="results", file_okay=False, rich_help_panel=MORE
    ),
]
Json = Annotated[bool, typer.Option("--json", help="The last line of stdout is one JSON object.")]

Pipelines = Annotated[list[str], typer.Option("--pipeline", "-p", help="Pipelines: a,b or the flag repeated.")]
On = Annotated[str | None, typer.Option("--on", help="Take bench.toml's weights and options for this data set.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N images.")]
Partial = Annotated[
    int | None, typer.Option("--limit", min=1, help="Only the first N images; such a result is in no table.")
]
Weights = Annotated[str | None, typer.Option("--weights", help="Weights to use instead of bench.toml's.")]
Preprocessing = Annotated[
    Ways | None,
    typer.Option(
        "--preprocessing",
        help="How images are prepared, for pipelines that have several ways.",
        rich_help_panel=MORE,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of its table in bench.toml; may be repeated."),
]

Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:1.", show_default="auto")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="auto is float32 on a CPU, bfloat16 on CUDA.", show_default="auto"),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Images in a batch.", show_default="8")]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Seed of Python, numpy and torch.", show_default="0", rich_help_panel=MORE),
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Deterministic algorithms only.", rich_help_panel=MORE)
]
Compile = Annotated[bool, typer.Option("--compile", help="Networks go through torch.compile.", rich_help_panel=MORE)]
ChannelsLast = Annotated[
    bool, typer.Option("--channels-last", help="Convolutions work on images channels last.", rich_help_panel=MORE)
]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing from the network.", rich_help_panel=MORE)]


def settings_of(config: Path | None, results: Path | None = None, **run: object) -> Resolved:
    """Load the settings; `run` are flags over its table, where None and False leave the files' value."""
    from bench.settings import load_settings

    flags = {f"run.{key}": None if value is False else value for key, value in run.items()}
    return load_settings(config, flags | {"results": str(results) if results else None})


@contextmanager
def as_options(pipeline: str, options: Mapping[str, Any], flags: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    """Yield the pipeline's options: those of --set, and over them the `flags` that are not None.

    Raises UsageError, naming the flag instead of a key of bench.toml, where the block raises that there is no such
    option.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        yield {**options, **given}
    except SettingsError as error:
        for key in given:
            if key in error.keys:
                why = f"; {WHY[key]}" if key in WHY else ""
                raise UsageError(f"--{key}: {pipeline} takes none{why}") from None
        raise


def listed(values: list[str]) -> list[str]:
    """Split repeated flags and comma lists into names, in order, each once. A `file:` value is one path, commas too."""
    parts = [p.strip() for v in values for p in ([v] if v.startswith("file:") else v.split(","))]
    return [part for part in dict.fromkeys(parts) if part]
