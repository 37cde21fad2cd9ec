"""Somebody else's run on our leaderboard: `bench leaderboard --submit DIR`.

The record is believed in nothing that can be computed: the signature is made again from its parts, the split must be
ours to the fingerprint, every expression must be answered exactly once, and the metrics must be those that a re-score
of the predictions gives. Then the record, the predictions and outcomes made here, and nothing else, are put under
results/runs with a submission.json that names their source. All that is wrong is listed at once, and then nothing is
kept. The run's own record stays as it was, so its signature does too.

Not checked, since nobody here can: what the card states of weights and training, and that no human chose the boxes.
Measurements of speed are not taken: a rate belongs to a machine, and there is nothing here to compare it with.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.datasets.load import FILE, load_split
from bench.datasets.split import Split
from bench.errors import BenchError, CheckFailed, RunError, UnknownName, UsageError
from bench.evaluation.identity import now
from bench.evaluation.metrics import summary
from bench.evaluation.outcomes import outcomes, store_outcomes
from bench.evaluation.protocols import PROTOCOLS
from bench.grounding import Scene
from bench.leaderboard.submitted_files import copy_in, read_answers
from bench.reporting.boards import SUBMISSION, why_left_out
from bench.runs.files import explained, make_folder, write_atomically
from bench.runs.predictions import SceneAnswers
from bench.runs.provenance import git_state
from bench.runs.record import RECORD, Metrics, RunRecord, read_record, runs_of, signature
from bench.runs.store import ANSWERS, store_rows, write_record
from bench.settings import Resolved

MOST_DRAWS = 100_000
NAMED = 5  # examples of each kind of fault


def submit(folder: Path, results: Path, resolved: Resolved, split: str | None = None) -> Path:
    """Take in the run in `folder`; returns its folder under `results`. The leaderboard is not written here.

    `split` names the data where the record's name does not lead to it (file:PATH.jsonl). Raises CheckFailed with every
    reason why it is not taken, UsageError where `folder` is one of our own, and DataError, with the command that
    prepares it, where the split is not at hand.
    """
    place = folder.resolve()
    if place.is_relative_to((results / "runs").resolve()):
        raise UsageError(f"{folder}: lies under {results / 'runs'} already; --submit takes in runs from elsewhere")
    with _room(results) as room:
        try:
            digests = copy_in(place, room)
            record = read_record(room)
            rows = read_answers(room / f"{ANSWERS}.jsonl")
        except RunError as error:
            raise _refused(folder, [str(error).replace(f"{room}{os.sep}", "")]) from None
        _refuse(folder, _record_faults(record, resolved))
        ours = _split(record, split, resolved)
        scenes, rule = ours.scenes, PROTOCOLS[record.protocol]
        _refuse(folder, _data_faults(record, ours))
        _refuse(folder, _answer_faults(rows, scenes))
        assert record.metrics is not None  # `why_left_out`
        rescored = outcomes(scenes, rows, rule)
        again = summary(rescored, record.metrics.bootstrap)
        _refuse(folder, _other_numbers(record.metrics, again))
        # The run as we write runs: what the files hold besides is gone, and the outcomes are our own.
        lines = {row.scene: row for row in rows}
        store_rows(room, [lines[scene.id] for scene in scenes])
        store_outcomes(room, rescored)
        write_record(room, record)
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
        target = runs_of(results, record.name, record.identity.data.split) / f"submitted-{digest}"
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
        room = Path(tempfile.mkdtemp(prefix=".submission.", suffix=".tmp", dir=results / "runs"))
        room.chmod(0o755)  # it becomes the run's folder, which everybody may read
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


def _record_faults(record: RunRecord, resolved: Resolved) -> Iterator[str]:
    """List the faults that run.json alone shows."""
    if reason := why_left_out(record):
        yield f"{RECORD}: {reason}"
    if any(isinstance(v, float) and not math.isfinite(v) for _, v in _flat(record.model_dump(mode="python"))):
        yield f"{RECORD}: a number is infinite or NaN"
    if not (record.name.strip() and record.name.isprintable() and len(record.name) <= 100):
        yield f"{RECORD}: name: expected a pipeline's name of up to 100 printable letters, not {record.name[:100]!r}"
    if record.protocol not in PROTOCOLS:
        yield f"{RECORD}: protocol: no protocol is called {record.protocol[:100]!r}; known: {', '.join(PROTOCOLS)}"
    else:
        rule = PROTOCOLS[record.protocol]
        made = signature(rule.name, record.identity.data, rule.hits_at, record.proposals)
        if made != record.signature:
            yield f"{RECORD}: signature: is {record.signature[:200]!r}, but its parts make {made[:200]!r}"
    if not re.fullmatch(r"[0-9a-f]{8,64}", record.settings_hash):
        yield f"{RECORD}: settings_hash: expected 8 to 64 hexadecimal digits"
    commit = record.git.get("commit")
    if not (commit is None or (isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{7,64}", commit))):
        yield f"{RECORD}: git.commit: expected a commit's id or null"
    if record.status == "complete" and not _past(record.finished):
        yield f"{RECORD}: finished: expected a time that has passed, in ISO 8601, not {record.finished!r}"
    if record.metrics is not None:
        yield from _metric_faults(record.metrics, resolved)


def _metric_faults(metrics: Metrics, resolved: Resolved) -> Iterator[str]:
    if metrics.errors:
        yield f"{RECORD}: {metrics.errors:,} images could not be read there; run it again where they can be"
    drawn, level = metrics.bootstrap, resolved.settings.evaluation.confidence
    if not 1000 <= drawn.draws <= MOST_DRAWS or drawn.confidence != level or drawn.seed < 0:
        yield (
            f"{RECORD}: metrics.bootstrap: expected {level:g} confidence and 1,000 to {MOST_DRAWS:,} draws, not "
            f"{drawn.confidence:g} and {drawn.draws:,}; score it again with the settings of this leaderboard"
        )


def _past(finished: str | None) -> bool:
    try:
        when = datetime.fromisoformat(finished or "")
    except ValueError:
        return False
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return when <= datetime.now(UTC) + timedelta(days=1)  # clocks differ


def _split(record: RunRecord, named: str | None, resolved: Resolved) -> Split:
    """Load the run's split from here. Raises UsageError, or DataError with what to do where it is not at hand."""
    name = named or record.identity.data.split
    if named is None and name.startswith(FILE):
        raise UsageError(f"the run is about {name[:200]!r}, somebody's own data: name it with --split file:PATH.jsonl")
    try:
        return load_split(name, resolved)
    except UnknownName:
        raise
    except BenchError as error:
        raise type(error)(f"a re-score needs the split at hand, and it is not: {error}") from None


