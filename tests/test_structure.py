"""The structure of docs/architecture.md: arrows, sizes, words, and the calls between the command and the network."""

import sys
import traceback

import pytest
import small_grounder

from bench.cli.main import main
from bench.datasets.shapes import SCENES
from tools.structure import ROOT, imports, measure, sources, upward

# Short files with a single importer that are a subject of their own; each says why.
SHORT = {
    "bench/datasets/readers/sources.py", "bench/training/feature_cache.py", "pipelines/oneref/checkpoint.py",
    "pipelines/start.py", "bench/audit/reviewed.py",
}  # fmt: skip
# Words of people's expressions, and of files of before, are no words of ours.
DATA = {"old_names.py", "prepared.py", "language.py", "corrupted_shapes.py", "lexicon.py"}


@pytest.fixture(scope="module")
def numbers():
    return measure()


@pytest.mark.slow
def test_no_import_circle_and_no_arrow_upwards(numbers):
    assert numbers["circle"] == [] and numbers["upward"] == []


def test_an_arrow_upwards_is_noticed():
    files = {"bench/runs/a.py": "from bench.cli import run\n", "bench/cli/run.py": "import bench.runs.a\n"}
    arrows = imports(files)
    assert arrows == {"bench/runs/a.py": {"bench/cli/run.py"}, "bench/cli/run.py": {"bench/runs/a.py"}}
    assert upward(arrows) == ["bench/runs/a.py -> bench/cli/run.py"]


def test_a_file_is_one_idea(numbers):
    assert numbers["files_over_300_lines"] == [] and numbers["most_imports"][1] <= 12
    assert set(numbers["short_files_with_one_importer"]) <= SHORT


def test_the_words_are_the_fields(numbers):
    assert [file for file in numbers["retired_words"] if file.rpartition("/")[2] not in DATA] == []


@pytest.mark.slow
def test_bench_imports_no_pipeline():
    arrows = {file: targets for file, targets in imports(sources()).items() if file.startswith("bench/")}
    assert {target for targets in arrows.values() for target in targets if not target.startswith("bench/")} == set()


@pytest.mark.slow
def test_few_calls_lie_between_the_command_and_the_network(tmp_path, monkeypatch):
    monkeypatch.setitem(SCENES, "val", 3)
    (tmp_path / "small.toml").write_text("[data.shapes]\ntrain = 4\n[train.small]\nepochs = 1\nbatch = 8\n")
    calls = {}

    def counted(command, function):
        def call(*args):
            frames = [f"{frame.filename}:{frame.name}" for frame in traceback.extract_stack()]
            calls.setdefault(command, [f for f in frames if f.startswith(str(ROOT / "bench"))])
            return function(*args)

        return call

    ground, losses = small_grounder.SmallPipeline.ground, small_grounder.SmallTask.losses
    monkeypatch.setattr(small_grounder.SmallTask, "losses", counted("train", losses))
    out = tmp_path / "weights"
    for words in (
        ("train", "-p", "small", "-s", "shapes-train", "--out", out, "--set", "reference_batch=8"),
        ("run", "-p", "small", "-s", "shapes-val", "--weights", out / "small.safetensors", "--results", tmp_path),
    ):
        if words[0] == "run":
            monkeypatch.setattr(small_grounder.SmallPipeline, "ground", counted("run", ground))
        command = ["bench", *map(str, words), "--config", str(tmp_path / "small.toml"), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
    # With the call of the network itself.
    assert len(calls["run"]) + 1 <= 5, calls["run"]
    assert len(calls["train"]) + 1 <= 6, calls["train"]
