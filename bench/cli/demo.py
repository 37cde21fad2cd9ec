"""`bench demo`: a page on this machine with the answers of pipelines side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.options import Config, Device, Dtype, Offline, listed, pipeline_names, settings_of


def demo(
    pipeline: Annotated[
        list[str] | None,
        typer.Option(
            "--pipeline",
            "-p",
            help="Pipelines to offer: A,B or the option repeated.",
            show_default="all that are ready",
            autocompletion=pipeline_names,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to serve on; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to serve on.", show_default="the first free one from 7860"),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    offline: Offline = False,
    config: Config = None,
) -> None:
    """Serve a page: choose an image, type an expression and compare the answers of pipelines.

    A pipeline is loaded at its first use and stays loaded. Needs the extra "demo" of grounding-bench (Gradio).
    """
    from bench.demo.page import load_gradio, open_page
    from bench.evaluation.device import loading

    loading("Gradio")
    load_gradio()
    from bench.demo.desk import Desk

    resolved = settings_of(config, device=device, dtype=dtype, offline=offline)
    open_page(Desk(resolved, listed(pipeline or [])), host, port, show=not no_open)
