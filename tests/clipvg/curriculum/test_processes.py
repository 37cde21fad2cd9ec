"""Two processes on a CPU, as torchrun starts them, come to the decisions of one that accumulates twice as much."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from small_training import PICTURES, VALIDATION, settings_file  # noqa: F401 - settings_file is a fixture
from typer.testing import CliRunner

from bench.cli.main import app

LIMIT_S = 600  # on a machine full of other work; a few seconds are enough


@pytest.fixture
def validation(tmp_path):
    """Two scenes as a split of one's own."""
    lines = []
    for scene in VALIDATION:
        Image.fromarray(PICTURES.load(scene)).save(tmp_path / scene.file)
        lines += [{"image": scene.file, "text": e.text, "box_xyxy": e.box} for e in scene.expressions]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"file:{tmp_path / 'val.jsonl'}"


@pytest.fixture
def asked(settings_file, validation, tmp_path):  # noqa: F811
    """asked(out): the words of `bench train --curriculum single` on the 25 rows of four scenes."""
    labels = tmp_path / "template.jsonl"
    command = ["data", "noisy-labels", "--kind", "template", "--limit", "4", "--out", str(labels)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    curriculum = {"start": 0.0, "step": 0.02, "low": 0.0, "high": 0.02}
    config = settings_file(4, batch=2, epochs=1, validate_every=9, curriculum=curriculum)
    words = ["train", "--pipeline", "clipvg", "--split", "shapes-train", "--device", "cpu", "--config", str(config)]
    words += ["--validate", validation, "--curriculum", "single", "--labels", str(labels), "--json"]
    return lambda out: [*words, "--out", str(out)]


def decided(out):
    held = json.loads((out / "small.curriculum" / "manifest.json").read_text())
    (one,) = held["rounds"]
    tried = [(t["threshold"], t["rows"], round(t["performance"], 2)) for t in one["thresholds"]]
    return tried, one["chosen"], held["last"]["rows"]


def test_two_processes_decide_as_one(asked, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    done = subprocess.run(
        [*launcher, "bench.cli.main", *asked(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    spoken = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert [json.loads(line) for line in spoken] == [{"weights": {"network": str(tmp_path / "two/small.safetensors")}}]
    alone = CliRunner().invoke(app, asked(tmp_path / "one"), catch_exceptions=False)
    assert alone.exit_code == 0, alone.output
    assert decided(tmp_path / "two") == decided(tmp_path / "one")
    records = [sorted(p.name for p in (tmp_path / name / "nodes").iterdir()) for name in ("two", "one")]
    assert records[0] == records[1], "nodes are named by rows in a step, not by processes"
