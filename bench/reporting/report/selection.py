"""Which runs a report is about: those of the split's leaderboard table, or those that are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.comparison.finding import find_run, stored_records
from bench.datasets.split import Split
from bench.errors import RunError
from bench.reporting.boards import Board, collect, whole_row
from bench.runs.record import RunRecord, read_record
from bench.speed.record import read_speeds


@dataclass(frozen=True, slots=True)
class Shown:
    """A run of the report. `label` names it in the whole file, so no two are alike; `row` is the leaderboard's."""

    label: str
    folder: Path
    record: RunRecord
    row: Mapping[str, Any]


def choose(named: Sequence[str], split: Split, results: Path) -> tuple[Split, list[Shown]]:
    """The runs, best first, and the split they answered: `split`, or its first images where the runs are limited.

    `named` are what bench/comparison/finding.py understands: folders of runs, names of pipelines. Without any, the rows
    of the leaderboard's table count, and where there is no table, the latest run of every pipeline. Raises RunError,
    naming the run, for one that is unfinished, broken or about other data, UsageError, UnknownName.
    """
    boards = collect(results).boards
    rows = {entry["run_dir"]: entry for board in boards for entry in board.rows}
    folders = [find_run(word, results, split.name) for word in named] or _by_default(boards, split, results)
    runs = list({folder.resolve(): (folder, read_record(folder)) for folder in folders}.values())
    for folder, record in runs:
        if record.status != "complete" or record.metrics is None:
            raise RunError(f"{folder}: the run is not finished; start its command again to continue it")
        if record.signature != runs[0][1].signature:
            raise RunError(
                f"{folder}: means something else than {runs[0][0]}: {record.signature} and {runs[0][1].signature}; a "
                "report shows runs of one split, protocol and data"
            )
    split = _answered(split, *runs[0])
    speeds = read_speeds(results)
    shown = []
    for label, (folder, record) in zip(_labels([record for _, record in runs]), runs, strict=True):
        run = _name(folder, results)
        shown.append(Shown(label, folder, record, rows.get(run) or whole_row(results, [(record, run)], speeds)))
    return split, sorted(shown, key=lambda run: (-run.row["acc@0.5"], -run.row["mean_iou"], run.label))


def _by_default(boards: Sequence[Board], split: Split, results: Path) -> list[Path]:
    """The rows of the split's first table, else the latest finished and whole run of every pipeline."""
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
            f"`bench run --pipeline yolo-clip --split {split.name}`, or name another folder with --results"
        )
    return [folder for _, (_, folder) in sorted(latest.items())]


def _answered(split: Split, folder: Path, record: RunRecord) -> Split:
    """The split as the run was asked it. Raises RunError when the data here is other data."""
    data = record.identity.data
    asked = split.limited(data.images) if data.partial else split
    if (asked.name, asked.fingerprint) != (data.split, data.fingerprint):
        raise RunError(
            f"{folder}: was run on {data.split} with fingerprint {data.fingerprint[:8]} ({data.expressions:,} "
            f"expressions), but {asked.name} here has {asked.fingerprint[:8]} ({asked.counts.expressions:,}); "
            "pass the data it was run on with --split"
        )
    return asked


def _labels(records: Sequence[RunRecord]) -> list[str]:
    """The runs' names; where one comes twice, with the beginning of the settings' hash, and then a number."""
    names = Counter(record.name for record in records)
    labels = [r.name if names[r.name] == 1 else f"{r.name} ({r.settings_hash[:6]})" for r in records]
    numbers = [labels[: place + 1].count(label) for place, label in enumerate(labels)]
    return [label if n == 1 else f"{label} {n}" for label, n in zip(labels, numbers, strict=True)]


def _name(folder: Path, results: Path) -> str:
    try:
        return folder.resolve().relative_to(results.resolve()).as_posix()
    except ValueError:
        return folder.name
