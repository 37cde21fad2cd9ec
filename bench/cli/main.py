"""`bench`: a file a command, each of which parses, calls a library function and prints.

`bench --help` imports no command: COMMANDS has its lines, and a command is imported when it is called.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from bench.cli.ending import ended_by_signals, leave
from bench.cli.options import MORE, refuse_unusable
from bench.old_names import current_arguments
from bench.printing import PlainFormatter

COMMANDS = {  # panel of the help -> command -> what it does, on one line of a terminal
    "Measure": {
        "run": "Run pipelines on splits, and score them.",
        "score": "Score a stored run again, or import predictions.",
        "frames": "Find the coordinate frame of a file of boxes.",
        "compare": "Compare runs: which is better, and how certain that is.",
        "power": "Compute which difference a split shows.",
        "speed": "Measure how fast pipelines are.",
        "audit": "List labels that runs and annotations make doubtful.",
        "verify": "Check stored runs: their files, and their numbers.",
        "leaderboard": "Write the tables of results/ from the stored runs.",
        "table": "Print the table that papers print, published rows above ours.",
        "report": "Write an HTML page of runs, with every prediction.",
    },
    "Ground": {
        "predict": "Ground an expression in an image, or many.",
        "demo": "Serve a page that shows predictions side by side.",
    },
    "Train": {
        "train": "Train a pipeline's weights on a split.",
        "label": "Make pseudo-labels for images, and score them.",
        "export": "Write weights as their authors' own code loads them.",
    },
    "Set up": {
        "fetch": "Fetch published weights, and check them.",
        "data": "Prepare, verify, list and draw data sets.",
        "list": "List pipelines, splits or runs.",
        "doctor": "Check what this machine can run, and what is missing.",
        "config": "Show the settings in force, and where they are from.",
    },
}
MODULES = {"list": "listing"}  # where it is not bench/cli/COMMAND.py
HELP = ["-h", "--help"]
VALUES = {int: "N", float: "NUMBER", bool: "", Path: "FILE"}  # type of an option -> what the help calls its value


class LazyGroup(TyperGroup):
    """The group of COMMANDS; each holds only its line of the help until it is called."""

    def __init__(self, **settings: Any) -> None:
        lines = {
            name: TyperCommand(name, help=text, rich_help_panel=panel)
            for panel, commands in COMMANDS.items()
            for name, text in commands.items()
        }
        super().__init__(**{**settings, "commands": lines})
        self.params += _shared_options(panel=None)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        set_verbosity(0)
        return super().parse_args(ctx, args if ctx.resilient_parsing else current_arguments(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in self.commands:
            self.commands[args[0]] = load_command(args[0])
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        params: list[Any] = self.get_params(ctx)
        for param in params:
            _name_value(param)
            if param.name == "show_completion":
                param.hidden = True  # --install-completion says where it writes what this one prints
        super().format_help(ctx, formatter)


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
    _finish(group.commands[name], name)
    return group.commands[name]


def _finish(command: Any, words: str) -> None:
    """Give a command and those below it the shared options, examples, and values that the help names."""
    from bench.cli.examples import EXAMPLES

    # A paragraph is one line, which the terminal folds.
    command.help = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    if lines := EXAMPLES.get(words):
        command.epilog = "[bold]Examples[/bold]\n" + "\n".join(lines).replace("[", r"\[")
    command.params += _shared_options()
    help_option = command.get_help_option(command.context_class(command, help_option_names=HELP))
    help_option.rich_help_panel = MORE
    for param in (*command.params, help_option):
        _name_value(param)
        refuse_unusable(param)
    for name, below in getattr(command, "commands", {}).items():
        _finish(below, f"{words} {name}")


def _name_value(param: Any) -> None:
    """Let the help call a parameter's value NAME, N or FILE: no Python types, no ranges, and of a flag nothing."""
    kind = param.type_descriptor
    inner = kind.annotation.__args__[0] if kind.is_list else kind.annotation
    if kind.is_choice and (param.metavar is None or param.param_type_name == "argument"):
        value = "|".join(map(str, kind.choices))
    elif param.param_type_name == "argument":
        value = ""  # its own name says it
    else:
        value = VALUES.get(inner, "NAME") if param.metavar is None else param.metavar
        value = "FOLDER" if kind.is_path and kind.path_type == "dir" else value
    param.display_type_rich = lambda ctx: value
    param.min = param.max = None  # of the help: the parser has its own
    if isinstance(param.show_default, str):  # typer would print it in parentheses
        param.help, param.show_default = rf"{param.help} \[default: {param.show_default}]", False


def _shared_options(panel: str | None = MORE) -> list[Any]:
    """Build the options that every command has, and `bench` itself."""

    def shared(
        verbose: Annotated[
            bool,
            typer.Option("--verbose", "-v", help="Log more.", callback=_louder, expose_value=False, is_eager=True),
        ] = False,
        quiet: Annotated[
            bool,
            typer.Option(
                *("--quiet", "-q"),
                help="Print results and errors only.",
                callback=_quieter,
                expose_value=False,
                is_eager=True,
            ),
        ] = False,
    ) -> None: ...

    alone = typer.Typer(add_completion=False)
    alone.command()(shared)
    params: list[Any] = typer.main.get_command(alone).params
    for param in params:
        param.rich_help_panel = panel
    return params


def _louder(value: bool) -> None:
    if value:
        set_verbosity(1)


def _quieter(value: bool) -> None:
    if value:
        set_verbosity(-1)


def set_verbosity(level: int) -> None:
    """Set how much goes to stderr: 1 the logs of every library too, 0 progress and warnings, -1 errors only."""
    import logging

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())
    logging.getLogger("bench").setLevel(logging.ERROR if level < 0 else logging.NOTSET)
    logging.getLogger().setLevel(logging.INFO if level > 0 else logging.WARNING)
    if level > 0:
        from bench.cli.output import log_to_stderr

        log_to_stderr("bench")


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        from bench.runs.provenance import git_state

        commit = git_state()["commit"]
        typer.echo(f"bench {version('grounding-bench')}" + (f" (commit {commit[:10]})" if commit else ""))
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    name="bench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": HELP},
)


@app.callback()
def bench(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and commit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """One evaluation for visual grounding: an image and a referring expression in, one box out."""


def main() -> None:
    """Run the console script: whatever ends a command is one readable message and an exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a terminal has no letters for, a name that is no UTF-8 too
            stream.reconfigure(errors="backslashreplace")
    try:
        with ended_by_signals():
            try:
                app(prog_name="bench")
            finally:
                sys.stdout.flush()
    except SystemExit:
        raise
    except BaseException as error:
        leave(error)


if __name__ == "__main__":
    main()
