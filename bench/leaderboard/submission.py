"""Somebody else's run on our leaderboard: `bench leaderboard submit DIR`.

Nothing in the record is trusted that can be computed (faults.py). Then the record, the predictions and outcomes made
here, and nothing else, are put under results/runs with a submission.json that names their source. All that is wrong is
listed at once, and then nothing is kept. The run's own record stays as it was, so its signature does too.

Not checked, since nobody here can: what the card states of weights and training, and that no human chose the boxes.
Measurements of speed are not taken: a rate belongs to a machine, and there is nothing here to compare it with.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import CheckFailed, RunError, UsageError
from bench.evaluation.differences import score_here
from bench.evaluation.identity import now
from bench.evaluation.outcomes import store_outcomes
from bench.leaderboard.faults import answer_faults, data_faults, load_own_split, record_faults
from bench.leaderboard.submitted_files import copy_in, read_answers
from bench.reporting.boards import SUBMISSION
from bench.runs.files import explained, make_folder, temporary_name, write_atomically
from bench.runs.provenance import git_state
from bench.runs.record import read_record, runs_of
from bench.runs.store import ANSWERS, store_rows, write_packed
from bench.settings import Resolved


def submit(folder: Path, results: Path, resolved: Resolved, split: str | None = None) -> Path:
    """Take in the run in `folder`; returns its folder under `results`. The leaderboard is not written here.

    `split` names the data where the record's name does not lead to it (file:PATH.jsonl). Raises CheckFailed with every
    reason why it is not taken, UsageError where `folder` is one of our own, and DataError, with the command that
    prepares it, where the split is not at hand.
    """
    place = folder.resolve()
    if place.is_relative_to((results / "runs").resolve()):
        raise UsageError(f"{folder}: lies under {results / 'runs'} already; submit takes runs from elsewhere")
    with _room(results) as room:
        try:
            digests = copy_in(place, room)
            record = read_record(room)
            rows = read_answers(room / f"{ANSWERS}.jsonl")
        except RunError as error:
            raise _refused(folder, [str(error).replace(f"{room}{os.sep}", "")]) from None
        _refuse(folder, record_faults(record, resolved))
        ours = load_own_split(record, split, resolved)
        _refuse(folder, data_faults(record, ours))
        _refuse(folder, answer_faults(rows, ours.scenes))
        rescored, again, differences = score_here(record, rows, ours.scenes)
        _refuse(folder, differences)
        # The run as we write runs: what the files hold besides is gone, and the outcomes are our own.
        lines = {row.scene: row for row in rows}
        store_rows(room, [lines[scene.id] for scene in ours.scenes])
        store_outcomes(room, rescored)
        write_packed(room, record.model_copy(update={"files": {}}))
        source = {
            "schema_version": 1,
            "accepted": now(),
            "from": place.name,
            "sha256": digests,
            "rescored": {"n": again.n, "hits": again.hits, "acc@0.5": again.accuracy, "mean_iou": again.mean_iou},
            "checked_by": git_state(),
        }
        write_atomically(room / SUBMISSION, json.dumps(source, indent=2, ensure_ascii=False).encode() + b"\n")
        digest = digests[f"{ANSWERS}.jsonl"][:12]
        target = runs_of(results, record.name, ours.name, ours.fingerprint) / f"submitted-{digest}"
        if target.exists():
            raise _refused(folder, [f"it is here already: {target}"])
        make_folder(target.parent)
        with explained(target):
            room.rename(target)
    return target


@contextmanager
def _room(results: Path) -> Iterator[Path]:
    """Make a hidden folder that is removed after, unless it was moved to its place."""
    make_folder(results / "runs")
    with explained(results / "runs"):
        room = temporary_name(results / "runs" / "submission")
        room.mkdir()
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _refuse(folder: Path, reasons: Iterable[str]) -> None:
    """Raise CheckFailed where there is a reason not to take the run."""
    if reasons := list(reasons):
        raise _refused(folder, reasons)


def _refused(folder: Path, reasons: Iterable[str]) -> CheckFailed:
    # A stranger's text may contain what moves a terminal's cursor or colours it.
    clean = ("".join(c if c.isprintable() else "�" for c in reason) for reason in reasons)
    return CheckFailed(f"{folder}: not taken:\n" + "\n".join(f"  {reason}" for reason in clean))
