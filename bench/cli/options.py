"""Options that many verbs have: one name, one type, one sentence each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.flags import Ways

Config = Annotated[
    Path | None, typer.Option("--config", help="A bench.toml to use instead of the nearest one.", show_default=False)
]
Results = Annotated[Path | None, typer.Option("--results", "-o", help="Where runs are kept.", show_default="results")]
Json = Annotated[bool, typer.Option("--json", help="The last line of stdout is one JSON object.")]

Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:1.", show_default="auto")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="auto is float32 on a CPU, bfloat16 on CUDA.", show_default="auto"),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Pictures in a batch.", show_default="8")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of Python, numpy and torch.", show_default="0")]
Deterministic = Annotated[bool, typer.Option("--deterministic", help="Deterministic algorithms only.")]
Compile = Annotated[bool, typer.Option("--compile", help="Networks go through torch.compile.")]
ChannelsLast = Annotated[bool, typer.Option("--channels-last", help="Convolutions work on pictures channels last.")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing from the network.")]

Weights = Annotated[
    str | None, typer.Option("--weights", help="Weights to use instead of bench.toml's.", show_default=False)
]
Preprocessing = Annotated[
    Ways | None,
    typer.Option(
        "--preprocessing",
        help="How pictures are made ready, for pipelines that know several ways.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the pipeline; may be repeated.", show_default=False),
]
