"""Processes on one run: ranks and their shares, waiting for the others, and the lock."""

import subprocess
import sys
from pathlib import Path

import pytest
from fake_world import make_split
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import RunError, UsageError
from bench.runs.lock import holder, locked, state_of
from bench.runs.predictions import SceneAnswers, dump_line
from bench.runs.shards import Rank, from_environment, owned, wait_for

SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x", "MASTER_PORT": "29500"}
SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "77"}  # a batch script alone: no other rank starts
HOLD = (
    "import sys, time; from pathlib import Path; from bench.runs.lock import locked\n"
    "with locked(Path(sys.argv[1]), 'this run', {'launch': 'a'}): print('locked', flush=True); time.sleep(60)\n"
)


@pytest.mark.parametrize(("env", "rank"), [
    ({}, Rank(0, 1)), (TORCHRUN, Rank(5, 8, 1, "x||29500")), (SRUN, Rank(1, 4, 1, "|")),
    ({**SRUN, "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}, Rank(1, 4, 1, "77|0")), (SCRIPT, Rank()),
])  # fmt: skip
def test_the_rank_of_the_environment(env, rank):
    assert from_environment(env) == rank


@pytest.mark.parametrize(("index", "size"), [("4", "4"), ("-1", "4"), ("a", "2")])
def test_variables_that_make_no_rank(index, size):
    with pytest.raises(UsageError, match=f"RANK='{index}', WORLD_SIZE='{size}'"):
        from_environment({"RANK": index, "WORLD_SIZE": size})


@given(st.integers(0, 40), st.integers(1, 9))
def test_every_scene_has_one_owner(images, size):
    scenes = make_split(images).scenes
    shares = [owned(scenes, Rank(index, size)) for index in range(size)]
    assert sorted(s.id for share in shares for s in share) == sorted(s.id for s in scenes)
    assert all(scene in shares[i % size] for i, scene in enumerate(scenes))


@pytest.mark.slow
def test_waiting_names_the_silent_ranks(tmp_path):
    scenes = make_split(7).scenes
    files = {index: tmp_path / Rank(index, 3).file("predictions") for index in range(3)}
    assert [path.stem for path in files.values()] == ["predictions", "predictions.rank1", "predictions.rank2"]

    def write(rank, *numbers, end=""):
        files[rank].write_text("".join(dump_line(SceneAnswers(f"s{i}", ())) for i in numbers) + end)

    write(0, 0, 3, 6)
    write(1, 1, end='{"scene":"s4","half a line')
    with pytest.raises(RunError, match=r"0.3 s from rank 1 \(1 scenes\), rank 2 \(2 scenes\)"):
        wait_for(scenes, files, {scene.id for scene in scenes}, timeout_s=0.3)
    write(1, 1, 4)
    write(2, 2, 5)
    wait_for(scenes, files, {scene.id for scene in scenes}, timeout_s=0.3)


def test_the_second_process_is_refused_with_the_name_of_the_first(tmp_path: Path):
    path = tmp_path / "lock"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        note = holder(path)
        assert note["launch"] == "a" and note["pid"] == other.pid
        assert state_of(tmp_path, "running") == "running"
        in_use = f"this run is in use by process {other.pid} on .*; wait for it to end"
        with pytest.raises(RunError, match=in_use), locked(path, "this run", patience_s=0.1):
            pass
    finally:
        other.kill()
        other.wait()
    assert path.exists(), "a killed process leaves the file"
    assert holder(path) is None
    assert state_of(tmp_path, "running") == "stopped" and state_of(tmp_path, "complete") == "complete"
    with locked(path, "this run"):
        assert holder(path) is not None
        with pytest.raises(RunError, match="in use"), locked(path, "this run", patience_s=0.1):
            pass
    assert not path.exists()


def test_the_state_of_a_run_goes_by_the_locks_of_all_ranks_and_machines(tmp_path):
    assert state_of(tmp_path, "running") == "stopped"
    with locked(tmp_path / "lock.rank1", "rank 1"):
        assert state_of(tmp_path, "running") == "running"
    (tmp_path / "lock").write_text('{"pid": 7, "host": "node7"}')  # its lock may not reach this machine
    assert state_of(tmp_path, "running") == "stopped, or running on node7"
    (tmp_path / "lock").write_text("")
    assert state_of(tmp_path, "running") == "stopped"
