"""The runs of a comparison, read from their folders and held against one another: the same expressions or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from bench.errors import RunError, UsageError
from bench.runs.outcomes import OUTCOMES, StoredOutcomes, read_outcomes
from bench.runs.record import Metrics, RunRecord, read_record


@dataclass(frozen=True, slots=True, eq=False)
class Contestant:
    """A run with its outcomes. `label` is A, B, C ... in the order given; `name` tells runs of one pipeline apart."""

    label: str
    name: str
    folder: Path
    record: RunRecord
    metrics: Metrics
    outcomes: StoredOutcomes


def contestants(folders: Sequence[Path]) -> list[Contestant]:
    """Reads the runs, two or more, and makes sure that they answered the same expressions under the same rules.

    Raises RunError with the reason where they did not, for a run that is unfinished or whose outcomes are missing or
    not those of its record, and UsageError for fewer than two different runs.
    """
    if len(folders) < 2:
        raise UsageError("a comparison needs two runs or more")
    places = [folder.resolve() for folder in folders]
    if twice := next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None):
        raise UsageError(f"{twice}: is given twice; a run is not compared with itself")
    records = [read_record(folder) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        if record.status != "complete":
            raise RunError(f"{folder}: the run is not finished; start its command again to continue it")
        _refuse_other_question(folders[0], records[0], folder, record)
    names = Counter(record.name for record in records)
    runs = []
    for number, (folder, record) in enumerate(zip(folders, records, strict=True)):
        turn, letter = divmod(number, len(ascii_uppercase))  # A to Z, then A2 ...
        label = ascii_uppercase[letter] + (str(turn + 1) if turn else "")
        name = record.name if names[record.name] == 1 else f"{record.name} ({folder.resolve().name})"
        runs.append(_read(label, name, folder, record))
    for other in runs[1:]:
        _refuse_other_expressions(runs[0], other)
    return runs


def _refuse_other_question(first: Path, a: RunRecord, second: Path, b: RunRecord) -> None:
    """Raises RunError when two records say that their runs answered different questions."""
    one, other = a.identity.data, b.identity.data
    both = f"{first} and {second} cannot be compared"
    if one.split != other.split:
        raise RunError(f"{both}: they are about other splits ({one.split} and {other.split}); run both on one split")
    if one.partial != other.partial:
        part, of = (first, one) if one.partial else (second, other)
        raise RunError(
            f"{both}: {part} is partial, the first {of.images:,} images of {of.split} only; run it without --limit"
        )
    if one.fingerprint != other.fingerprint:
        said = (f"data {data.fingerprint[:8]}, {data.expressions:,} expressions" for data in (one, other))
        raise RunError(
            f"{both}: they are about other data of the same name, {one.split} ({' and '.join(said)}); run the older "
            "one again on the data at hand"
        )
    if a.protocol != b.protocol:
        raise RunError(
            f"{both}: they count hits by other protocols ({a.protocol!r} and {b.protocol!r}); run one again, or for "
            "boxes made elsewhere import them again, with the other's --protocol"
        )
    if a.proposals != b.proposals:
        given = [f"{run.proposals or 'its own'}" for run in (a, b)]
        raise RunError(
            f"{both}: they chose from other proposals ({first}: {given[0]}; {second}: {given[1]}), so the difference "
            "would be the proposals' and not the pipelines'"
        )
    if a.signature != b.signature:
        raise RunError(f"{both}: their numbers mean different things ({a.signature} and {b.signature})")


def _read(label: str, name: str, folder: Path, record: RunRecord) -> Contestant:
    """The run with its outcomes, which must be those that its record counts."""
    outcomes, metrics = read_outcomes(folder), record.metrics
    if metrics is None:
        raise RunError(f"{folder}: its run.json has no metrics; run it again")
    n, hits = len(outcomes.ids), int(outcomes.hit.sum())
    if (n, hits) != (metrics.n, metrics.hits):
        raise RunError(
            f"{folder}: {OUTCOMES} holds {hits:,} hits of {n:,}, but run.json says {metrics.hits:,} of {metrics.n:,}; "
            f"make it anew with: bench score {folder} --keep"
        )
    return Contestant(label, name, folder, record, metrics, outcomes)


def _refuse_other_expressions(a: Contestant, b: Contestant) -> None:
    """Raises RunError when the outcomes are not of the same expressions in the same order."""
    for what, one, other in (
        ("expression", a.outcomes.ids, b.outcomes.ids),
        ("image", a.outcomes.scenes, b.outcomes.scenes),
    ):
        if one != other:
            shorter = min(len(one), len(other))
            at = next((n for n in range(shorter) if one[n] != other[n]), shorter)
            lengths = f"one has {len(one):,}, the other {len(other):,}"
            said = f"{one[at]!r} and {other[at]!r}" if at < shorter else lengths
            raise RunError(
                f"{a.folder} and {b.folder} cannot be compared: from {what} {at + 1:,} on their outcomes are not of "
                f"the same {what}s ({said}); make both anew with: bench score RUN --keep"
            )
    if not (a.outcomes.image == b.outcomes.image).all():
        raise RunError(
            f"{a.folder} and {b.folder} cannot be compared: their outcomes put expressions with other images; make "
            "both anew with: bench score RUN --keep"
        )
