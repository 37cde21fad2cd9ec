"""Choose the runs of a report: those of the split's leaderboard table, or those that are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.comparison.compared_runs import find_run, stored_records
from bench.datasets.split import Split
from bench.errors import RunError
from bench.reporting.boards import Board, collect, whole_row
from bench.reporting.rows import Row
from bench.runs.integrity import checked_record
from bench.runs.record import RunRecord
from bench.speed.record import read_speeds


@dataclass(frozen=True, slots=True)
class ReportRun:
    """A run of the report. `label` names it in the whole file, so no two are alike; `row` is the leaderboard's."""

    label: str
    folder: Path
    record: RunRecord
    row: Row


def choose(named: Sequence[str], split: Split, results: Path) -> tuple[Split, list[ReportRun]]:
    """Return the split that the runs answered (its first images where they are limited) and the runs, best first.

    `named` are what `find_run` understands: folders of runs, names of pipelines. Without any, the rows of the
    leaderboard's table count, and where there is no table, the latest run of every pipeline. Raises RunError, naming
    the run, for one that is unfinished, broken or about other data, UsageError, UnknownName.
    """
    boards = collect(results).boards
    rows = {entry["run_dir"]: entry for board in boards for entry in board.rows}
    given = [find_run(word, results, split.name, split.fingerprint) for word in named]
    folders = given or _by_default(boards, split, results)
    runs = list({folder.resolve(): (folder, checked_record(folder)) for folder in folders}.values())
    for folder, record in runs:
        if record.status != "complete" or record.metrics is None:
            raise RunError(f"{folder}: the run is not finished; start its command again to continue it")
        if record.comparable != runs[0][1].comparable:
            raise RunError(
                f"{folder}: is not comparable with {runs[0][0]}: {record.signature} and {runs[0][1].signature}; a "
                "report shows runs of one split, protocol and data"
            )
    split = _answered(split, *runs[0])
    speeds = read_speeds(results)
    chosen = []
    for label, (folder, record) in zip(_labels([record for _, record in runs]), runs, strict=True):
        run = _name(folder, results)
        chosen.append(ReportRun(label, folder, record, rows.get(run) or whole_row(results, [(record, run)], speeds)))
    return split, sorted(chosen, key=lambda run: (-run.row["acc@0.5"], -run.row["mean_iou"], run.label))


def _by_default(boards: Sequence[Board], split: Split, results: Path) -> list[Path]:
    """Return the rows of the split's first table, else the latest finished and whole run of every pipeline."""
    for board in boards:  # they are in order: the usual protocol first
        if board.split == split.name and board.fingerprint == split.fingerprint:
            return [results / entry["run_dir"] for entry in board.rows]
    latest: dict[str, tuple[str, Path]] = {}
    for folder, record in stored_records(results / "runs"):
        whole = record.status == "complete" and record.metrics and not record.identity.data.partial
        if whole and record.identity.data.split == split.name:
            this = (record.finished or record.started, folder)
            latest[record.name] = max(latest.get(record.name, this), this)
    if not latest:
        raise RunError(
            f"{results}: no finished run on {split.name}; make one with "
            f"`bench run --pipeline yolo-clip --split {split.argument}`, or name another folder with --results"
        )
    return [folder for _, (_, folder) in sorted(latest.items())]


def _answered(split: Split, folder: Path, record: RunRecord) -> Split:
    """Return the split as the run answered it. Raises RunError when the data here is other data."""
    data = record.identity.data
    answered = split.limited(data.images) if data.partial else split
    if (answered.name, answered.fingerprint) != (data.split, data.fingerprint):
        raise RunError(
            f"{folder}: was run on {data.split} with fingerprint {data.fingerprint[:8]} ({data.expressions:,} "
            f"expressions), but {answered.name} here has {answered.fingerprint[:8]} ({answered.counts.expressions:,}); "
            "pass the data it was run on with --split"
        )
    return answered


def _labels(records: Sequence[RunRecord]) -> list[str]:
    """Return the runs' names; where one comes twice, with the settings' hash, and then a number."""
    names = Counter(record.name for record in records)
    labels = [r.name if names[r.name] == 1 else f"{r.name} ({r.settings_hash[:6]})" for r in records]
    numbers = [labels[: place + 1].count(label) for place, label in enumerate(labels)]
    return [label if n == 1 else f"{label} {n}" for label, n in zip(labels, numbers, strict=True)]


def _name(folder: Path, results: Path) -> str:
    try:
        return folder.resolve().relative_to(results.resolve()).as_posix()
    except ValueError:
        return folder.name
