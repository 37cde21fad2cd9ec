"""The Dockerfile, as far as that can be known without building it: a linter, and agreement with what it copies."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench.settings import PROJECT

TEXT = (PROJECT / "Dockerfile").read_text("utf-8")
LINES = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.M)).splitlines()
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))
PYTHON_OF = {"ubuntu22.04": "3.10", "ubuntu24.04": "3.12"}  # what apt's python3 is


def instructions(name: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{name} ")]


def variables() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split())


def copied() -> list[str]:
    """What is copied out of the checkout, and not out of an earlier stage."""
    return [source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]]


def hadolint() -> str | None:
    beside = Path(sys.executable).parent / "hadolint"
    return str(beside) if beside.is_file() else shutil.which("hadolint")


@pytest.mark.skipif(hadolint() is None, reason="hadolint is not installed (it has no wheel for this platform)")
def test_the_linter_has_nothing_to_say():
    done = subprocess.run([str(hadolint()), PROJECT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_copied_is_there_and_reaches_the_builder():
    let_through = {
        line[1:].rstrip("/")
        for line in (PROJECT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    assert copied() and all((PROJECT / source).exists() for source in copied())
    assert set(copied()) == let_through


def test_what_the_wheel_is_made_of_is_copied():
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PYPROJECT["project"]
    needed = {*wheel["packages"], *wheel["force-include"], project["readme"], *project["license-files"]}
    assert needed | {"pyproject.toml", "requirements.txt"} == set(copied())


def test_versions_agree():
    label = re.search(r'image\.version="([^"]+)"', TEXT)
    assert label and label[1] == PYPROJECT["project"]["version"]
    image = re.fullmatch(r"nvidia/cuda:(\d+\.\d+)\.\d+-\w+-(ubuntu[\d.]+) AS base", instructions("FROM")[0])
    assert image, "the base image should have a whole version, no moving tag"
    pins = (PROJECT / "requirements.txt").read_text("utf-8")
    runtime = re.search(r"^nvidia-cuda-runtime==(\d+\.\d+)\.", pins, re.M)
    assert runtime and runtime[1] == image[1]
    python = tuple(map(int, PYTHON_OF[image[2]].split(".")))
    low, high = (tuple(map(int, n.split("."))) for n in re.findall(r"3\.\d+", PYPROJECT["project"]["requires-python"]))
    assert low <= python < high


def test_packages_are_pinned_by_hash_and_nothing_else_is_fetched():
    installs = [line for line in LINES if "pip install" in line]
    assert len(installs) == 2 and "--require-hashes -r requirements.txt" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
    build_tools = [re.split(r"[>=<]", name)[0] for name in PYPROJECT["build-system"]["requires"]]
    pins = (PROJECT / "requirements.txt").read_text("utf-8")
    assert all(re.search(rf"^{name}==", pins, re.M) for name in build_tools)


def test_it_runs_bench_as_nobody_in_particular_and_keeps_its_cache():
    assert instructions("USER")[-1].isdecimal() and instructions("USER")[-1] != "0"
    assert instructions("ENTRYPOINT") == ['["bench"]']
    assert "bench" in PYPROJECT["project"]["scripts"]
    home = variables()["BENCH_HOME"]
    assert instructions("VOLUME") == [f'["{home}"]']
    assert f"install -d -o bench -g bench {home}" in "\n".join(LINES)
    assert all(variables()[cache].startswith(f"{home}/") for cache in ("HF_HOME", "TORCH_HOME"))


def test_the_documented_commands_use_its_volume():
    shown = TEXT + (PROJECT / "docs" / "clusters.md").read_text("utf-8")
    assert set(re.findall(r"-v bench-home:(\S+)", shown)) == {variables()["BENCH_HOME"]}
