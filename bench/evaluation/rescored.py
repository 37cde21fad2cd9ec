"""A stored run scored again: its predictions against the annotations, without a model or images."""

from __future__ import annotations

from pathlib import Path

from bench.datasets.load import load_split
from bench.datasets.split import Split
from bench.errors import RunError, UsageError
from bench.evaluation.metrics import summary
from bench.evaluation.outcomes import Outcomes, outcomes, store_outcomes
from bench.evaluation.protocols import Protocol, with_threshold
from bench.evaluation.protocols import protocol as protocol_named
from bench.evaluation.thresholds import SEVERAL, chosen_threshold
from bench.runs.integrity import checked_record, complete_answers
from bench.runs.numbers import Metrics
from bench.runs.record import FILE, RECORD, RunRecord, read_record, signature, split_command
from bench.runs.store import lock_of, write_packed
from bench.settings import Resolved

THRESHOLD = "threshold "  # begins the note that says how one was chosen


def rescore(
    folder: Path, resolved: Resolved, protocol: str | None = None, split: str | None = None, keep: bool = False
) -> RunRecord:
    """Compute a finished run's metrics again, as `rescored` does."""
    return rescored(folder, resolved, protocol, split, keep)[0]


def rescored(
    folder: Path,
    resolved: Resolved,
    protocol: str | None = None,
    split: str | None = None,
    keep: bool = False,
    threshold: str | None = None,
) -> tuple[RunRecord, Outcomes]:
    """Compute a finished run's metrics again, and its outcomes; its own protocol gives exactly its own metrics.

    `split` names the split where the record's name does not lead to it (people's own data that moved); `keep` writes
    the outcomes, packs the run's files, and puts the intervals into run.json. `threshold` is a score below which boxes
    are left out, or the folder of a run on a val split that chooses it. Raises RunError when the run is unfinished,
    when the split is not the one it answered, or when what is to be kept is not what the record says; UnknownName,
    DataError, UsageError for a threshold.
    """
    record = read_record(folder) if keep else checked_record(folder)  # what is kept makes damaged outcomes anew
    if record.status != "complete":
        raise RunError(f"{folder}: the run is not finished; start its command again to continue it, then score it")
    rule = protocol_named(protocol or (record.protocol if threshold is None else record.rule))
    data = split_of(folder, record, split, resolved)
    chosen = ""
    if threshold is not None:
        rule, chosen = _threshold_for(threshold, rule, record, resolved)
    settings = record.metrics.bootstrap if record.metrics else resolved.settings.evaluation
    answers = complete_answers(folder, record, data.scenes)
    results = outcomes(data.scenes, answers, rule, partial=record.imported is not None)
    metrics = summary(results, settings)
    again = record.model_copy(
        update={
            "protocol": rule.name,
            "signature": signature(
                *(rule.name, record.identity.data, rule.hits_at, record.proposals, record.prompt, bool(rule.sets)),
                perturbed=record.perturbed,
            ),
            "metrics": metrics,
            "notes": (*(n for n in record.notes if not n.startswith(THRESHOLD)), chosen) if chosen else record.notes,
        }
    )
    if keep:
        before = metrics
        if chosen:  # the stored number, which the one of the new threshold takes the place of
            stored = protocol_named(record.protocol)
            before = summary(outcomes(data.scenes, answers, stored, partial=record.imported is not None), settings)
        _refuse_other_numbers(folder, record, before, record.protocol if chosen else rule.name)
        _refuse_other_masks(folder, record, metrics)
        with lock_of(folder):
            store_outcomes(folder, results)
            again = write_packed(folder, again)  # perhaps with another version's intervals made anew
    return again, results


def _threshold_for(given: str, rule: Protocol, record: RunRecord, resolved: Resolved) -> tuple[Protocol, str]:
    """Return the protocol with a threshold, a number or one that a stored run on a val split chooses, and a note."""
    folder = Path(given)
    if not (folder / RECORD).is_file():
        rule = with_threshold(rule, given)
        return rule, f"{THRESHOLD}{rule.threshold:g} given by hand"
    if rule.name != SEVERAL:
        raise UsageError(f"--threshold goes with protocol {SEVERAL!r}, not {rule.name!r}")
    val = checked_record(folder)
    return chosen_threshold(folder, val, split_of(folder, val, None, resolved), record)


def _refuse_other_numbers(folder: Path, record: RunRecord, now: Metrics, protocol: str) -> None:
    """Raise RunError when outcomes would not be those that run.json counts."""
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


def _refuse_other_masks(folder: Path, record: RunRecord, now: Metrics) -> None:
    """Raise RunError when a run's numbers of masks would be lost, or be made of other ground-truth masks."""
    before = record.metrics.masks if record.metrics else None
    if before is not None and (now.masks is None or now.masks.data != before.data):
        what = "none" if now.masks is None else "others"
        raise RunError(
            f"{folder}: its masks were scored by ground-truth masks, of which the split here has {what}; prepare the "
            "data as it was to keep its numbers"
        )


def split_of(
    folder: Path, record: RunRecord, named: str | None, resolved: Resolved, loaded: dict[str, Split] | None = None
) -> Split:
    """Load the split of a run, with just its scenes; `loaded` keeps what was loaded, by name.

    Raises RunError or DataError where it is not at hand.
    """
    data = record.identity.data
    name = named or split_command(record)
    if name.startswith(FILE) and not Path(name.removeprefix(FILE)).expanduser().is_file():
        raise RunError(f"{folder}: was run on {name}, which is not here; pass --split file:PATH.jsonl")
    loaded = {} if loaded is None else loaded
    if name not in loaded:
        loaded[name] = load_split(name, resolved)
    split = loaded[name]
    if data.partial:
        split = split.limited(data.images)
    if split.fingerprint != data.fingerprint:
        raise RunError(
            f"{folder}: was run on {data.split} with fingerprint {data.fingerprint[:8]} ({data.expressions:,} "
            f"expressions), but {name} here has {split.fingerprint[:8]} ({split.counts.expressions:,}); "
            "prepare the data it was run on, or pass it with --split"
        )
    return split
