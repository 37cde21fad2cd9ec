"""A finished run is recognised before its pipeline is opened, and only where its weights are known to be the same."""

import json
import shutil
import struct
import subprocess
import sys

import pytest
from edited_records import edited
from fake_world import HashPipeline, make_settings, make_split

from bench import registry
from bench.evaluation.loop import evaluate
from bench.grounding import PipelineCard
from bench.hashing import sha256_file
from bench.settings import PROJECT

FINISHED = (
    "yolo-clip,detr-clip,ssd-clip,reclip,mdetr,clipvg,label-clip,label-only,largest-proposal,random-proposal,fixed-box,"
    "centre-box,whole-image"
)


class Weighted(HashPipeline):
    """Its weights are the file of the option `weights`, or of no file, as the identity has them."""

    opened = 0

    def __init__(self, context):
        super().__init__(context)
        type(self).opened += 1
        weights = {"model": self.options["weights"]} if "weights" in self.options else {}
        self.card = PipelineCard(context.name, "", weights=weights, supervision="unknown")


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Runs with options, and returns whether the pipeline was opened for it."""
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: Weighted)
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))

    def run(options, **changes):
        before = Weighted.opened
        done = evaluate("hash", make_split(), make_settings(tmp_path / "r", options), **changes)
        assert done.already_done == (Weighted.opened == before) or changes
        return Weighted.opened > before

    return run


@pytest.mark.slow
def test_only_what_is_unknown_is_opened(opened, tmp_path, monkeypatch):
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"one")
    for options in ({"salt": 1}, {"weights": str(weights)}, {"weights": "an/id"}):
        assert opened(options) and not opened(options)
    assert opened({"salt": 2}) and opened({"salt": 1}, fresh=True) and opened({"salt": 1}, protocol="strict")
    weights.write_bytes(b"two")
    assert opened({"weights": str(weights)})
    monkeypatch.setattr("bench.hashing._sha256", lambda *key: pytest.fail("the file is read again"))
    assert not opened({"weights": str(weights)})


@pytest.mark.slow
def test_an_unfinished_run_is_opened(opened, tmp_path):
    opened({"salt": 1})
    (record,) = tmp_path.glob("r/runs/*/*/*/run.json")
    edited(record.parent, status="running")
    assert opened({"salt": 1})


def test_weights_may_pin_others_in_their_metadata(tmp_path):
    from types import SimpleNamespace

    from bench.evaluation.identity import same_weights

    header = json.dumps({"__metadata__": {"clip": "c" * 64}}).encode()
    (tmp_path / "own.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (tmp_path / "clip.bin").write_bytes(b"clip")
    options = {"weights": "own.safetensors", "clip": {"pretrained": "clip.bin"}}
    context = SimpleNamespace(options=options, folder=tmp_path, home=tmp_path / "home")
    own = sha256_file(tmp_path / "own.safetensors")
    assert same_weights({"model": own, "clip": "c" * 64}, context)
    assert not same_weights({"model": own, "clip": "d" * 64}, context)  # nothing names it
    assert not same_weights({"model": "e" * 64, "clip": "c" * 64}, context)  # another file of weights
    assert not same_weights({"model": own}, context)  # what is clip.bin for?


@pytest.mark.slow
def test_thirteen_shipped_runs_open_nothing_and_import_no_torch(tmp_path):
    for name in FINISHED.split(","):
        shutil.copytree(PROJECT / "results" / "runs" / name / "shapes-val", tmp_path / "runs" / name / "shapes-val")
    code = (
        "import sys; from bench import registry; from bench.cli.main import main\n"
        "registry.pipeline_factory = None\n"
        f"sys.argv = ['bench', 'run', '-p', {FINISHED!r}, '-s', 'shapes-val', '--device', 'cpu', '--json']\n"
        f"sys.argv += ['-o', {str(tmp_path)!r}]\n"
        "try: main()\n"
        "finally: assert not {'torch', 'ultralytics', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) == 13 and done.stderr.count("done before") == 13
