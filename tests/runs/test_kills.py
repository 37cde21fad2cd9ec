"""Processes that are killed outright, and ranks: whatever happens, the same bytes at the end."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORLD = Path(__file__).parents[1] / "fake_world.py"


def start(results: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "SLURM_PROCID")} | env
    command = [sys.executable, str(WORLD), str(results), *words]
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said


def ended(results: Path) -> tuple[bytes, bytes]:
    """The metrics, and the predictions with the outcomes, of the one finished run."""
    (path,) = results.rglob("run.json")
    record = json.loads(path.read_bytes())
    assert record["status"] == "complete"
    left = sorted(p.name for p in path.parent.iterdir())
    assert left == ["batches.jsonl", "outcomes.jsonl", "predictions.jsonl", "run.json"], left
    stored = (path.parent / "predictions.jsonl").read_bytes() + (path.parent / "outcomes.jsonl").read_bytes()
    return json.dumps(record["metrics"]).encode(), stored


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    results = tmp_path_factory.mktemp("whole")
    finish(start(results))
    return ended(results)


@pytest.mark.parametrize("seed", range(4))
def test_killed_and_resumed(tmp_path: Path, whole: tuple[bytes, bytes], seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(2):
        process = start(tmp_path, "--delay", "0.04")
        until = time.monotonic() + 30
        while not list(tmp_path.rglob("predictions.jsonl")) and time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(tmp_path, "--delay", "0.04"))
    assert ended(tmp_path) == whole


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("kind", ["torchrun", "slurm"])
def test_any_number_of_ranks_ends_the_same(tmp_path: Path, whole: tuple[bytes, bytes], size: int, kind: str) -> None:
    index, count = ("RANK", "WORLD_SIZE") if kind == "torchrun" else ("SLURM_PROCID", "SLURM_NTASKS")
    finish(*(start(tmp_path, **{index: str(i), count: str(size)}) for i in range(size)))
    assert ended(tmp_path) == whole


def test_begun_with_three_ranks_and_ended_with_two(tmp_path: Path, whole: tuple[bytes, bytes]) -> None:
    three = [start(tmp_path, "--delay", "0.1", RANK=str(i), WORLD_SIZE="3") for i in range(3)]
    until = time.monotonic() + 30
    while len(list(tmp_path.rglob("predictions*.jsonl"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    for process in reversed(three):  # rank 0 last, so that the others are not orphans
        process.kill()
        process.communicate()
    (record,) = tmp_path.rglob("run.json")
    assert json.loads(record.read_bytes())["status"] == "running"
    finish(*(start(tmp_path, "--delay", "0.1", RANK=str(i), WORLD_SIZE="2") for i in range(2)))
    assert ended(tmp_path) == whole


def test_a_rank_that_never_comes_is_named_and_its_share_is_done_later(
    tmp_path: Path, whole: tuple[bytes, bytes]
) -> None:
    alone = start(tmp_path, "--rank-timeout", "0.5", RANK="0", WORLD_SIZE="2")
    _, said = alone.communicate(timeout=60)
    assert alone.returncode == 1 and "nothing was heard for 0.5 s from rank 1 (12 scenes)" in said
    finish(start(tmp_path))
    assert ended(tmp_path) == whole


def test_the_second_process_on_a_run_is_refused(tmp_path: Path) -> None:
    first = start(tmp_path, "--delay", "30")  # a busy machine must not let it end before the second has begun
    while not list(tmp_path.rglob("lock")) and first.poll() is None:
        time.sleep(0.01)
    second = start(tmp_path, "--delay", "30")
    _, said = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 1 and f"in use by process {first.pid}" in said
