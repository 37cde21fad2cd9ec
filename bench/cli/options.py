"""Options that many commands have: one name, one type, one sentence each; and the settings they make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from bench.settings import Resolved

FLAGS = {"start_from": "weights", "batch": "batch-size"}  # option of a pipeline or training -> its flag
WHY = {
    "tokenizer": "its text encoder has its own",
    "preprocessing": "it prepares images in one way only",
    **dict.fromkeys(("start_from", "batch", "dtype"), "its parts have their own; try --set PART.KEY=VALUE"),
}
Ways = Literal["official", "clean", "auto"]  # of preparing an image
MOST_SEED = 2**63 - 1  # of torch
ROOM = 20  # bytes of a name, for those of its temporary file and record
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
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.", rich_help_panel=MORE)
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


def pipeline_names(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Complete the last name of a comma list of pipelines."""
    from bench import registry

    return _completed(registry.names(registry.PIPELINES), incomplete)


def split_names(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Complete the last name of a comma list of splits; file: is for one's own data."""
    from bench.datasets.load import split_names as known

    return _completed([*known(), "file:"], incomplete)


def _completed(names: Iterable[str], incomplete: str) -> list[str]:
    before, comma, _ = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names]


Pipelines = Annotated[
    list[str] | None,
    typer.Option("--pipeline", "-p", help="Pipelines: A,B or the option repeated.", autocompletion=pipeline_names),
]
Pipeline = Annotated[
    str, typer.Option("--pipeline", "-p", help="A name of `bench list`.", autocompletion=pipeline_names)
]
Splits = Annotated[
    list[str] | None,
    typer.Option(
        *("--split", "-s"),
        metavar="SPLIT",
        help="Splits: A,B or the option repeated; your data: file:PATH.jsonl.",
        autocompletion=split_names,
    ),
]
SPLIT: dict[str, Any] = {"metavar": "SPLIT", "autocompletion": split_names}  # of an option that names one split
Xywh = Annotated[bool, typer.Option("--xywh", help="Boxes are x, y, width, height, not x1, y1, x2, y2.")]
Key = Annotated[
    Literal["auto", "id", "row"],
    typer.Option(
        "--key", metavar="id|row|auto", help="Keys of the file: expression ids, row numbers, or as it states."
    ),
]
On = Annotated[
    str | None,
    typer.Option("--on", metavar="DATASET", help="Use bench.toml's weights and options for this data set."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N images.")]
Partial = Annotated[
    int | None, typer.Option("--limit", min=1, help="Use only the first N images; no table shows the result.")
]
Weights = Annotated[
    str | None, typer.Option("--weights", metavar="FILE", help="Weights to use instead of bench.toml's.")
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="FOLDER",
        help="Tokenizer, if needed: a folder or a hub id.",
        rich_help_panel=MORE,
    ),
]
Preprocessing = Annotated[
    Ways | None,
    typer.Option("--preprocessing", help="How to prepare images, if there is a choice.", rich_help_panel=MORE),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set an option of bench.toml; may be repeated."),
]

Device = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:1.", show_default="auto")
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(
        "--dtype",
        metavar="TYPE",
        help="float32, bfloat16, float16 or auto: bfloat16 on CUDA, else float32.",
        show_default="auto",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images in a batch.", show_default="8; GPU: 64")
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, max=MOST_SEED, help="Seed of Python, numpy and torch.", show_default="0", rich_help_panel=MORE
    ),
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Use deterministic algorithms only.", rich_help_panel=MORE)
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the networks with torch.compile.", rich_help_panel=MORE)
]
ChannelsLast = Annotated[
    bool,
    typer.Option("--channels-last", help="Store images channels last, which suits some GPUs.", rich_help_panel=MORE),
]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing from the network.", rich_help_panel=MORE)]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start anew instead of continuing what was stopped.", rich_help_panel=MORE)
]


OUTPUTS = ("out", "lists", "sheet", "draw", "chart")  # parameters that name what a command writes


def refuse_unusable(param: Any) -> None:
    """Let a command refuse a value of `param` before its work: one that is empty, or a place that cannot be written.

    An empty one is that of a variable that is not set.
    """
    consume = param.consume_value

    def consume_value(ctx: Any, words: Any) -> Any:
        value, source = consume(ctx, words)
        values = value if isinstance(value, (list, tuple)) else [value]
        if source.name == "COMMANDLINE" and any(isinstance(one, str) and not one.strip(" ,") for one in values):
            raise typer.BadParameter("it is empty; is a variable not set?", ctx=ctx, param=param)
        if param.name in OUTPUTS and value and (why := unwritable(Path(value))):
            raise typer.BadParameter(f"{str(value)[:200]}: {why}", ctx=ctx, param=param)
        return value, source

    param.consume_value = consume_value


def unwritable(path: Path) -> str:
    """Say why a file or folder at `path` cannot be written; "" where it can, for all that is known before."""
    import os

    path = path.expanduser().absolute()
    try:
        there = next(place for place in (path, *path.parents) if place.exists())
    except OSError as error:
        return f"it cannot be written ({error.strerror})"
    if there != path and not there.is_dir():
        return f"{there} is a file, and a folder is needed there; name another place"
    if not os.access(there, os.W_OK):
        return f"{there} cannot be written; make it writable or name another place"
    longest = os.pathconf(there if there.is_dir() else there.parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if any(len(os.fsencode(part)) + ROOM > longest for part in path.relative_to(there).parts):
        return f"the name is too long; {longest - ROOM} bytes are allowed"
    return ""


def settings_of(config: Path | None, results: Path | None = None, **run: object) -> Resolved:
    """Load the settings; `run` are flags over its table, where None and False leave the files' value."""
    from bench.settings import load_settings

    return load_settings(config, flags_of(results, **run))


def flags_of(results: Path | None = None, **run: object) -> dict[str, object]:
    """Collect the flags that were given, by their dotted keys of bench.toml."""
    flags = {f"run.{key}": value for key, value in run.items() if value is not None and value is not False}
    return flags | ({"results": str(results)} if results else {})


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
                raise UsageError(f"--{FLAGS.get(key, key)}: {pipeline} takes none{why}") from None
        raise


def listed(values: list[str] | None) -> list[str]:
    """Split repeated flags and comma lists into names, in order, each once. A `file:` value is one path, commas too."""
    parts = [p.strip() for v in values or () for p in ([v] if v.startswith("file:") else v.split(","))]
    return [part for part in dict.fromkeys(parts) if part]


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse `--set` arguments, dotted KEY=VALUE with TOML values, into nested tables. Raises SettingsError.

    A value that is not TOML is taken as a string: `--set ranker.views=["blur"]`, `--set proposer.weights=yolov8n.pt`.
    """
    from bench.old_names import current
    from bench.toml_tables import nested, parsed_toml

    flat: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not value.strip() or not all(part.strip() for part in key.split(".")):
            raise SettingsError(
                f"--set {pair:.200}: expected KEY=VALUE, as in --set ranker.margin=0.1; no text is KEY='\"\"'"
            )
        try:
            parsed = parsed_toml(f"value = {value}".encode(errors="surrogateescape"), pair)["value"]
        except SettingsError:
            parsed = value
        flat[".".join(part.strip() for part in key.split("."))] = parsed
    return current(nested(flat))  # type: ignore[no-any-return]
