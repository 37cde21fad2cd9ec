"""Ranks and their shares, without torch: scene i of the whole split belongs to rank i % N.

Ownership goes by position in the split and never by what is left to do, so any number of ranks can end a run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import RunError, UsageError
from bench.grounding import Scene

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Rank:
    """One of `size` processes of a launch. `local` numbers those of one machine; `launch` is the same for all."""

    index: int = 0
    size: int = 1
    local: int | None = None
    launch: str = ""

    def file(self, stem: str) -> str:
        """Name this rank's own file: predictions.jsonl for rank 0, predictions.rank2.jsonl for rank 2."""
        return f"{stem}.jsonl" if self.index == 0 else f"{stem}.rank{self.index}.jsonl"


def from_environment(environ: Mapping[str, str] | None = None) -> Rank:
    """Take the rank that torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_NTASKS) gave; else 0 of 1.

    Raises UsageError when the variables are not numbers that fit together.
    """
    env = os.environ if environ is None else environ
    if "RANK" in env and "WORLD_SIZE" in env:
        names, local = ("RANK", "WORLD_SIZE"), env.get("LOCAL_RANK")
        launch = "|".join(env.get(k, "") for k in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))
    # In a batch script itself Slurm sets the variables of rank 0 but starts no other: there is no step.
    elif {"SLURM_PROCID", "SLURM_NTASKS"} <= env.keys() and ("SLURM_STEP_ID" in env or "SLURM_JOB_ID" not in env):
        names, local = ("SLURM_PROCID", "SLURM_NTASKS"), env.get("SLURM_LOCALID")
        launch = "|".join(env.get(k, "") for k in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    else:
        return Rank()
    try:
        index, size = (int(env[name]) for name in names)
        rank = Rank(index, size, None if local is None else int(local), launch)
    except ValueError:
        index, size, rank = -1, 0, Rank()
    if not 0 <= index < size:
        given = ", ".join(f"{name}={env[name]!r}" for name in names)
        raise UsageError(
            f"the environment gives this process no rank ({given}); a rank is a number from 0 to below the size"
        )
    return rank


def owned(scenes: Sequence[Scene], rank: Rank) -> list[Scene]:
    """Return the scenes of `scenes` (the whole split) that are `rank`'s."""
    return list(scenes[rank.index :: rank.size])


def wait_for(scenes: Sequence[Scene], files: Mapping[int, Path], missing: set[str], timeout_s: float) -> None:
    """Wait until every scene of `missing` is a line of a rank's file (rank -> path, not there at first).

    Raises RunError, naming the ranks that owe scenes, when no file has grown for `timeout_s`.
    """
    size = max(files) + 1
    owner = {scene.id: position % size for position, scene in enumerate(scenes)}
    offsets = dict.fromkeys(files, 0)
    last = time.monotonic()
    while missing:
        before = len(missing)
        for index, path in files.items():
            arrived, offsets[index] = _scenes_after(path, offsets[index])
            missing.difference_update(arrived)
        if len(missing) < before:
            last = time.monotonic()
        elif not (folder := files[0].parent).is_dir():
            raise RunError(f"{folder}: was moved or deleted while ranks worked on it; start the same command again")
        elif time.monotonic() - last > timeout_s:
            owed: dict[int, int] = {}
            for scene in missing:
                owed[owner[scene]] = owed.get(owner[scene], 0) + 1
            ranks = ", ".join(f"rank {index} ({count} scenes)" for index, count in sorted(owed.items()))
            raise RunError(
                f"nothing was heard for {timeout_s:g} s from {ranks}; see their own output, then start the same "
                "command again: what is stored is kept (run.rank_timeout_s sets how long to wait)"
            )
        else:
            time.sleep(POLL_S)


def _scenes_after(path: Path, offset: int) -> tuple[list[str], int]:
    """Return ids of the scenes in the complete lines from `offset` on, and the offset after them."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line)["scene"] for line in whole.splitlines()], offset + len(whole)
