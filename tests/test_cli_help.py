"""docs/cli.md holds the help of every command. A change of the command line shows in it, or this fails:

    BENCH_WRITE=1 python -m pytest tests/test_cli_help.py

writes the page anew.
"""

import io
import os
import re
import shlex
from contextlib import redirect_stdout
from importlib.metadata import version
from unittest import mock

import pytest
from typer import rich_utils
from typer.main import get_command

from bench import registry
from bench.cli.examples import EXAMPLES
from bench.cli.main import COMMANDS, HELP, app, load_command
from bench.cli.options import MORE, listed
from bench.datasets.load import find_split
from bench.settings import PROJECT

PAGE = PROJECT / "docs" / "cli.md"
WIDTH = 100
REWRITE = "BENCH_WRITE=1 python -m pytest tests/test_cli_help.py"
TOP = f"""# The command line

What `bench COMMAND --help` prints, without frames. Flags stand before or after what they are about; `--flag=value` is
`--flag value`. Exit codes: 0 done, 1 a check failed, 2 your mistake, 3 done but some images could not be read, 130
interrupted. What `--json` prints is in [machine-output.md](machine-output.md).

This page is generated; `{REWRITE}` writes it anew.
"""


def below(command, names):
    """List a command and those below it, depth first, each with the words that lead to it."""
    inner = [each for name, inner in getattr(command, "commands", {}).items() for each in below(inner, (*names, name))]
    return [(names, command), *inner]


def everything():
    """List every command in the order of --help; the root shows one line of each of the others."""
    root = get_command(app)
    return [((), root), *(each for name in root.commands for each in below(load_command(name), (name,)))]


def help_text(command, names, width=WIDTH):
    """The help as it is printed on a terminal of a width, whatever the real one and its colours."""
    context = command.context_class(
        command, info_name=" ".join(("bench", *names)), help_option_names=HELP, terminal_width=width
    )
    out = io.StringIO()
    # The bounds of both: typer reads the environment at import, rich whenever it prints.
    with (
        mock.patch.multiple(rich_utils, MAX_WIDTH=width, FORCE_TERMINAL=False, COLOR_SYSTEM=None),
        redirect_stdout(out),
    ):
        command.get_help(context)
    return out.getvalue()


def unframed(printed):
    """The lines without frames and trailing blanks; a panel's title begins a block."""
    lines = [re.sub(r"^╭─ (.*?) ─*╮$", r"\n\1:", line).strip("│").rstrip() for line in printed.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if not line.startswith("╰"))).strip("\n")


def page():
    """The whole page. A command's text is under a heading of its own, with a list of them all above."""
    listed = everything()
    links = [f"[{' '.join(names)}](#bench-{'-'.join(names)})" for names, _ in listed if names]
    parts = [TOP, " ·\n".join(links) + "\n"]
    for names, command in listed:
        heading = f"{'##' if len(names) < 2 else '###'} `{' '.join(('bench', *names))}`"
        parts.append(f"{heading}\n\n```text\n{unframed(help_text(command, names))}\n```\n")
    return "\n".join(parts)


def pinned(package):
    pin = re.search(rf"^{package}==(\S+)", (PROJECT / "requirements.txt").read_text("utf-8"), re.M)
    assert pin, f"requirements.txt does not pin {package}"
    return pin[1]


