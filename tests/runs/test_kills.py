"""Processes that are killed outright, and ranks: whatever happens, the same bytes at the end."""

import json
import random
import subprocess
import time

import pytest

from tools.benchmarks.kills import RUN, kill, run_outcome, start

pytestmark = pytest.mark.slow

SLOW = ("--delay", "0.04")


def start_run(results, *words, **env):
    return start([*RUN, str(results), *words], stderr=subprocess.PIPE, **env)


def start_ranks(results, count, *words):
    return [start_run(results, *words, RANK=str(i), WORLD_SIZE=str(count)) for i in range(count)]


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


def wait_for_files(results, pattern, count, process):
    until = time.monotonic() + 30
    while len(list(results.rglob(pattern))) < count and time.monotonic() < until and process.poll() is None:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    results = tmp_path_factory.mktemp("whole")
    finish(start_run(results))
    outcome = run_outcome(results)
    assert json.loads(outcome[0])[1] == ["batches.packed", "outcomes.packed", "predictions.packed", "run.json"]
    return outcome


@pytest.mark.parametrize("seed", range(4))
def test_killed_and_resumed(tmp_path, whole, seed):
    rng = random.Random(seed)
    for _ in range(2):
        process = start_run(tmp_path, *SLOW)
        wait_for_files(tmp_path, "predictions.jsonl", 1, process)
        time.sleep(rng.uniform(0, 0.25))
        kill(process)
    finish(start_run(tmp_path, *SLOW))
    assert run_outcome(tmp_path) == whole


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("names", [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")])
def test_any_number_of_ranks_ends_the_same(tmp_path, whole, size, names):
    index, count = names
    finish(*(start_run(tmp_path, **{index: str(i), count: str(size)}) for i in range(size)))
    assert run_outcome(tmp_path) == whole


def test_started_with_three_ranks_and_ended_with_two(tmp_path, whole):
    three = start_ranks(tmp_path, 3, "--delay", "0.1")
    wait_for_files(tmp_path, "predictions*.jsonl", 3, three[0])
    kill(*three)  # rank 0 last, so that the others are not orphans
    assert run_outcome(tmp_path) is None
    finish(*start_ranks(tmp_path, 2, "--delay", "0.1"))
    assert run_outcome(tmp_path) == whole


def test_a_rank_that_never_comes_is_named_and_its_share_is_done_later(tmp_path, whole):
    alone = start_run(tmp_path, "--rank-timeout", "0.5", RANK="0", WORLD_SIZE="2")
    _, errors = alone.communicate(timeout=60)
    assert alone.returncode == 1 and "from rank 1 (12 scenes)" in errors
    finish(start_run(tmp_path))
    assert run_outcome(tmp_path) == whole
