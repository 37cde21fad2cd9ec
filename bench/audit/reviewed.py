"""A stored run under flags: its strata by label, and its number without the doubtful ones, a protocol of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.audit.flags import labels, read_flags
from bench.errors import UsageError
from bench.evaluation.metrics import summary
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.evaluation.rescored import split_of
from bench.evaluation.strata import cut_of
from bench.runs.integrity import complete_rows
from bench.runs.record import RunRecord, signature
from bench.settings import Resolved

REVIEWED = "+reviewed"


def under_flags(
    folder: Path, record: RunRecord, path: Path, resolved: Resolved, split: str | None = None
) -> tuple[RunRecord, RunRecord]:
    """Return a scored run with a stratum `label`, and the same without the expressions flagged as doubtful.

    The second one's protocol is "iou+reviewed", its signature names the file's hash and its own n, so that no table
    mixes it with the whole split. Raises DataError for flags of another split, UsageError where none is left.
    """
    assert record.metrics is not None
    data = split_of(folder, record, split, resolved)
    flags = read_flags(path)
    flag = labels(flags, data)
    rule, bootstrap, partial = protocol(record.protocol), record.metrics.bootstrap, record.imported is not None
    rows = list(complete_rows(folder, record, data.scenes).values())
    # 1. All expressions, by label.
    whole = outcomes(data.scenes, rows, rule, partial=partial)
    cut = cut_of(flag, lambda each: each or "unknown")
    labelled = record.model_copy(update={"metrics": summary(replace(whole, cuts={"label": cut}), bootstrap)})
    # 2. Those whose label nobody doubts.
    doubtful = {name for name, each in flags.flags.items() if each == "doubtful"}
    scenes = [replace(s, expressions=tuple(e for e in s.expressions if e.id not in doubtful)) for s in data.scenes]
    answers = [replace(row, answers=tuple(a for a in row.answers if a.id not in doubtful)) for row in rows]
    metrics = summary(outcomes(scenes, answers, rule, partial=partial), bootstrap)
    if not metrics.n:
        raise UsageError(f"{path}: flags every expression of {data.name} as doubtful; none is left to score")
    identity = record.identity.model_copy(
        update={"data": record.identity.data.model_copy(update={"expressions": metrics.n})}
    )
    name = rule.name + REVIEWED
    signed = signature(name, identity.data, rule.hits_at, record.proposals, record.prompt, bool(rule.sets))
    note = f"without {len(doubtful):,} expressions that {path.name} flags as doubtful"
    return labelled, record.model_copy(
        update={
            "protocol": name,
            "signature": f"{signed}|review:{flags.digest[:8]}",
            "identity": identity,
            "metrics": metrics,
            "notes": (*record.notes, note),
        }
    )
