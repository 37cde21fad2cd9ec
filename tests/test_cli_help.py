"""docs/cli.md holds the help of every command. A change of the command line shows in it, or this fails:

    BENCH_WRITE=1 python -m pytest tests/test_cli_help.py

writes the page anew.
"""

import os
import re
from importlib.metadata import version

import pytest
from typer.main import get_command

from bench.cli.main import COMMANDS, app, load_command
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


def help_text(command, names, inherited):
    """The help as plain text of a fixed width, whatever the terminal and its colours."""
    words = " ".join(("bench", *names))
    settings = inherited | command.context_settings  # -h beside --help
    context = command.context_class(command, info_name=words, terminal_width=WIDTH, color=False, **settings)
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def page():
    """The whole page. A command's text is under a heading of its own, with a list of them all above."""
    listed = everything()
    links = [f"[{' '.join(names)}](#bench-{'-'.join(names)})" for names, _ in listed if names]
    parts = [TOP, " ·\n".join(links) + "\n"]
    for _, command in listed:  # before the first text: a command's help shows those below it
        command.rich_markup_mode = None
    for names, command in listed:
        heading = f"{'##' if len(names) < 2 else '###'} `{' '.join(('bench', *names))}`"
        parts.append(f"{heading}\n\n```text\n{help_text(command, names, listed[0][1].context_settings)}\n```\n")
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


def test_the_help_is_one_screen_without_wrapped_lines():
    lines = [f"{name:<12}{text}" for commands in COMMANDS.values() for name, text in commands.items()]
    assert max(map(len, lines)) <= 76 and len(lines) + 3 * len(COMMANDS) <= 30