def _data_faults(record: RunRecord, ours: Split) -> Iterator[str]:
    data, counts = record.identity.data, ours.counts
    known: dict[str, Any] = {"split": ours.name, "fingerprint": ours.fingerprint}
    known |= {"expressions": counts.expressions, "images": counts.images, "refs": counts.refs}
    for key, here in known.items():
        theirs = getattr(data, key)
        # Index lists do not tell referents apart.
        if theirs != here and not (key == "refs" and None in (theirs, here)):
            yield f"{RECORD}: identity.data.{key}: {str(theirs)[:100]!r}, but {ours.name} here has {here!r}"


def _answer_faults(rows: Sequence[SceneAnswers], scenes: Sequence[Scene]) -> Iterator[str]:
    """List scenes without one line, and expressions without one answer in the line of their scene."""
    expected = {scene.id: {expression.id for expression in scene.expressions} for scene in scenes}
    lines = Counter(row.scene for row in rows)
    wrong: dict[str, list[str]] = {
        "scenes without a line": [scene for scene in expected if scene not in lines],
        "scenes with several lines": [scene for scene, count in lines.items() if count > 1],
        "lines about no scene of the split": [scene for scene in lines if scene not in expected],
        "images that could not be read": [row.scene for row in rows if row.error is not None],
    }
    unanswered, twice, strange = [], [], []
    for row in rows:
        wanted = expected.get(row.scene, set())
        given = Counter(answer.id for answer in row.answers)
        unanswered += sorted(wanted - given.keys())
        twice += [name for name, count in given.items() if count > 1]
        strange += [name for name in given if name not in wanted]
    wrong |= {
        "expressions without an answer": unanswered,
        "expressions with several answers": twice,
        "answers to no expression of their scene": strange,
    }
    for what, names in wrong.items():
        if names:
            more = ", ..." if len(names) > NAMED else ""
            yield f"{ANSWERS}.jsonl: {what}: {len(names):,} ({', '.join(n[:60] for n in names[:NAMED])}{more})"


def _other_numbers(theirs: Metrics, again: Metrics) -> Iterator[str]:
    """List how the metrics of run.json differ from a re-score; float noise of another machine is no difference."""
    was, here = (dict(_flat(each.model_dump(mode="json", by_alias=True))) for each in (theirs, again))
    keys = [key for key in dict.fromkeys([*was, *here]) if not _equal(was.get(key), here.get(key))]
    for key in keys[:NAMED]:
        yield f"{RECORD}: metrics.{key[:100]}: {was.get(key)!r}, but its predictions give {here.get(key)!r}"
    if len(keys) > NAMED:
        yield f"{RECORD}: metrics: {len(keys) - NAMED:,} more numbers differ"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=1e-9)
    return type(one) is type(other) and bool(one == other)


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    items: Any = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else None
    )
    if items is None:
        yield at, value
        return
    for key, inner in items:
        yield from _flat(inner, f"{at}.{key}" if at else str(key))
