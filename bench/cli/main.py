"""`bench`: a file a command, each of which parses, calls a library function and prints.

`bench --help` imports no command: COMMANDS has its lines, and a command is imported when it is called.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from bench.errors import BenchError
from bench.old_names import current_arguments

COMMANDS = {  # panel of the help -> command -> what it does, on one line of a terminal
    "Measure": {
        "run": "Run pipelines on splits, and score them.",
        "score": "Score a stored run again, or boxes made elsewhere.",
        "compare": "Compare runs: who is better, and how sure that is.",
        "speed": "Measure how fast pipelines are.",
        "leaderboard": "Write the tables of results/ from the stored runs.",
        "report": "Write an HTML page of runs, with every answer.",
    },
    "Ground": {
        "predict": "Ground an expression in an image, or many.",
        "demo": "Serve a page that shows answers of pipelines side by side.",
    },
    "Train": {
        "train": "Train a pipeline's weights on a split.",
        "label": "Make pseudo-labels for images, and score them.",
        "export": "Write weights as their authors' own code loads them.",
    },
    "Set up": {
        "data": "Prepare, verify, list and draw data sets.",
        "list": "List pipelines, splits or runs.",
        "doctor": "Check what this machine can run, and what is missing.",
        "config": "Show the settings in force, and where they are from.",
    },
}
MODULES = {"list": "listing"}  # where it is not bench/cli/COMMAND.py


class LazyGroup(TyperGroup):
    """The group of COMMANDS; each holds only its line of the help until it is called."""

    def __init__(self, **settings: Any) -> None:
        lines = {
            name: TyperCommand(name, help=text, rich_help_panel=panel)
            for panel, commands in COMMANDS.items()
            for name, text in commands.items()
        }
        super().__init__(**{**settings, "commands": lines})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if ctx.resilient_parsing else current_arguments(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in self.commands:
            self.commands[args[0]] = load_command(args[0])
        return super().resolve_command(ctx, args)


def load_command(name: str) -> Any:
    """Import and build a command."""
    module = import_module(f"bench.cli.{MODULES.get(name, name)}")
    around = typer.Typer()
    if hasattr(module, "app"):
        around.add_typer(module.app, name=name)
    else:
        around.command(name)(getattr(module, MODULES.get(name, name)))
        around.callback()(lambda: None)  # so that it is a group, too
    group = typer.main.get_command(around)
    assert isinstance(group, TyperGroup)
    return group.commands[name]


app = typer.Typer(
    cls=LazyGroup,
    name="bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def bench() -> None:
    """One evaluation for visual grounding: an image and a referring expression in, one box out."""


def main() -> None:
    """Run the console script: a user's own mistake is one readable message and an exit code, never a traceback."""
    try:
        app()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `bench list | head`
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
