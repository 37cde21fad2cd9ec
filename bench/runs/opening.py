"""Opening a run: continued, complete already, or new; by one process, or by the ranks of one launch.

Rank 0 chooses the folder, puts stored answers in order (scenes with an error are left out, so that they are answered
again), and names its launch in the lock file, for which the other ranks wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.errors import RunError
from bench.grounding import Scene
from bench.runs.files import make_folder
from bench.runs.folders import choose, differences, new_folder, refuse, runs_of, same_command
from bench.runs.lock import holder, locked
from bench.runs.record import Identity, RunRecord, read_record
from bench.runs.shards import POLL_S, Rank, owned
from bench.runs.store import Run, store_rows, stored_rows, write_record

LOCK = "lock"


@contextmanager
def open_run(
    results: Path, blank: RunRecord, scenes: Sequence[Scene], rank: Rank, fresh: bool, timeout_s: float
) -> Iterator[Run]:
    """Open the run of this command for this process until the block ends; `fresh` always makes a new one.

    `blank` is the record it starts with and `scenes` the whole split. Raises RunError when another process works on it,
    when its identity is another, when its folder cannot be written, or when rank 0 stays away for `timeout_s`.
    """
    parent = runs_of(results, blank.identity.pipeline, blank.identity.data.split)
    with ExitStack() as stack:
        if rank.index == 0:
            yield _lead(parent, blank, scenes, rank, fresh, stack)
        else:
            yield _follow(parent, blank, scenes, rank, fresh, timeout_s, stack)


def _lead(parent: Path, blank: RunRecord, scenes: Sequence[Scene], rank: Rank, fresh: bool, stack: ExitStack) -> Run:
    if not fresh and (done := _finished(parent, blank, scenes, rank)):
        return done
    make_folder(parent)
    # Two processes that begin at the same moment must not both find nothing and begin two runs.
    with locked(parent / ".choosing", "the choice of a run", patience_s=10):
        found = None if fresh else choose(parent, blank)
        folder = found[0] if found else new_folder(parent, blank)
        tell = stack.enter_context(locked(folder / LOCK, "this run"))
        _refuse_left_over_ranks(folder)
        if found and (done := _finished(parent, blank, scenes, rank)):
            return done  # by the process whose lock this one has just waited for
        record = _continued(read_record(folder), blank) if found else blank.model_copy(update={"sessions": 1})
        write_record(folder, record)
    for left in (*folder.glob(".*.tmp"), *folder.glob(f"{LOCK}.rank*")):  # of sessions that were killed
        with suppress(OSError):
            left.unlink()
    rows = {scene: row for scene, row in stored_rows(folder).items() if row.error is None}
    store_rows(folder, [rows[scene.id] for scene in scenes if scene.id in rows])
    tell({"launch": rank.launch})
    return Run(folder, record, rank, scenes, [s for s in owned(scenes, rank) if s.id not in rows], stack)


def _follow(
    parent: Path, blank: RunRecord, scenes: Sequence[Scene], rank: Rank, fresh: bool, timeout_s: float, stack: ExitStack
) -> Run:
    """Another rank: waits until rank 0 of its launch has opened the run, or has nothing for it to do."""
    share = owned(scenes, rank)
    until = time.monotonic() + timeout_s
    while share:
        for folder, record in same_command(parent, blank.identity, blank.protocol):
            note = holder(folder / LOCK)
            if note is not None and note.get("launch") == rank.launch:
                refuse(folder, record.identity, blank.identity)
                stack.enter_context(locked(folder / f"{LOCK}.rank{rank.index}", f"rank {rank.index} of this run"))
                rows = stored_rows(folder)
                return Run(folder, record, rank, scenes, [s for s in share if s.id not in rows], stack)
            same = not differences(record.identity, blank.identity)
            if note is None and not fresh and same and record.status == "complete" and not _left(folder, share):
                return Run(folder, record, rank, scenes, [], stack)
        if time.monotonic() > until:
            raise RunError(
                f"rank {rank.index}: rank 0 has not opened a run under {parent} within {timeout_s:g} s; see its "
                "output, and give all ranks the same results folder"
            )
        time.sleep(POLL_S)
    return Run(parent, blank, rank, scenes, [], stack)


def finished_run(
    parent: Path,
    identity: Identity,
    protocol: str,
    scenes: Sequence[Scene],
    rank: Rank,
    same_weights: Callable[[Mapping[str, str]], bool],
) -> Run | None:
    """The command's latest run under `parent`, if it is complete and no scene is left to ask again.

    `same_weights` says whether stored weights are those of the command, which need not be known before a pipeline is
    opened. A run that differs in them only is not passed over for an older one: then nothing is complete.
    """
    for folder, record in reversed(same_command(parent, identity, protocol)):
        weights = record.identity.weights
        if differences(record.identity, identity.model_copy(update={"weights": weights})):
            continue
        done = record.status == "complete" and same_weights(weights) and not _left(folder, scenes)
        return Run(folder, record, rank, scenes, []) if done else None
    return None


def _finished(parent: Path, blank: RunRecord, scenes: Sequence[Scene], rank: Rank) -> Run | None:
    return finished_run(parent, blank.identity, blank.protocol, scenes, rank, lambda w: w == blank.identity.weights)


def _left(folder: Path, scenes: Sequence[Scene]) -> bool:
    """Whether a scene of `scenes` has no answer, or only an error."""
    rows = stored_rows(folder)
    return any(scene.id not in rows or rows[scene.id].error is not None for scene in scenes)


def _refuse_left_over_ranks(folder: Path) -> None:
    """Raises RunError when a rank of an earlier launch outlived its rank 0 and still writes."""
    for path in folder.glob(f"{LOCK}.rank*"):
        if (note := holder(path)) is not None:
            raise RunError(
                f"{path}: process {note.get('pid', '?')} on {note.get('host', '?')}, a rank of an earlier launch, "
                "still works on this run; wait for it to end, or end it"
            )


def _continued(old: RunRecord, blank: RunRecord) -> RunRecord:
    """`old` as its next session begins it; says so when the code is no longer the one that began it."""
    session = old.sessions + 1
    notes = list(old.notes)
    if old.git.get("commit") != blank.git.get("commit"):
        commits = f"{blank.git.get('commit')}, the first at {old.git.get('commit')}"
        notes.append(f"session {session} ran at commit {commits}")
    git = dict(old.git)
    if blank.git.get("dirty") is not None:
        git["dirty"] = bool(git.get("dirty")) or blank.git["dirty"]
    now = {name: getattr(blank, name) for name in ("settings", "settings_hash", "environment", "card")}
    changed = {"status": "running", "sessions": session, "notes": tuple(notes), "git": git, "metrics": None, **now}
    return old.model_copy(update=changed)
