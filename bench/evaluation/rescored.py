"""A stored run scored again from its predictions, under its own protocol or another: no model, no pictures."""

from __future__ import annotations

from pathlib import Path

from bench.datasets.load import FILE, load_split
from bench.datasets.split import Split
from bench.errors import RunError
from bench.evaluation.metrics import summary
from bench.evaluation.outcomes import by_scene, outcomes
from bench.evaluation.protocols import protocol as protocol_named
from bench.runs.outcomes import write_outcomes
from bench.runs.record import Metrics, RunRecord, read_record, signature
from bench.runs.store import stored_rows
from bench.settings import Resolved


def rescore(
    folder: Path, resolved: Resolved, protocol: str | None = None, split: str | None = None, keep: bool = False
) -> RunRecord:
    """The run's record with metrics computed anew. Its own protocol gives exactly its own metrics.

    `split` names the split where the record's name does not lead to it (people's own data that moved). `keep` writes
    outcomes.jsonl beside the predictions, and nothing else is ever written. Raises RunError when the run is unfinished,
    when the split at hand is not the one it answered, or when what is to be kept is not what the record says;
    UnknownName, DataError.
    """
    record = read_record(folder)
    if record.status != "complete":
        raise RunError(f"{folder}: the run is not finished; start its command again to continue it, then score it")
    rule = protocol_named(protocol or record.protocol)
    data = split_of(folder, record, split, resolved)
    settings = record.metrics.bootstrap if record.metrics else resolved.settings.evaluation
    found = outcomes(data.scenes, stored_rows(folder).values(), rule)
    metrics = summary(found, data.scenes, rule, settings)
    if keep:
        _refuse_other_numbers(folder, record, metrics, rule.name)
        write_outcomes(folder, by_scene(found, data.scenes))
    return record.model_copy(
        update={
            "protocol": rule.name,
            "signature": signature(rule.name, record.identity.data, rule.hits_at, record.proposals),
            "metrics": metrics,
        }
    )


def _refuse_other_numbers(folder: Path, record: RunRecord, now: Metrics, protocol: str) -> None:
    """Raises RunError when outcomes would not be those that run.json counts: kept, they would contradict it."""
    if protocol != record.protocol:
        raise RunError(
            f"{folder}: was run under {record.protocol!r}, and its outcomes are kept under that protocol, not under "
            f"{protocol!r}; leave --protocol out"
        )
    if record.metrics is not None and (now.n, now.hits) != (record.metrics.n, record.metrics.hits):
        raise RunError(
            f"{folder}: its predictions give {now.hits:,} hits of {now.n:,} here, but run.json says "
            f"{record.metrics.hits:,} of {record.metrics.n:,}; the folder was changed, or made by another version: run "
            "it again"
        )


def split_of(folder: Path, record: RunRecord, named: str | None, resolved: Resolved) -> Split:
    """The split that a run answered, with just its scenes. Raises RunError or DataError where it is not at hand."""
    data = record.identity.data
    name = named or _own_file(record) or data.split
    if name.startswith(FILE) and not Path(name.removeprefix(FILE)).expanduser().is_file():
        raise RunError(f"{folder}: was run on {name}, which is not here; pass --split file:PATH.jsonl")
    split = load_split(name, resolved)
    if data.partial:
        split = split.limited(data.pictures)
    if split.fingerprint != data.fingerprint:
        raise RunError(
            f"{folder}: was run on {data.split} with fingerprint {data.fingerprint[:8]} ({data.expressions:,} "
            f"expressions), but {name} here has {split.fingerprint[:8]} ({split.counts.expressions:,}); "
            "prepare the data it was run on, or pass it with --split"
        )
    return split


def _own_file(record: RunRecord) -> str | None:
    """A `file:` split is known by its stem; the command that made the run still says where the file lay."""
    said = [part for word in record.argv for part in word.removeprefix("--split=").split(",")]
    same = (
        p for p in said if p.startswith(FILE) and FILE + Path(p.removeprefix(FILE)).stem == record.identity.data.split
    )
    return next(same, None)
