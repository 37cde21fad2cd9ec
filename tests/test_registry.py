"""Names: ours and other people's come in by the same door."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from bench import registry
from bench.errors import BenchError, MissingPackage, UnknownName
from bench.settings import PROJECT


def test_every_registered_name_loads():
    for name in registry.names(registry.PIPELINES):
        assert callable(registry.pipeline_factory(name))
        assert registry.origin(registry.PIPELINES, name).partition(" ")[0] in ("grounding-bench", "small-grounder")
        for part in ("tasks", "export"):
            assert not registry.has(name, part) or callable(registry.load(registry.PIPELINES, name, part))
    for group in registry.KINDS:
        assert all(callable(registry.load(group, name)) for name in registry.names(group) if group != registry.DATASETS)
    for name in registry.names(registry.DATASETS):
        assert registry.load(registry.DATASETS, name).name == name


@pytest.mark.parametrize(("group", "name", "part", "message"), [
    (registry.PIPELINES, "yolo-klip", "pipeline", "no pipeline is called 'yolo-klip'; did you mean 'yolo-clip'"),
    (registry.DATASETS, "refcocg", "pipeline", "no dataset is called 'refcocg'; did you mean 'refcocog'"),
    (registry.LABEL_SOURCES, "captions", "pipeline", "did you mean 'caption'"),
    (registry.PIPELINES, "centre-box", "tasks", "no trainable pipeline is called 'centre-box'; known: "),
])  # fmt: skip
def test_an_unknown_name_gets_the_nearest(group, name, part, message):
    with pytest.raises(UnknownName) as error:
        registry.load(group, name, part)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("target", "kind"), [("no_such_package_x:build", MissingPackage), ("bench.boxes:no_such_thing", BenchError)]
)
def test_a_broken_entry_is_one_message(monkeypatch, target, kind):
    entry = EntryPoint("broken", target, registry.PIPELINES)
    monkeypatch.setattr(registry, "_entries", lambda group: {"broken": entry})
    with pytest.raises(kind, match="broken"):
        registry.pipeline_factory("broken")


PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "somebody-elses-grounder"
version = "1.0"
[project.entry-points."bench.pipelines"]
upper-half = "upper_half:build"
[tool.hatch.build.targets.wheel]
only-include = ["upper_half.py"]
"""
MODULE = """
from bench.grounding import PipelineCard, Prediction

class UpperHalf:
    card = PipelineCard("upper-half", "the upper half of the image", supervision="none")

    def ground(self, batch):
        return [
            Prediction(q.id, (0, 0, s.image.shape[1], s.image.shape[0] / 2)) for s in batch for q in s.queries
        ]

def build(context):
    return UpperHalf()
"""


@pytest.mark.slow
def test_a_package_of_somebody_elses_is_found_and_run(tmp_path):
    """Really installed with pip, found through its entry point, run on the embedded data in a process of its own."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "upper_half.py").write_text(MODULE)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, capture_output=True)
    command = [sys.executable, "-m", "bench.cli.main", "run", "--pipeline", "upper-half", "--split", "shapes-val"]
    done = subprocess.run(
        [*command, "--limit", "3", "--results", str(tmp_path / "results"), "--json"],
        env={"PYTHONPATH": f"{site}:{PROJECT}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert (row["pipeline"], row["split"], row["no_box"]) == ("upper-half", "shapes-val", 0)
