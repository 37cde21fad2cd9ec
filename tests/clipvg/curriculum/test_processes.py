"""Processes on a CPU: two come to the decisions of one."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.cli.main import app
from bench.datasets.shapes import ShapesImages, make_scene

LIMIT_S = 600  # on a machine full of other work; a few seconds are enough


@pytest.fixture
def command(tmp_path):
    """command(out): `bench train --curriculum single` on the rows of four scenes, validated on two others."""
    lines = []
    for scene in (make_scene(2026, "val", i) for i in range(2)):
        Image.fromarray(ShapesImages(2026).load(scene)).save(tmp_path / scene.file)
        lines += [{"image": scene.file, "text": e.text, "box_xyxy": e.box} for e in scene.expressions]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    labels, config = tmp_path / "template.jsonl", tmp_path / "small.toml"
    make = ["data", "noisy-labels", "--kind", "template", "--limit", "4", "--out", str(labels)]
    assert CliRunner().invoke(app, make, catch_exceptions=False).exit_code == 0
    curriculum = "curriculum = { start = 0.0, step = 0.1, low = 0.0, high = 0.1 }"
    table = "batch = 2\nreference_batch = 8\nsave_every = 1\nepochs = 2"
    config.write_text(f"[data.shapes]\ntrain = 4\n[train.small]\n{table}\n{curriculum}")
    words = ["train", "--pipeline", "small", "--split", "shapes-train", "--device", "cpu", "--config", str(config)]
    words += ["--validate", f"file:{tmp_path / 'val.jsonl'}", "--curriculum", "single", "--labels", str(labels)]
    return lambda out: [*words, "--json", "--out", str(tmp_path / out)]


def start(*words):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def decisions(out):
    manifest = json.loads((out / "small.curriculum" / "manifest.json").read_text())
    (one,) = manifest["rounds"]
    trials = [(t["threshold"], t["rows"], round(t["performance"], 2)) for t in one["thresholds"]]
    return trials, one["chosen"], manifest["last"]["rows"], sorted(p.name for p in (out / "nodes").iterdir())


@pytest.mark.slow
def test_two_processes_decide_as_one(command, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "bench.cli.main"]
    both = start(*launcher, *command("two"))
    output, errors = both.communicate(timeout=LIMIT_S)
    assert both.returncode == 0, output + errors
    printed = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert printed == [{"weights": {"network": str(tmp_path / "two/small.safetensors")}}]
    assert CliRunner().invoke(app, command("one"), catch_exceptions=False).exit_code == 0
    assert decisions(tmp_path / "two") == decisions(tmp_path / "one"), (
        "nodes too: named by rows in a step, not by processes"
    )
