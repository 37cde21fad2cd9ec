"""Ranks from the environment, whose scenes are whose, and waiting for the others."""

from pathlib import Path

import pytest
from fake_world import make_split
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import RunError, UsageError
from bench.runs.predictions import SceneAnswers, dump_line
from bench.runs.shards import Rank, from_environment, owned, wait_for


def test_alone_without_variables() -> None:
    assert from_environment({}) == Rank(0, 1)


def test_torchrun() -> None:
    env = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x", "MASTER_PORT": "29500"}
    rank = from_environment(env)
    assert (rank.index, rank.size, rank.local, rank.launch) == (5, 8, 1, "x||29500")


def test_srun_and_a_batch_script_that_is_no_rank() -> None:
    env = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
    assert from_environment(env) == Rank(1, 4, 1, "|")
    step = {**env, "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
    assert from_environment(step) == Rank(1, 4, 1, "77|0")
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "77"}
    assert from_environment(script) == Rank(), "nobody would start the other three"


@pytest.mark.parametrize(
    "env", [{"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "-1", "WORLD_SIZE": "4"}, {"RANK": "a", "WORLD_SIZE": "2"}]
)
def test_variables_that_make_no_rank(env: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=f"RANK='{env['RANK']}', WORLD_SIZE='{env['WORLD_SIZE']}'"):
        from_environment(env)


@given(st.integers(0, 40), st.integers(1, 9))
def test_every_scene_has_one_owner(images: int, size: int) -> None:
    scenes = make_split(images).scenes
    shares = [owned(scenes, Rank(index, size)) for index in range(size)]
    assert sorted(s.id for share in shares for s in share) == sorted(s.id for s in scenes)
    assert all(scene in shares[i % size] for i, scene in enumerate(scenes))


def test_waiting_names_the_silent_ranks(tmp_path: Path) -> None:
    scenes = make_split(7).scenes
    files = {index: tmp_path / Rank(index, 3).file("predictions") for index in range(3)}
    assert [path.name for path in files.values()] == [
        "predictions.jsonl",
        "predictions.rank1.jsonl",
        "predictions.rank2.jsonl",
    ]
    files[0].write_text("".join(dump_line(SceneAnswers(f"s{i}", ())) for i in (0, 3, 6)))
    files[1].write_text(dump_line(SceneAnswers("s1", ())) + '{"scene":"s4","half a line')
    with pytest.raises(RunError, match=r"0.3 s from rank 1 \(1 scenes\), rank 2 \(2 scenes\)"):
        wait_for(scenes, files, {scene.id for scene in scenes}, timeout_s=0.3)
    files[1].write_text("".join(dump_line(SceneAnswers(f"s{i}", ())) for i in (1, 4)))
    files[2].write_text("".join(dump_line(SceneAnswers(f"s{i}", ())) for i in (2, 5)))
    wait_for(scenes, files, {scene.id for scene in scenes}, timeout_s=0.3)
