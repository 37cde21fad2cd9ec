"""What a measurement of speed adds to the row of the run that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.runs.record import RunRecord
from bench.speed.record import SpeedRecord, headline, speed_of

GIGA = 2**20 / 1e9  # the MB of records are 2**20 bytes

Speeds = Sequence[tuple[SpeedRecord, str]]


def speed_keys(record: RunRecord, speeds: Speeds) -> dict[str, Any]:
    """The keys `speed`, `latency_ms`, `peak_gb` and `peak_gb_of` of a row (bench/reporting/boards.py), all of them
    null where there is no measurement: what a run itself remembers is its process's peak, of earlier pipelines too.
    """
    found = speed_of(record, speeds)
    joined = None if found is None else _speed(found, next(path for speed, path in speeds if speed is found))
    if found is None or joined is None:
        return {"speed": None, "latency_ms": None, "peak_gb": None, "peak_gb_of": None}
    of, used = "device", found.memory.allocated_mb
    if used is None:
        of, used = "process", found.memory.host_mb
    return {
        "speed": joined,
        "latency_ms": joined["p50_ms"],
        "peak_gb": None if used is None else round(used * GIGA, 6),
        "peak_gb_of": None if used is None else of,
    }


def _speed(found: SpeedRecord, path: str) -> dict[str, Any] | None:
    try:
        rate = headline(found)
    except ValueError:
        return None
    single = found.single
    return {
        "expressions_per_s": rate.expressions_per_s.model_dump(),
        "pictures_per_s": rate.pictures_per_s.model_dump(),
        "batch_size": rate.batch_size,
        "p50_ms": single.p50_ms if single else None,
        "p90_ms": single.p90_ms if single else None,
        "p99_ms": single.p99_ms if single else None,
        "joules_per_expression": found.energy.joules_per_expression,
        "noisy": list(found.noisy),
        "date": found.finished[:10],
        "commit": found.git.get("commit"),
        "record": path,
    }
