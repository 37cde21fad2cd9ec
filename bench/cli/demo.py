"""`bench demo`: a page on this machine with the answers of pipelines side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.options import Config, Device, Dtype, Offline, listed, settings_of


def demo(
    pipeline: Annotated[
        list[str] | None,
        typer.Option("--pipeline", "-p", help="Offer only these: a,b or the flag repeated.", show_default="all ready"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to serve on; the default is this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port.", show_default="the first free one from 7860")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    offline: Offline = False,
    config: Config = None,
) -> None:
    """Serve a page: upload an image or take an embedded scene, type an expression, compare what pipelines answer.

    Pipelines are built at their first use, and kept. Needs the extra "demo" of grounding-bench (Gradio).
    """
    from bench.demo.page import load_gradio, open_page

    load_gradio()
    from bench.demo.desk import Desk

    resolved = settings_of(config, device=device, dtype=dtype, offline=offline)
    open_page(Desk(resolved, listed(pipeline or [])), host, port, show=not no_open)
