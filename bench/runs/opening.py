"""Opening a run: continued, complete already, or new; by one process, or by the ranks of one launch.

Runs are of the same command when pipeline, split, protocol and limit are the same; the identity (bench/runs/record.py)
decides whether one may be continued. Rank 0 chooses the folder, puts stored answers in order (scenes with an error are
left out, so that they are grounded again), and writes its launch into the lock file, for which the other ranks wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.grounding import Scene
from bench.runs.files import explained, make_folder
from bench.runs.integrity import checked_record, unanswered
from bench.runs.lock import LOCK, holder, locked
from bench.runs.predictions import SceneAnswers
from bench.runs.record import FILE, RECORD, Identity, RunRecord, names_at, read_record, runs_of, slug
from bench.runs.shards import POLL_S, Rank, owned
from bench.runs.store import Run as Run
from bench.runs.store import remove_plain, set_aside, store_rows, stored_rows, write_continued
from bench.tables import same_options

log = logging.getLogger("bench.runs")
IdentityOf = Callable[[Mapping[str, str], Mapping[str, str]], Identity]  # names and hashes of weights, by part


@contextmanager
def open_run(
    results: Path,
    blank: RunRecord,
    scenes: Sequence[Scene],
    rank: Rank,
    fresh: bool,
    timeout_s: float,
    beside: bool = False,
) -> Iterator[Run]:
    """Open the run of this command under `results` until the block ends; `fresh` always makes a new one.

    `blank` is the record it starts with and `scenes` the whole split. Raises RunError when another process works on it,
    when its identity is another (with `beside` a new one is begun), when its folder cannot be written, or when rank 0
    stays away for `timeout_s`.
    """
    data = blank.identity.data
    parent = runs_of(results, blank.identity.pipeline, data.split, data.fingerprint)
    with ExitStack() as stack:
        if rank.index == 0:
            yield _lead(parent, blank, scenes, rank, fresh, beside, stack)
        else:
            yield _follow(parent, blank, scenes, rank, fresh, timeout_s, stack)


def latest_run(
    results: Path,
    identity_of: IdentityOf,
    protocol: str,
    scenes: Sequence[Scene],
    rank: Rank,
    same_weights: Callable[[Mapping[str, str]], bool],
) -> Run | None:
    """Return the command's latest run under `results`; `already_done` where it is complete, with every scene answered.

    Before a pipeline is opened, its weights are unknown: `identity_of` gives the command's identity with the names and
    hashes of a stored card, and `same_weights` tells whether those are the command's. A run that differs in them only
    is not passed over for an older one: then there is none.
    """
    identity = identity_of({}, {})
    parent = runs_of(results, identity.pipeline, identity.data.split, identity.data.fingerprint)
    return _latest(_same_command(parent, identity, protocol), identity_of, scenes, rank, same_weights)


def _latest(
    runs: Sequence[tuple[Path, RunRecord]],
    identity_of: IdentityOf,
    scenes: Sequence[Scene],
    rank: Rank,
    same_weights: Callable[[Mapping[str, str]], bool],
) -> Run | None:
    def identity(record: RunRecord) -> Identity:
        return identity_of(record.card.get("weights") or {}, record.identity.weights)

    # To know that other options mean the same, the pipeline is imported: not where there is an equal run.
    equal = [run for run in runs if run[1].identity == identity(run[1])]
    for folder, record in reversed(equal or runs):
        if not equal and differences(record.identity, identity(record)):
            continue
        if not same_weights(record.identity.weights):
            return None
        pending = _unanswered(folder, scenes)
        done = record.status == "complete" and not pending
        if done and rank.index == 0:
            remove_plain(folder, checked_record(folder))
        return Run(folder, record, rank, scenes, pending, already_done=done)
    return None


def _lead(
    parent: Path, blank: RunRecord, scenes: Sequence[Scene], rank: Rank, fresh: bool, beside: bool, stack: ExitStack
) -> Run:
    """Open the run as rank 0."""

    def finished() -> Run | None:
        runs = _same_command(parent, blank.identity, blank.protocol)
        run = _latest(runs, lambda *_: blank.identity, scenes, rank, lambda _: True)
        return run if run and run.already_done else None

    # 1. A finished run is reported from a folder that need not be writable.
    if not fresh and (done := finished()):
        return done
    make_folder(parent)
    # 2. The folder; two processes that start at the same moment must not make two runs.
    with locked(parent / ".choosing", "the choice of a run", patience_s=10):
        blank = _named_as_before(parent, blank)
        old = None if fresh else _choose(parent, blank, beside)
        folder = old or _new_folder(parent, blank)
        write_note = stack.enter_context(locked(folder / LOCK, "this run"))
        _refuse_left_over_ranks(folder)
        if old and (done := finished()):
            return done  # by the process whose lock this one has just waited for
        before = read_record(folder) if old else blank
        record = _continued(before, blank) if old else blank.model_copy(update={"sessions": 1})
        write_continued(folder, before, record)
    # 3. Its stored answers, without what sessions that were killed have left.
    for path in (*folder.glob(".*.tmp"), *folder.glob(f"{LOCK}.rank*")):
        with suppress(OSError):
            path.unlink()
    damaged: list[bytes] = []
    rows = _answered(stored_rows(folder, damaged), scenes)
    if damaged:
        note = set_aside(folder, damaged)
        log.warning("%s: %s", folder, note)
        record = record.model_copy(update={"notes": (*record.notes, note)})
    store_rows(folder, [rows[scene.id] for scene in scenes if scene.id in rows])
    # 4. From now on the other ranks may append.
    write_note({"launch": rank.launch})
    return Run(folder, record, rank, scenes, [s for s in owned(scenes, rank) if s.id not in rows], stack=stack)


def _follow(
    parent: Path, blank: RunRecord, scenes: Sequence[Scene], rank: Rank, fresh: bool, timeout_s: float, stack: ExitStack
) -> Run:
    """Open the run as another rank, once rank 0 of its launch has opened it or has nothing for it to do."""
    share = owned(scenes, rank)
    until = time.monotonic() + timeout_s
    while share:
        for folder, record in _same_command(parent, blank.identity, blank.protocol):
            note = holder(folder / LOCK)
            if note is not None and note.get("launch") == rank.launch:
                _refuse(folder, record.identity, blank.identity)
                stack.enter_context(locked(folder / f"{LOCK}.rank{rank.index}", f"rank {rank.index} of this run"))
                rows = stored_rows(folder)
                return Run(folder, record, rank, scenes, [s for s in share if s.id not in rows], stack=stack)
            same = not differences(record.identity, blank.identity)
            if note is None and not fresh and same and record.status == "complete" and not _unanswered(folder, share):
                return Run(folder, record, rank, scenes, [], already_done=True)
        if time.monotonic() > until:
            raise RunError(
                f"rank {rank.index}: rank 0 has not opened a run under {parent} within {timeout_s:g} s; see its "
                "output, and give all ranks the same results folder"
            )
        time.sleep(POLL_S)
    return Run(parent, blank, rank, scenes, [])


def _same_command(parent: Path, identity: Identity, protocol: str) -> list[tuple[Path, RunRecord]]:
    """List the runs under `parent` of this command, oldest first; unreadable ones are skipped.

    People's own data is known by its content, and its runs may be in the folder that files of one name once shared.
    """

    def command(of: Identity, under: str) -> tuple[Any, ...]:
        own = of.data.split.startswith(FILE) and of.data.fingerprint
        return (of.pipeline, of.perturbed, of.data.split, under, of.data.partial and of.data.images, own)

    runs = []
    shared = parent.with_name(slug(identity.data.split))
    for path in chain.from_iterable(folder.glob(f"*/{RECORD}") for folder in {parent, shared}):
        with suppress(RunError):
            record = read_record(path.parent)
            if record.provenance == "run" and command(record.identity, record.rule) == command(identity, protocol):
                runs.append((path.parent, record))
    return sorted(runs, key=lambda run: (run[1].started, run[0].name))


def _choose(parent: Path, blank: RunRecord, beside: bool) -> Path | None:
    """Choose the run that the command of `blank` continues or reports; None for a new one.

    Raises RunError, naming every difference, when the latest one is unfinished and of another identity; not `beside`.
    """
    runs = _same_command(parent, blank.identity, blank.protocol)
    for folder, record in reversed(runs):
        if not differences(record.identity, blank.identity):
            return folder
    if not beside and runs and runs[-1][1].status == "running":
        _refuse(runs[-1][0], runs[-1][1].identity, blank.identity)
    return None


def _named_as_before(parent: Path, blank: RunRecord) -> RunRecord:
    """Give a run the options and hash of the latest run that means the same, where one names defaults of the code."""
    for _, record in reversed(_same_command(parent, blank.identity, blank.protocol)):
        if not differences(record.identity, blank.identity):
            return blank.model_copy(update={"identity": record.identity, "settings_hash": record.settings_hash})
    return blank


def _new_folder(parent: Path, record: RunRecord) -> Path:
    """Make an empty folder for a run, named by its start and its settings. Raises RunError."""
    names = names_at(record.started, record.settings_hash)
    while True:
        with explained(folder := parent / next(names)), suppress(FileExistsError):
            folder.mkdir()
            return folder


def _unanswered(folder: Path, scenes: Sequence[Scene]) -> list[Scene]:
    """List the scenes that have no answer, not every one, or only an error; a damaged line is none."""
    rows = _answered(stored_rows(folder, []), scenes)
    return [scene for scene in scenes if scene.id not in rows]


def _answered(rows: Mapping[str, SceneAnswers], scenes: Sequence[Scene]) -> dict[str, SceneAnswers]:
    """Return the rows that answer every expression of their scene."""
    known = ((scene, rows[scene.id]) for scene in scenes if scene.id in rows)
    return {scene.id: row for scene, row in known if row.error is None and not unanswered(scene, row)}


def _refuse(folder: Path, old: Identity, new: Identity) -> None:
    """Raise RunError when the identities differ, with every key: what it was and what it is now."""
    if lines := differences(old, new):
        raise RunError(
            f"{folder}: this run was begun with something else and is not finished:\n  "
            + "\n  ".join(lines)
            + "\ngo back to what it was to continue it, or start anew beside it with --fresh"
        )


def differences(old: Identity, new: Identity) -> list[str]:
    """List the keys in which two identities differ: "options.views: was 'crop', is 'blur'"."""
    if old.pipeline == new.pipeline and same_options(old.pipeline, old.options, new.options):
        old = old.model_copy(update={"options": new.options})  # one names defaults that the other leaves to the code
    was, now = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))

    def text(table: Mapping[str, Any], key: str) -> str:
        return repr(table[key]) if key in table else "not set"

    return [
        f"{key}: was {text(was, key)}, is {text(now, key)}"
        for key in dict.fromkeys([*was, *now])
        if was.get(key, _flat) != now.get(key, _flat)
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables into dotted keys; an empty table is a value."""
    out: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _refuse_left_over_ranks(folder: Path) -> None:
    """Raise RunError when a rank of an earlier launch outlived its rank 0 and still writes."""
    for path in folder.glob(f"{LOCK}.rank*"):
        if (note := holder(path)) is not None:
            raise RunError(
                f"{path}: process {note.get('pid', '?')} on {note.get('host', '?')}, a rank of an earlier launch, "
                "still works on this run; wait for it to end, or end it"
            )


def _continued(old: RunRecord, blank: RunRecord) -> RunRecord:
    """Return `old` as its next session starts it, with a note when the code is no longer the same."""
    session = old.sessions + 1
    notes = list(old.notes)
    if old.git.get("commit") != blank.git.get("commit"):
        commits = f"{blank.git.get('commit')}, the first at {old.git.get('commit')}"
        notes.append(f"session {session} ran at commit {commits}")
    git = dict(old.git)
    if blank.git.get("dirty") is not None:
        git["dirty"] = bool(git.get("dirty")) or blank.git["dirty"]
    now = {name: getattr(blank, name) for name in ("settings", "settings_hash", "environment", "card")}
    changed = {
        "status": "running",
        "sessions": session,
        "notes": tuple(notes),
        "git": git,
        "metrics": None,
        **now,
    }
    return old.model_copy(update=changed)
