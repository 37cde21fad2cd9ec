"""Two processes on a CPU, as torchrun starts them: the same training as one, whichever the method."""

import json

import pytest
from PIL import Image
from training_world import IMAGES, check_alike, lines_of, run_training

from bench.datasets.shapes import make_scene

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
    lines = []
    for number in range(3):
        scene = make_scene(2026, "val", number)
        Image.fromarray(IMAGES.load(scene)).save(tmp_path / scene.file)
        lines += [{"image": scene.file, "text": e.text, "box_xyxy": e.box} for e in scene.expressions[: 2 - number % 2]]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"file:{tmp_path / 'val.jsonl'}", len(lines)


@pytest.fixture
def run(tmp_path, validation):
    """run(out, processes): `bench train` of the fixture's grounder."""
    (tmp_path / "small.toml").write_text(CONFIG)
    words = ["-p", "small", "-s", "shapes-train", "--validate", validation[0], "--config", str(tmp_path / "small.toml")]
    return lambda out, processes, *more: run_training(processes, [*words, "--out", str(tmp_path / out), *more])


@pytest.mark.slow
def test_two_processes_are_one(run, validation, tmp_path):
    for name, processes, *more in (("two", 2, "--set", "cache_images=16MB"), ("one", 1)):
        done = run(name, processes, *more)
        assert done.returncode == 0, done.stdout + done.stderr
        printed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert printed == [{"weights": {"network": str(tmp_path / name / "small.safetensors")}}]
    lines = [line for line in lines_of(tmp_path / "two") if "loss" in line]
    assert lines[-1]["image_cache_hits"] > 0.3 and lines[-1]["image_cache_gib"] > 0
    scores = check_alike(tmp_path / "two", tmp_path / "one", steps=8)
    assert [line["n"] for line in scores[0]] == [validation[1]] * 2  # each expression once
    for ours, theirs in zip(*scores, strict=True):
        assert {k: pytest.approx(v, abs=1e-5) for k, v in theirs.items()} == ours
    files = [{str(path.relative_to(out)) for path in out.rglob("*")} for out in (tmp_path / "two", tmp_path / "one")]
    assert files[0] == files[1]
