"""List the faults of somebody else's run; nothing in it is trusted that can be computed.

The signature is made again from its parts, the split must be ours to the fingerprint, every expression must be answered
exactly once, and the metrics must be those that a re-score of the predictions gives.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.datasets.load import FILE, load_split
from bench.datasets.split import Split
from bench.errors import BenchError, UnknownName, UsageError
from bench.evaluation.differences import flat
from bench.evaluation.protocols import PROTOCOLS, protocol
from bench.grounding import Scene
from bench.reporting.boards import why_left_out
from bench.runs.numbers import Metrics
from bench.runs.packed import PREDICTIONS
from bench.runs.predictions import SceneAnswers
from bench.runs.record import RECORD, RunRecord, moment, signature
from bench.settings import Resolved

MOST_DRAWS = 100_000
NAMED = 5  # examples of each kind of fault


def record_faults(record: RunRecord, resolved: Resolved) -> Iterator[str]:
    """List the faults that run.json alone shows."""
    if reason := why_left_out(record):
        yield f"{RECORD}: {reason}"
    if any(isinstance(v, float) and not math.isfinite(v) for _, v in flat(record.model_dump(mode="python"))):
        yield f"{RECORD}: a number is infinite or NaN"
    if not (record.name.strip() and record.name.isprintable() and len(record.name) <= 100):
        yield f"{RECORD}: name: expected a pipeline's name of up to 100 printable letters, not {record.name[:100]!r}"
    try:
        rule = protocol(record.protocol)
    except UsageError:
        yield f"{RECORD}: protocol: no protocol is called {record.protocol[:100]!r}; known: {', '.join(PROTOCOLS)}"
    else:
        made = signature(
            *(rule.name, record.identity.data, rule.hits_at, record.proposals, record.prompt, bool(rule.sets)),
            perturbed=record.perturbed,
        )
        if made != record.signature:
            yield f"{RECORD}: signature: is {record.signature[:200]!r}, but its parts make {made[:200]!r}"
    if not re.fullmatch(r"[0-9a-f]{8,64}", record.settings_hash):
        yield f"{RECORD}: settings_hash: expected 8 to 64 hexadecimal digits"
    commit = record.git.get("commit")
    if not (commit is None or (isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{7,64}", commit))):
        yield f"{RECORD}: git.commit: expected a commit's id or null"
    if record.finished and moment(record.finished) > datetime.now(UTC) + timedelta(days=1):  # clocks differ
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


def load_own_split(record: RunRecord, named: str | None, resolved: Resolved) -> Split:
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


def data_faults(record: RunRecord, ours: Split) -> Iterator[str]:
    data, counts = record.identity.data, ours.counts
    known: dict[str, Any] = {"split": ours.name, "fingerprint": ours.fingerprint}
    known |= {"expressions": counts.expressions, "images": counts.images, "refs": counts.refs}
    for key, here in known.items():
        theirs = getattr(data, key)
        # Index lists do not tell referents apart.
        if theirs != here and not (key == "refs" and None in (theirs, here)):
            yield f"{RECORD}: identity.data.{key}: {str(theirs)[:100]!r}, but {ours.name} here has {here!r}"


def answer_faults(rows: Sequence[SceneAnswers], scenes: Sequence[Scene]) -> Iterator[str]:
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
            yield f"{PREDICTIONS}.jsonl: {what}: {len(names):,} ({', '.join(n[:60] for n in names[:NAMED])}{more})"
