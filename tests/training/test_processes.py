"""Two processes on a CPU, as torchrun starts them: the same training as one, whichever the method."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from training_world import IMAGES

LIMIT_S = 600  # on a machine full of other work; a few seconds are enough
# 25 rows in steps of 8: the last step has one, and a process has none.
CONFIG = """
[data.shapes]
train = 4
[train.small]
epochs = 2
batch = 4
reference_batch = 8
learning_rate = 1e-3
save_every = 99
log_every = 1
"""


@pytest.fixture
def validation(tmp_path):
    """Three scenes of 2, 1 and 2 expressions as a split of one's own: no even share for two processes."""
    from bench.datasets.shapes import make_scene

    lines = []
    for number in range(3):
        scene = make_scene(2026, "val", number)
        Image.fromarray(IMAGES.load(scene)).save(tmp_path / scene.file)
        lines += [{"image": scene.file, "text": e.text, "box_xyxy": e.box} for e in scene.expressions[: 2 - number % 2]]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"file:{tmp_path / 'val.jsonl'}", len(lines)


@pytest.fixture
def bench(tmp_path, validation):
    """bench(out, processes, *words): `bench train` of the fixture's grounder."""
    (tmp_path / "small.toml").write_text(CONFIG)

    def run(out, processes, *words, pipeline="small"):
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        command = [sys.executable, "-m", *(launcher if processes > 1 else []), "bench.cli.main", "train"]
        command += ["-p", pipeline, "-s", "shapes-train", "--validate", validation[0], "--device", "cpu", "--json"]
        path = os.pathsep.join(sys.path)
        return subprocess.run(
            [*command, "--config", str(tmp_path / "small.toml"), "--out", str(out), *words],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )  # fmt: skip

    return run


def left_by(out):
    state = torch.load(out / "small.run/last.pt", weights_only=True)
    lines = [json.loads(line) for line in (out / "small.run/training.jsonl").read_text().splitlines()]
    return state, lines, json.loads((out / "small.json").read_text())


def test_two_processes_are_one(bench, validation, tmp_path):
    for name, processes in (("two", 2), ("one", 1)):
        done = bench(tmp_path / name, processes)
        assert done.returncode == 0, done.stdout + done.stderr
        spoken = [line for line in done.stdout.splitlines() if line.startswith("{")]
        weights = str(tmp_path / name / "small.safetensors")
        assert [json.loads(line) for line in spoken] == [{"weights": {"network": weights}}]
    (mine, my_lines, my_record), (theirs, their_lines, their_record) = (left_by(tmp_path / n) for n in ("two", "one"))
    assert (my_record["processes"], their_record["processes"]) == (2, 1)
    assert my_record["training"]["effective_batch"] == their_record["training"]["effective_batch"] == 8
    assert mine["identity"] == theirs["identity"] and mine["step"] == theirs["step"] == 8
    # Adam hides a gradient of the wrong size from the weights; its moments do not.
    for number, moments in theirs["optimiser"]["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(mine["optimiser"]["state"][number][name], moments[name], rtol=1e-4, atol=1e-6)
    for name, weight in theirs["trained"].items():
        torch.testing.assert_close(mine["trained"][name], weight, rtol=0, atol=1e-5)
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (my_lines, their_lines)]
    assert len(losses[0]) == 8 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    scores = [[line for line in lines if "accuracy" in line] for lines in (my_lines, their_lines)]
    assert [line["n"] for line in scores[0]] == [validation[1]] * 2  # each expression once
    for ours, its in zip(*scores, strict=True):
        assert {k: pytest.approx(v, abs=1e-5) for k, v in its.items()} == ours
    files = [{str(path.relative_to(out)) for path in out.rglob("*")} for out in (tmp_path / "two", tmp_path / "one")]
    assert files[0] == files[1]


def test_three_processes_cannot_share_eight_rows(bench, tmp_path):
    done = bench(tmp_path / "three", 3)
    assert done.returncode and "8 cannot be shared by 3 processes: set reference_batch=6 or 9" in done.stderr
    assert not list((tmp_path / "three").glob("*.safetensors"))
