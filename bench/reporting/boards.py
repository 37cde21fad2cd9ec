"""Sort runs into tables, one for each signature, and list what the leaderboard leaves out and why.

A signature names split, protocol, number of expressions and data fingerprint, so a table never mixes two of them.
Older runs of the same pipeline, settings and device are a row's history.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from bench.comparison.compared_runs import stored_records
from bench.comparison.ranks import OTHER_COUNTS, ranks
from bench.errors import RunError
from bench.grounding import Supervision
from bench.reporting.published import beside, compared
from bench.reporting.rows import Row, number_of, run_row
from bench.runs.lock import state_of
from bench.runs.record import PERTURBED, RunRecord
from bench.settings import shipped_options
from bench.speed.record import SpeedRecord, headline, read_speeds, speed_of

UNKNOWN = ("unknown", "elsewhere", "")
SUBMISSION = "submission.json"  # beside run.json of another person's run (bench/leaderboard/submission.py)

GIGA = 2**20 / 1e9  # the MB of records are 2**20 bytes

Speeds = Sequence[tuple[SpeedRecord, str]]
Run = tuple[RunRecord, str]  # a record with its folder, relative to the results


@dataclass(frozen=True, slots=True)
class Board:
    """A table: the runs of one signature, best first."""

    signature: str
    split: str
    protocol: str
    proposals: str
    fingerprint: str
    expressions: int
    images: int
    rows: tuple[Row, ...]

    @property
    def perturbed(self) -> str:
        """The perturbation of what the pipelines got; empty for plain runs."""
        return self.signature.partition(PERTURBED)[2]

    @property
    def usual(self) -> bool:
        """Whether it is of the usual protocol, the pipelines' own proposals and plain scenes."""
        return self.protocol == "iou" and not self.proposals and not self.perturbed


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The tables, and (run, reason) of each run or speed record that no table shows."""

    boards: tuple[Board, ...]
    left_out: tuple[tuple[str, str], ...]


def collect(results: Path) -> Leaderboard:
    """Collect every run and speed record under `results`; broken ones are left out with the reason."""
    left_out: list[tuple[str, str]] = []
    kept = histories(results, left_out)
    # A table for each signature, with the speeds that belong to its rows.
    speeds = read_speeds(results, left_out)
    tables: dict[str, list[list[Run]]] = {}
    for runs in kept:
        tables.setdefault(runs[-1][0].comparable, []).append(runs)
    boards = [board for each in tables.values() if (board := _board(results, each, speeds, left_out)).rows]
    boards.sort(key=lambda b: (b.split, b.protocol != "iou", b.protocol, b.proposals, b.perturbed, b.signature))
    return Leaderboard(tuple(boards), tuple(sorted(left_out)))


def histories(results: Path, left_out: list[tuple[str, str]]) -> list[list[Run]]:
    """Group the complete runs under `results` by signature, pipeline, settings and device, oldest first.

    The last of a group is a row of a table. `left_out` collects the others, with the reason.
    """
    # 1. Read the records; broken ones are left out.
    kept: dict[tuple[Any, ...], list[Run]] = {}
    broken: list[tuple[Path, RunError]] = []
    stored = [(record, _within(folder, results)) for folder, record in stored_records(results / "runs", broken)]
    for folder, error in broken:
        run = _within(folder, results)
        left_out.append((run, str(error).replace(str(folder), run)))
    # 2. Group the complete ones.
    for record, run in sorted(stored, key=lambda each: (each[0].finished or "", each[0].started, each[1])):
        if reason := why_left_out(record):
            unfinished = record.status != "complete"
            left_out.append((run, f"{reason}: {state_of(results / run, record.status)}" if unfinished else reason))
            continue
        ours = _submitted(results / run) is None  # no other person's run may take the place of one of ours
        key = (record.signature, record.name, record.provenance, record.settings_hash, device(record), ours)
        kept.setdefault(key, []).append((record, run))
    return list(kept.values())


def device(record: RunRecord) -> str:
    """Name what the run ran on: the GPU, "CPU" with the processor, or "" where unknown."""
    name = record.identity.device
    if name in UNKNOWN:
        return ""
    gpu = record.environment.get("gpu")
    if isinstance(gpu, Mapping) and gpu.get("name"):
        return str(gpu["name"])
    processor = re.sub(r"\((R|TM)\)", "", str(record.environment.get("cpu") or "")).strip()
    if name.startswith("cpu"):
        return f"CPU, {processor}" if processor else "CPU"
    return name.partition(":")[0].upper()


def why_left_out(record: RunRecord) -> str | None:
    """Say why no table may show a run; None for one that any may."""
    if record.status != "complete" or record.metrics is None:
        return "not finished"
    if record.part:
        return f"partial: {record.part}"
    if record.git.get("dirty"):
        return "dirty: made by code that is in no commit"
    return None


def _within(folder: Path, results: Path) -> str:
    return folder.relative_to(results).as_posix()


def _submitted(folder: Path) -> str | None:
    """Return the date on which another person's run was accepted; None for our own."""
    try:
        notice = json.loads((folder / SUBMISSION).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "unknown"
    return str(notice.get("accepted") or "unknown")[:10] if isinstance(notice, Mapping) else "unknown"


def _board(results: Path, histories: Sequence[Sequence[Run]], speeds: Speeds, left_out: list[tuple[str, str]]) -> Board:
    """Make the table of runs that share a signature; the last of each history is the row."""
    latest = [runs[-1] for runs in histories]
    ranked = list(zip(histories, ranks(results, latest), strict=True))
    left_out += [(runs[-1][1], reason) for runs, (_, reason) in ranked if reason == OTHER_COUNTS]
    rows = [
        cast(Row, {**whole_row(results, runs, speeds), "rank": rank and list(rank), "rank_note": reason})
        for runs, (rank, reason) in ranked
        if reason != OTHER_COUNTS
    ]
    rows.sort(key=lambda r: (-r["acc@0.5"], -r["mean_iou"], r["pipeline"], r["run_dir"]))
    record = latest[0][0]
    data = record.identity.data
    return Board(
        signature=record.comparable,
        protocol=record.rule,
        proposals=record.proposals,
        **{key: getattr(data, key) for key in ("split", "fingerprint", "expressions", "images")},
        rows=tuple(_by_the_same_masks(rows)),
    )


def _by_the_same_masks(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield rows without the masks of those that other ground-truth masks scored than most."""
    data = Counter(row["masks"]["data"] for row in rows if "masks" in row)
    for row in rows:
        if "masks" in row and row["masks"]["data"] != data.most_common(1)[0][0]:
            row = cast(Row, {key: value for key, value in row.items() if key != "masks"} | {"other_masks": True})
        yield row


def whole_row(results: Path, runs: Sequence[Run], speeds: Speeds) -> Row:
    """Make the row, without a rank, of the latest of `runs`, which differ in time and code alone."""
    record, run = runs[-1]
    card, weights = record.card, record.card.get("weights")
    parameters: Any = card.get("parameters")
    entry: dict[str, Any] = {
        **run_row(record, run),
        "device": device(record),
        "dtype": record.identity.dtype,
        "weights": dict(record.identity.weights),
        "weights_names": {str(k): str(v) for k, v in weights.items()} if isinstance(weights, Mapping) else {},
        "trained_on": str(card.get("trained_on") or ""),
        "training_data": supervision(record),
        "licence": str(card.get("licence") or ""),
        "saw_test_images": str(card.get("saw_test_images") or "unknown"),
        "parameters": int(parameters) if type(parameters) in (int, float) and math.isfinite(parameters) else None,
        **_made(record),
        "settings_hash": record.settings_hash,
        "submitted": _submitted(results / run),
        **_speed_keys(record, speeds),
    }
    about = beside(record.name, entry["split"], entry["training_data"], list(entry["weights_names"].values()))
    entry["published"] = [compared(each, entry) for each in about if number_of(entry, each.metric) is not None]
    entry["history"] = []
    for older, folder in reversed(runs[:-1]):
        accuracy = older.metrics.accuracy if older.metrics else math.nan  # `why_left_out`: there are metrics
        change = {"acc@0.5": accuracy, "difference": entry["acc@0.5"] - accuracy, "run_dir": folder}
        entry["history"].append(_made(older) | change)
    return cast(Row, entry | {"rank": None, "rank_note": ""})


def _made(record: RunRecord) -> dict[str, str | None]:
    """Return when a run was made, and by which code."""
    commit = record.git.get("commit")
    return {"date": (record.finished or record.started)[:10], "commit": None if commit is None else str(commit)}


def _speed_keys(record: RunRecord, speeds: Speeds) -> dict[str, Any]:
    """Return the keys of a run's speed record; null without one."""
    keys: dict[str, Any] = dict.fromkeys(("speed", "latency_ms", "peak_gb", "peak_gb_of"))
    speed = speed_of(record, speeds)
    if speed is None:
        return keys
    try:
        rate = headline(speed)
    except ValueError:
        return keys
    keys["speed"] = {
        "expressions_per_s": rate.expressions_per_s.model_dump(),
        "images_per_s": rate.images_per_s.model_dump(),
        "batch_size": rate.batch_size,
        **{key: getattr(speed.single, key, None) for key in ("p50_ms", "p90_ms", "p99_ms")},
        "joules_per_expression": speed.energy.joules_per_expression,
        "noisy": [*speed.noisy, *_other_code(record, speed)],
        "date": speed.finished[:10],
        "commit": speed.git.get("commit"),
        "record": next(path for other, path in speeds if other is speed),
    }
    keys["latency_ms"] = keys["speed"]["p50_ms"]
    for of, used in (("device", speed.memory.allocated_mb), ("process", speed.memory.host_mb)):
        if used is not None and keys["peak_gb"] is None:
            keys |= {"peak_gb": round(used * GIGA, 6), "peak_gb_of": of}
    return keys


def _other_code(record: RunRecord, speed: SpeedRecord) -> list[str]:
    """Return a doubt where a speed was measured at another commit than its row's run."""
    at, run = speed.git.get("commit"), record.git.get("commit")
    return [f"measured at commit {at[:7]}, the run at {run[:7]}"] if at and run and at != run else []


def supervision(record: RunRecord) -> str:
    """Return the word of the record's card, or for older cards that of the shipped card with the same facts.

    Of imported boxes it is what their user claimed.
    """
    word, trained_on = record.card.get("supervision"), record.card.get("trained_on")
    if word in get_args(Supervision):
        return str(word)
    if record.provenance == "imported":
        return "unknown"
    if trained_on == "nothing":
        return "none"
    dataset = record.identity.data.split.rpartition("-")[0]
    shipped = shipped_options(record.identity.pipeline, dataset).get("card", {})
    return str(shipped["supervision"]) if trained_on and trained_on == shipped.get("trained_on") else "unknown"