@pytest.mark.slow
@pytest.mark.skipif(version("typer") != pinned("typer"), reason="another typer lays help out in its own way")
def test_the_page_is_what_the_command_line_says():
    wanted = page()
    if os.environ.get("BENCH_WRITE"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert PAGE.read_text("utf-8") == wanted, f"docs/cli.md is stale; {REWRITE}"


@pytest.mark.slow
@pytest.mark.parametrize("width", ["40", "200"])
def test_the_page_does_not_depend_on_the_terminal(width, monkeypatch):
    usual = page()
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERMINAL_WIDTH", width)
    assert page() == usual


EACH = [pytest.param(names, command, id=" ".join(names) or "bench") for names, command in everything()]


@pytest.mark.parametrize(("names", "command"), EACH)
def test_everything_has_help(names, command):
    assert command.help and command.help.strip(), f"{names}: the command has no help"
    silent = [param.name for param in command.params if not param.help and param.name != "help"]
    assert not silent, f"bench {' '.join(names)}: no help for {silent}"


@pytest.mark.parametrize(("names", "command"), EACH)
def test_no_help_is_lost_as_markup(names, command):
    """A `[...]` that rich takes for a style is not printed; `\\[` is. Defaults belong into show_default."""
    texts = {"the command": command.help or "", **{param.name: param.help or "" for param in command.params}}
    lost = {name: text for name, text in texts.items() if re.search(r"(?<!\\)\[[a-z/@#][^\]]*\]", text)}
    assert lost == {}


@pytest.mark.parametrize(("names", "command"), EACH)
def test_a_help_page_fits_a_screen_of_60_lines(names, command):
    """Rare options have rich_help_panel=MORE (bench/cli/options.py); at most 12 others come before them."""
    lines = help_text(command, names).rstrip().splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= WIDTH, "\n".join(lines)
    options = [each for each in command.params if each.param_type_name == "option" and each.rich_help_panel != MORE]
    assert len(options) <= 12, [each.name for each in options]
    assert not re.search(r"<[a-z]+|\[x[<>]|\bbool\b|list\[", "\n".join(lines))


def test_the_first_help_is_one_screen_without_wrapped_lines():
    lines = [f"{name:<12}{text}" for commands in COMMANDS.values() for name, text in commands.items()]
    assert max(map(len, lines)) <= 76
    assert len(help_text(EACH[0].values[1], (), 80).rstrip().splitlines()) <= 45


LEAVES = [
    names for names, command in everything() if names and (names == ("label",) or not hasattr(command, "commands"))
]


def test_every_command_has_examples():
    """They are in bench/cli/examples.py."""
    assert {" ".join(names) for names in LEAVES} <= set(EXAMPLES)
    assert all(2 <= len(lines) <= 3 and max(map(len, lines)) <= 98 for lines in EXAMPLES.values())


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_a_command(line):
    words = shlex.split(line.partition(" > ")[0])
    assert words[0] == "bench"
    group, names = get_command(app), words[1:]
    while hasattr(group, "commands") and names and names[0] in group.commands:
        group, names = load_command(names[0]) if group.name == "bench" else group.commands[names[0]], names[1:]
    given = group.make_context(line, names).params
    pipelines, splits = given.get("pipeline") or (), given.get("split") or ()
    for pipeline in listed([pipelines] if isinstance(pipelines, str) else pipelines):
        registry.origin(registry.PIPELINES, pipeline)
    for split in listed([splits] if isinstance(splits, str) else splits):
        assert split.startswith("file:") or find_split(split)


def test_an_option_is_the_same_thing_in_every_command():
    kinds = {}
    for names, command in everything():
        for param in command.params:
            for long in (opt for opt in param.opts if opt.startswith("--")):
                short = tuple(opt for opt in param.opts if not opt.startswith("--"))
                kinds.setdefault(long, {}).setdefault((param.is_flag, short), []).append(" ".join(names))
    assert {long: each for long, each in kinds.items() if len(each) > 1} == {}
    assert [*kinds["--results"]] == [(False, ())] and [*kinds["--out"]] == [(False, ("-o",))]
    assert [*kinds["--split"]] == [(False, ("-s",))] and [*kinds["--pipeline"]] == [(False, ("-p",))]


@pytest.mark.parametrize("name", ["run", "predict", "speed", "train"])
def test_every_command_that_opens_a_pipeline_takes_the_same_options(name):
    options = {opt for param in load_command(name).params for opt in param.opts}
    wanted = {"--weights", "--tokenizer", "--on", "--preprocessing", "--set", "--device", "--dtype", "--batch-size"}
    assert wanted | {"--seed", "--offline", "--config", "--json", "--verbose", "--quiet"} <= options
