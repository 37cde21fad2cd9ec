"""Two processes on a CPU, as torchrun starts them: the same training as one process that accumulates twice as much."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bench.cli.main import app

LIMIT_S = 600  # on a machine full of other work; a few seconds are enough
# One process takes 4 x 2 rows, two take 2 x 2 rows each. 25 rows: the last step has one, and a process has none.
CHANGES = {"batch": 2, "epochs": 2, "save_every": 99}


@pytest.fixture
def validation(tmp_path, pictures):
    """Three scenes of 2, 1 and 2 expressions as a split of one's own: no even share for two processes."""
    from bench.datasets.shapes import make_scene

    lines = []
    for number in range(3):
        scene = make_scene(2026, "val", number)
        Image.fromarray(pictures.load(scene)).save(tmp_path / scene.file)
        lines += [{"image": scene.file, "text": e.text, "box_xyxy": e.box} for e in scene.expressions[: 2 - number % 2]]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"file:{tmp_path / 'val.jsonl'}", len(lines)


@pytest.fixture
def asked(settings_file, validation):
    """asked(out): the words of `bench train`."""
    config = str(settings_file(4, **CHANGES))
    words = ["train", "--pipeline", "clipvg", "--split", "shapes-train", "--validate", validation[0], "--device", "cpu"]
    return lambda out: [*words, "--config", config, "--json", "--out", str(out)]


def left_by(out):
    held = torch.load(out / "small.run/last.pt", weights_only=True)
    lines = [json.loads(line) for line in (out / "small.run/training.jsonl").read_text().splitlines()]
    return held, lines, json.loads((out / "small.json").read_text())


def test_two_processes_are_one_that_accumulates(asked, validation, tmp_path):
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
    (mine, my_lines, my_record), (theirs, their_lines, their_record) = (left_by(tmp_path / n) for n in ("two", "one"))

    assert (my_record["processes"], their_record["processes"]) == (2, 1)
    assert my_record["training"]["effective_batch"] == their_record["training"]["effective_batch"] == 8
    assert mine["identity"] == theirs["identity"] and mine["step"] == theirs["step"] == 8
    # Adam hides a gradient of the wrong size from the weights; its moments do not.
    for number, moments in theirs["optimiser"]["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(mine["optimiser"]["state"][number][name], moments[name], rtol=1e-4, atol=1e-6)
    for name, weight in theirs["trained"].items():
        keep = torch.ones(len(weight), dtype=torch.bool)
        if name.endswith("in_proj_bias"):  # a softmax does not see the keys' bias: its gradient is noise
            keep[len(weight) // 3 : 2 * len(weight) // 3] = False
        torch.testing.assert_close(mine["trained"][name][keep], weight[keep], rtol=0, atol=1e-5)

    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (my_lines, their_lines)]
    assert len(losses[0]) == 8 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    scores = [[line for line in lines if "accuracy" in line] for lines in (my_lines, their_lines)]
    assert [line["n"] for line in scores[0]] == [validation[1]] * 2  # each expression once
    for ours, its in zip(*scores, strict=True):
        assert {k: pytest.approx(v, abs=1e-5) for k, v in its.items()} == ours
    files = [{str(path.relative_to(out)) for path in out.rglob("*")} for out in (tmp_path / "two", tmp_path / "one")]
    assert files[0] == files[1]
