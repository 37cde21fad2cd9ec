"""docs/add-a-pipeline.md is a package: it is installed as the page has it, and the verbs know it."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

from bench import registry
from bench.settings import PROJECT

PAGE = (PROJECT / "docs" / "add-a-pipeline.md").read_text("utf-8")
FILES = dict(re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A working folder with the page's bench.toml, and the page's package installed where only it is."""
    root = tmp_path_factory.mktemp("package")
    for name, text in FILES.items():
        place = root / ("work" if name == "bench.toml" else "source")
        place.mkdir(exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", root / "site", root / "source"], check=True)
    return root


@pytest.fixture(scope="module")
def bench(world):
    def ask(*words):
        env = {**os.environ, "BENCH_HOME": str(world / "home"), "PYTHONPATH": str(world / "site"), "COLUMNS": "200"}
        command = [sys.executable, "-m", "bench.cli.main", *words]
        return subprocess.run(command, cwd=world / "work", env=env, capture_output=True, text=True, check=False)

    return ask


def last_line(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_page_holds_three_files_and_the_code_is_as_short_as_it_says():
    assert set(FILES) == {"my_grounder.py", "pyproject.toml", "bench.toml"}
    assert len([line for line in FILES["my_grounder.py"].splitlines() if line.strip()]) <= 40


@pytest.mark.slow
def test_it_is_listed_beside_ours(bench):
    rows = {row["pipeline"]: row for row in last_line(bench("list", "pipelines", "--json"))["pipelines"]}
    assert "my-colours" in rows and "yolo-clip" in rows


@pytest.mark.slow
def test_it_runs_and_its_row_is_its_own(bench):
    asked = ("run", "-p", "my-colours", "-s", "shapes-val", "--limit", "40", "--json")
    row = last_line(bench(*asked))["rows"][0]
    assert row["pipeline"] == "my-colours"
    assert row["acc@0.5"] > 0.25  # the whole split's random proposal is at 0.21, the centre box at 0.02
    other = last_line(bench(*asked, "--batch-size", "3", "--fresh"))["rows"][0]
    assert other["acc@0.5"] == row["acc@0.5"] and other["mean_iou"] == row["mean_iou"]


@pytest.mark.slow
def test_its_options_are_checked(bench):
    done = bench("run", "-p", "my-colours", "-s", "shapes-val", "--limit", "2", "--set", "neer=3")
    assert done.returncode == 2
    assert "unknown key 'neer'; did you mean 'near'?" in done.stderr and "Traceback" not in done.stderr


def test_its_entry_point_is_of_the_groups_that_the_page_names():
    named = set(re.findall(r"`(bench\.[a-z_]+)`", PAGE)) - {"bench.toml"}
    groups = {value for key, value in vars(registry).items() if key.isupper() and isinstance(value, str)}
    assert named == groups - {registry.PIPELINES}
    assert set(tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]) == {registry.PIPELINES}
