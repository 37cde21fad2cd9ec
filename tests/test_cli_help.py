"""docs/cli.md holds the help of every verb. A change of the command line shows in it, or this fails:

    BENCH_WRITE=1 python -m pytest tests/test_cli_help.py

writes the page anew.
"""

import os
import re
from importlib.metadata import version

import pytest
from typer.main import get_command

from bench.cli.main import app
from bench.settings import PROJECT

PAGE = PROJECT / "docs" / "cli.md"
WIDTH = 100
REWRITE = "BENCH_WRITE=1 python -m pytest tests/test_cli_help.py"
TOP = f"""# The command line

What `bench VERB --help` says, without its frames. Flags stand before or after what they are about; `--flag=value` is
`--flag value`. Exit codes: 0 done, 1 a check failed, 2 your mistake, 3 done but some images could not be read, 130
interrupted. What `--json` prints is in [machine-output.md](machine-output.md).

This page is generated; `{REWRITE}` writes it anew.
"""


def verbs(command, names=()):
    """Every command from the root on, depth first and in the order of --help, with the words that lead to it."""
    yield names, command
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from verbs(inner, (*names, name))


def help_text(command, names, inherited):
    """The help as plain text of a fixed width, whatever the terminal and its colours."""
    shown = " ".join(("bench", *names))
    settings = inherited | command.context_settings  # -h beside --help
    context = command.context_class(command, info_name=shown, terminal_width=WIDTH, color=False, **settings)
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def page():
    """The whole page. A verb's text is under a heading of its own, with a list of them all above."""
    root = get_command(app)
    all_verbs = list(verbs(root))
    listed = [f"[{' '.join(names)}](#bench-{'-'.join(names)})" for names, _ in all_verbs if names]
    parts = [TOP, " ·\n".join(listed) + "\n"]
    for _, command in all_verbs:  # before the first text: a verb's help shows its own verbs'
        command.rich_markup_mode = None
    for names, command in all_verbs:
        heading = f"{'##' if len(names) < 2 else '###'} `{' '.join(('bench', *names))}`"
        parts.append(f"{heading}\n\n```text\n{help_text(command, names, root.context_settings)}\n```\n")
    return "\n".join(parts)


def pinned(package):
    found = re.search(rf"^{package}==(\S+)", (PROJECT / "requirements.txt").read_text("utf-8"), re.M)
    assert found, f"requirements.txt does not pin {package}"
    return found[1]


@pytest.mark.skipif(version("typer") != pinned("typer"), reason="another typer lays help out in its own way")
def test_the_page_is_what_the_command_line_says():
    wanted = page()
    if os.environ.get("BENCH_WRITE"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert PAGE.read_text("utf-8") == wanted, f"docs/cli.md is stale; {REWRITE}"


@pytest.mark.parametrize("width", ["40", "200"])
def test_the_page_does_not_depend_on_the_terminal(width, monkeypatch):
    usual = page()
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERMINAL_WIDTH", width)
    assert page() == usual


COMMANDS = [pytest.param(names, command, id=" ".join(names) or "bench") for names, command in verbs(get_command(app))]


@pytest.mark.parametrize(("names", "command"), COMMANDS)
def test_a_newcomer_is_told_what_everything_is(names, command):
    assert command.help and command.help.strip(), f"{names}: the verb says nothing of itself"
    silent = [param.name for param in command.params if not param.help and param.name != "help"]
    assert not silent, f"bench {' '.join(names)}: no help for {silent}"


@pytest.mark.parametrize(("names", "command"), COMMANDS)
def test_no_help_is_lost_as_markup(names, command):
    """A `[...]` that rich takes for a style is not shown; `\\[` is. Defaults belong into show_default."""
    texts = {"the verb": command.help or "", **{param.name: param.help or "" for param in command.params}}
    lost = {name: text for name, text in texts.items() if re.search(r"(?<!\\)\[[a-z/@#][^\]]*\]", text)}
    assert lost == {}
