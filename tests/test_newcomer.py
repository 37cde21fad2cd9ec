"""A newcomer's way from a clone to a report about data of their own: the commands of that block, as they stand."""

import re
import shlex

import pytest
from documented import FENCE
from typer.testing import CliRunner

from bench.cli.main import app
from bench.settings import PROJECT

TITLE = "Your own data, to a report"


def block() -> list[str]:
    """The commands under that title, in the README or else on its own page."""
    for page in (PROJECT / "README.md", PROJECT / "docs" / "own-data.md"):
        _, found, rest = page.read_text("utf-8").partition(f"# {TITLE}\n")
        if found:
            body = next(body for language, body in FENCE.findall(rest) if language == "sh")
            return [re.sub(r"\s+#.*", "", line).strip() for line in body.replace("\\\n", " ").splitlines()]
    raise AssertionError(f"no page has the title {TITLE!r}")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working folder that looks like a clone; nothing is written into the real one."""
    for name in ("tests", "pipelines"):
        (tmp_path / name).symlink_to(PROJECT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_way_is_short():
    assert 2 <= len(block()) <= 6


@pytest.mark.slow
def test_every_command_works_in_turn_and_a_report_is_there(clone):
    asked, written = [], []
    for command in block():
        program, *words = shlex.split(command)
        if program == "make":  # sets this environment up; the continuous integration begins with it
            assert re.search(rf"^{words[0]}:", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE)
            continue
        assert program in ("bench", ".venv/bin/bench")
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, f"{command}\n{done.output}"
        asked.append(words[0])
        written += [words[n + 1] for n, word in enumerate(words) if word == "--out"]
    assert asked[-1] == "report" and "run" in asked
    assert all((clone / name).stat().st_size > 1000 for name in written)
    page = (clone / written[-1]).read_text("utf-8")
    texts = re.findall(r'"text": "([^"]+)"', (PROJECT / "tests" / "own" / "own.jsonl").read_text("utf-8"))
    assert texts and all(text in page for text in texts)
