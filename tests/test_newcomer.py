"""A newcomer's way from a clone to a report about data of their own: the commands of that block, as they stand."""

import re
import shlex

import pytest
from documented import FENCE, refusal
from typer.testing import CliRunner

from bench.cli.main import app
from bench.settings import PROJECT

TITLE = "Your own data, to a report"


def block() -> list[str]:
    """The commands under that title on its own page."""
    _, _, rest = (PROJECT / "docs" / "own-data.md").read_text("utf-8").partition(f"# {TITLE}\n")
    body = next(body for language, body in FENCE.findall(rest) if language == "sh")
    return [re.sub(r"\s+#.*", "", line).strip() for line in body.replace("\\\n", " ").splitlines()]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working folder that looks like a clone; nothing is written into the real one."""
    for name in ("tests", "pipelines"):
        (tmp_path / name).symlink_to(PROJECT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_way_is_four_commands_with_setting_up():
    assert block()[0] == "make demo" and len(block()) <= 4
    assert (
        "data sheet file:" in re.search(r"^demo:.*?^$", (PROJECT / "Makefile").read_text("utf-8"), re.M | re.S).group()
    )


@pytest.mark.slow
def test_every_command_works_in_turn_and_a_report_is_there(clone):
    asked, written = [], []
    following = ""  # what the command before printed as the next one
    for command in block():
        program, *words = shlex.split(command)
        if program == "make":  # sets this environment up; the continuous integration begins with it
            assert re.search(rf"^{words[0]}:", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE)
            continue
        assert program in ("bench", ".venv/bin/bench")
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, f"{command}\n{done.output}"
        assert following in ("", words[0])
        for line in (printed := re.findall(r"^next: bench (.+)", done.output, re.M)):
            assert refusal(shlex.split(line)) == "" and "file:tests/own/own.jsonl" in line
        following = printed[0].split()[0] if printed else ""
        asked.append(words[0])
        written += [words[n + 1] for n, word in enumerate(words) if word == "--out"]
    assert asked == ["data", "run", "report"] and following == ""
    assert all((clone / name).stat().st_size > 1000 for name in written)
    page = (clone / written[-1]).read_text("utf-8")
    texts = re.findall(r'"text": "([^"]+)"', (PROJECT / "tests" / "own" / "own.jsonl").read_text("utf-8"))
    assert texts and all(text in page for text in texts)
