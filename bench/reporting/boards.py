"""Runs sorted into tables, one for each signature: what the leaderboard shows, and what it leaves out and why.

A signature names split, protocol, number of expressions and data fingerprint, so a table never mixes two of them.
Partial, unfinished and dirty runs are left out, and so are older runs of the same pipeline, settings and device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.reporting.table import row
from bench.runs.folders import RECORD
from bench.runs.record import RunRecord, read_record

UNKNOWN = ("unknown", "elsewhere", "")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A run that no table shows, and why."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class Board:
    """A table: the runs of one signature, best first. A row is `table.row` and what stands behind the run."""

    signature: str
    split: str
    protocol: str
    proposals: str
    fingerprint: str
    expressions: int
    pictures: int
    rows: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    boards: tuple[Board, ...]
    left_out: tuple[LeftOut, ...]


def collect(results: Path) -> Leaderboard:
    """Reads every run under `results`; a record that cannot be read is left out with the reason."""
    shown: dict[tuple[str, ...], tuple[RunRecord, str]] = {}
    left_out: list[LeftOut] = []
    for record, run in sorted(_records(results, left_out), key=lambda found: (_when(found[0]), found[1])):
        reason = _why_left_out(record)
        if reason:
            left_out.append(LeftOut(run, reason))
            continue
        key = (record.signature, record.name, record.provenance, record.settings_hash, device(record))
        if key in shown:
            left_out.append(LeftOut(shown[key][1], f"replaced by a later run of the same settings: {run}"))
        shown[key] = (record, run)
    tables: dict[str, list[tuple[RunRecord, str]]] = {}
    for record, run in shown.values():
        tables.setdefault(record.signature, []).append((record, run))
    boards = sorted((_board(runs) for runs in tables.values()), key=_board_order)
    return Leaderboard(tuple(boards), tuple(sorted(left_out, key=lambda entry: (entry.run, entry.reason))))


def device(record: RunRecord) -> str:
    """What the run ran on, without its number: the GPU's name, "CPU" with the processor's, or "" where unknown."""
    named = record.identity.device
    if named in UNKNOWN:
        return ""
    gpu = record.environment.get("gpu")
    if isinstance(gpu, Mapping) and gpu.get("name"):
        return str(gpu["name"])
    processor = re.sub(r"\((R|TM)\)", "", str(record.environment.get("cpu") or "")).strip()
    if named.startswith("cpu"):
        return f"CPU, {processor}" if processor else "CPU"
    return named.partition(":")[0].upper()


def _records(results: Path, left_out: list[LeftOut]) -> Iterable[tuple[RunRecord, str]]:
    for path in sorted((results / "runs").glob(f"**/{RECORD}")):
        run = path.parent.relative_to(results).as_posix()
        if any(part.startswith(".") for part in path.parent.relative_to(results).parts):
            continue  # a run that is just being imported
        try:
            yield read_record(path.parent), run
        except RunError as error:
            left_out.append(LeftOut(run, str(error).replace(str(path.parent), run)))


def _why_left_out(record: RunRecord) -> str | None:
    if record.status != "complete" or record.metrics is None:
        return "not finished"
    if record.identity.data.partial:
        return f"partial: {record.identity.data.pictures:,} pictures only"
    if record.git.get("dirty"):
        return "dirty: made by code that is in no commit"
    return None


def _when(record: RunRecord) -> tuple[str, str]:
    return (record.finished or "", record.started)


def _board(runs: list[tuple[RunRecord, str]]) -> Board:
    rows = [_entry(record, run) for record, run in runs]
    data = runs[0][0].identity.data
    return Board(
        signature=runs[0][0].signature,
        split=data.split,
        protocol=runs[0][0].protocol,
        proposals=runs[0][0].proposals,
        fingerprint=data.fingerprint,
        expressions=data.expressions,
        pictures=data.pictures,
        rows=tuple(sorted(rows, key=lambda r: (-r["acc@0.5"], -r["mean_iou"], r["pipeline"], r["run_dir"]))),
    )


def _entry(record: RunRecord, run: str) -> dict[str, Any]:
    return row(record, run) | {
        "device": device(record),
        "dtype": record.identity.dtype,
        "weights": dict(record.identity.weights),
        "trained_on": str(record.card.get("trained_on") or ""),
        "licence": str(record.card.get("licence") or ""),
        "saw_test_images": record.card.get("saw_test_images", "unknown"),
        "date": (record.finished or record.started)[:10],
        "commit": record.git.get("commit"),
        "settings_hash": record.settings_hash,
    }


def _board_order(board: Board) -> tuple[str, bool, str, str, str]:
    return (board.split, board.protocol != "iou", board.protocol, board.proposals, board.signature)
