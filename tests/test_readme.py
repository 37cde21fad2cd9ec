"""The README's commands: those in `sh` blocks are run, of the others every verb and flag must exist."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli.main import app
from bench.settings import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")


# The block that a test of its own runs in turn, each command on what the one before it left (tests/test_newcomer.py).
OWN = README[README.index("## Your own data, to a report") : README.index("## Install")]


def commands(language: str) -> list[str]:
    blocks = re.findall(rf"```{language}\n(.*?)```", README.replace(OWN, ""), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.startswith("bench ")]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A working folder that looks like the checkout, so that nothing is written into the real one."""
    (tmp_path / "tests").symlink_to(PROJECT / "tests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return tmp_path


def test_it_is_short_and_has_commands():
    assert len(README.split()) <= 900
    assert len(commands("sh")) >= 4 and len(commands("text")) >= 8


def test_its_way_to_a_report_is_the_one_that_is_run():
    """tests/test_newcomer.py runs the commands of docs/own-data.md in turn."""
    page = (PROJECT / "docs" / "own-data.md").read_text(encoding="utf-8")
    own, run = (re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1] for text in (OWN, page))
    assert re.sub(r"\s+#.*", "", own).split() == run.split()


def test_its_results_are_those_of_the_tables():
    cells = re.findall(r"^\| [^|]*\| ([^|]+) \| (\d[\d.]+) \[([\d.]+), ([\d.]+)\][^|]*\|$", README, re.MULTILINE)
    shown = {re.sub(r"`([^`]+)`.*", r"\1", name): tuple(map(float, numbers)) for name, *numbers in cells}
    made = {
        row["pipeline"]: tuple(round(100 * value, 2) for value in (row["acc@0.5"], *row["ci95"]))
        for folder in ("results/real", "results")
        for table in json.loads((PROJECT / folder / "LEADERBOARD.json").read_text("utf-8"))["tables"]
        for row in table["rows"]
    }
    assert len(shown) == 11 and shown.items() <= made.items()


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("sh"))
def test_a_command_does_what_it_says(command, checkout):
    words = shlex.split(command)[1:]
    if words[0] == "run" and "--limit" not in words:
        words += ["--limit", "8"]  # the whole of it is `make demo`
    if words[0] == "leaderboard":
        words += ["--results", str(PROJECT / "results"), "--check"]
    if words[0] == "compare":
        words += ["--results", str(PROJECT / "results")]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("text"))
def test_a_command_has_its_verb_and_flags(command):
    words = shlex.split(command)[1:]
    two = words[0] in ("data", "config", "label") and not words[1].startswith("-")
    verb = words[:2] if two else words[:1]
    help_ = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"}).output
    assert all(flag in help_ for flag in words if flag.startswith("--")), command


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_a_link_leads_somewhere(target):
    assert target.startswith("http") or (Path(PROJECT) / target).exists()
