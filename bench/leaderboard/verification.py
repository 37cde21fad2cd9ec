"""Stored runs verified: their files against their hashes, and their numbers against a re-score of the predictions.

A hash tells damage and edits; that the numbers are those of the predictions only a re-score tells, which needs the
split at hand. Nothing is trusted that can be computed, as of a run that is handed in (faults.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.comparison.compared_runs import stored_records
from bench.datasets.annotations import annotations_of
from bench.datasets.split import Split
from bench.errors import BenchError, RunError
from bench.evaluation.differences import other_numbers
from bench.evaluation.rescored import split_of
from bench.runs.integrity import damage, has_hashes
from bench.runs.outcomes import StoredOutcomes
from bench.runs.record import read_record
from bench.runs.store import lock_of, write_packed
from bench.settings import Resolved
from bench.speed.record import read_speeds

EQUAL = "equal"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A run, or a speed record. `state` is intact, damaged or unfinished; `faults` say what is damaged.

    `rescore` is "equal", or why there was none; `hashes` is false for a run of an older version, which has none.
    """

    run: str
    state: str
    faults: tuple[str, ...] = ()
    rescore: str = ""
    hashes: bool = True

    @property
    def line(self) -> str:
        """Say it in a line."""
        words = [f"damaged: {'; '.join(self.faults)}" if self.faults else self.state]
        words += [f"re-score {self.rescore}"] if self.rescore else []
        return f"{self.run}: " + ", ".join(words if self.hashes else [*words, "without hashes"])


def verify_all(results: Path, resolved: Resolved, seal: bool = False) -> Iterator[Verdict]:
    """Verify every run and speed record under `results`, in the order of their names; `seal` as in `verify_runs`."""
    broken: list[tuple[Path, RunError]] = []
    folders = [folder for folder, _ in stored_records(results / "runs", broken)]
    folders += [folder for folder, _ in broken]
    yield from verify_runs(sorted(folders), resolved, seal)
    skipped: list[tuple[str, str]] = []
    speeds = read_speeds(results, skipped)
    yield from (Verdict(str(results / name), "intact", hashes=bool(speed.sha256)) for speed, name in speeds)
    yield from (Verdict(str(results / name), "damaged", (reason,)) for name, reason in skipped)


def verify_runs(folders: Iterable[Path], resolved: Resolved, seal: bool = False) -> Iterator[Verdict]:
    """Verify the runs in these folders; with `seal` give those hashes that have none and are equal to a re-score."""
    splits, alike = dict[str, Split](), dict[bytes, StoredOutcomes]()
    for folder in folders:
        verdict = _verified(folder, resolved, splits, alike)
        if seal and verdict.rescore == EQUAL and not verdict.hashes:
            with lock_of(folder):
                record = write_packed(folder, read_record(folder))
            verdict = Verdict(verdict.run, verdict.state, (), EQUAL, has_hashes(record))
        yield verdict


def _verified(
    folder: Path, resolved: Resolved, splits: dict[str, Split], alike: dict[bytes, StoredOutcomes]
) -> Verdict:
    run = folder.as_posix()
    try:
        record = read_record(folder)
    except RunError as error:
        return Verdict(run, "damaged", (str(error).removeprefix(f"{folder}/"),))
    if record.status != "complete":
        return Verdict(run, "unfinished")
    hashes = has_hashes(record)
    if faults := damage(folder, record):
        return Verdict(run, "damaged", tuple(faults), hashes=hashes)
    try:
        split = split_of(folder, record, None, resolved, splits)
    except BenchError as error:  # no fault of the run's
        return Verdict(run, "intact", (), f"not possible: {error}".replace(f"{folder}: ", ""), hashes)
    try:
        faults = list(other_numbers(folder, record, split.scenes, alike))
    except BenchError as error:
        faults = [str(error).replace(f"{folder}: ", "")]
    unscored = record.metrics and record.metrics.masks and not annotations_of(split.scenes).masks
    equal = f"{EQUAL} for boxes; the split here has no masks to score the run's by" if unscored else EQUAL
    return Verdict(run, "damaged" if faults else "intact", tuple(faults), "" if faults else equal, hashes)
