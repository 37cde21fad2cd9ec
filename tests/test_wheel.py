"""What `pip install .` brings: settings, types, words, and the small weights of `shapes`, which run from it."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from bench.settings import PROJECT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's content as a folder, which is what an installation is."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(PROJECT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_it_is_typed_and_complete(installed):
    assert all((installed / package / "py.typed").is_file() for package in ("bench", "pipelines", "clipvg"))
    ours = {path for package in ("bench", "pipelines", "clipvg") for path in (PROJECT / package).rglob("*")}
    wanted = {path.relative_to(PROJECT) for path in ours if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in wanted if not (installed / path).is_file()} == set()
    assert (installed / "bench" / "default.toml").read_bytes() == (PROJECT / "bench.toml").read_bytes()


def test_a_users_script_is_type_checked_against_it(installed, tmp_path):
    """mypy --strict, as the user of the library runs it: every call has a type, and a wrong one is an error."""
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(
        "from bench import evaluate, load_pipeline, load_split, predict\n"
        'split = load_split("shapes-val", limit=2)\n'
        'pipeline = load_pipeline("centre-box", on=split)\n'
        "accuracy: float = evaluate(pipeline, split).accuracy\n"
        'box: tuple[float, float, float, float] | None = predict(pipeline, "a.png", "it").box\n'
        "print(split.name.upper(), accuracy, box)\n"
    )

    def check():
        words = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", f"--cache-dir={tmp_path / 'c'}"]
        return subprocess.run(
            [*words, str(script)], cwd=tmp_path, env={**os.environ, "MYPYPATH": ""} | {"PYTHONPATH": str(installed)},
            capture_output=True, text=True,
        )  # fmt: skip

    done = check()
    assert done.returncode == 0, done.stdout
    script.write_text(script.read_text() + 'load_split("shapes-val", limit="two")\n')
    assert "arg-type" in check().stdout


def test_it_runs_the_embedded_data(installed, tmp_path):
    words = ["run", "-p", "clipvg,whole-image", "-s", "shapes-val", "--limit", "2", "--device", "cpu", "--json"]
    env = {**os.environ, "PYTHONPATH": str(installed), "BENCH_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli.main", *words], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.strip().splitlines()[-1])["rows"]
    assert [row["pipeline"] for row in rows] == ["clipvg", "whole-image"] and rows[0]["n"] > 0
    assert (tmp_path / "results" / "runs" / "clipvg").is_dir()
