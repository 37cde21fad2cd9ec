"""The commands that documents show, and the command line itself: what is written is checked against what there is.

Commands stand in fenced blocks (```sh, ```text, ```bash), after whatever launches it: `torchrun ...`,
`srun ...`, `accelerate launch ... -m bench.cli.main`, `NAME=value`. Nothing is run; `refusal` has the command line
parse it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from bench.cli.main import app, load_command
from bench.settings import PROJECT

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LANGUAGES = {"sh", "bash", "text", "console"}
PAGES = sorted([*PROJECT.glob("[CR]*.md"), *(PROJECT / "docs").glob("*.md")])  # README, CONTRIBUTING, CHANGELOG


def blocks(page: Path, languages: set[str] = LANGUAGES) -> list[str]:
    """The contents of the page's fenced blocks in those languages."""
    fenced = FENCE.findall(page.read_text(encoding="utf-8"))
    return [body for language, body in fenced if language in languages]


def commands(page: Path, languages: set[str] = LANGUAGES) -> list[list[str]]:
    """Every `bench ...` of the page's blocks, as the words after `bench`; lines that end in a backslash are joined."""
    lines = [line for block in blocks(page, languages) for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines for words in _commands_of(line)]


def _commands_of(line: str) -> Iterator[list[str]]:
    if "bench" not in line:
        return
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&>")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:  # an apostrophe: a sentence, no command
        return
    for start, word in enumerate(words):
        launched = word == "bench.cli.main" or word.rpartition("/")[2] == "bench"
        if launched and _begins(words[:start]):
            end = next((n for n in range(start, len(words)) if set(words[n]) <= set(";|&>")), len(words))
            yield words[start + 1 : end]
            return


def _begins(before: list[str]) -> bool:
    """Whether what stands before `bench` launches it, so that this is a command and not a sentence about one."""
    first = next((word for word in before if not re.fullmatch(r"[A-Z_]+=\S*", word)), "")
    return first in {"", "torchrun", "srun", "accelerate", "docker", "python", ".venv/bin/python", "exec"}


def refusal(words: list[str]) -> str:
    """Why the command line would not take these words, "" where it would. A last `...` stands for what is needed."""
    if words[-1:] == ["..."]:
        return _unknown_flags(words[:-1])
    command, context, rest = get_command(app), None, words
    name = "bench"
    try:
        while True:
            context = command.make_context(name, list(rest), parent=context)
            if not hasattr(command, "resolve_command"):
                return ""
            rest = [*context._protected_args, *context.args]
            if not rest:
                return "" if command.invoke_without_command else f"{name}: a command is missing"
            name, command, rest = command.resolve_command(context, rest)
    except typer.Exit:  # --help, --version
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error.format_message() if hasattr(error, 'format_message') else error}"


def _unknown_flags(words: list[str]) -> str:
    rest = list(words)
    command: Any = load_command(rest.pop(0))
    while rest and hasattr(command, "commands") and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    known = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)} | {"--help"}
    wrong = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]
    return f"no such option: {', '.join(wrong)}" if wrong else ""
