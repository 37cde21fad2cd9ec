"""batches.jsonl: one line a batch, so that a run that was killed and resumed still knows its throughput.

{"session": 1, "rank": 0, "batch": 3, "pictures": 8, "expressions": 57, "seconds": 1.9,
 "stages": {"decode": 0.01, "detect": 1.2}, "decode_seconds": 0.3,
 "memory_mb": 812.0, "device_memory_mb": null, "note": ""}
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.runs.record import Throughput


@dataclass(frozen=True, slots=True)
class BatchTime:
    """One batch. `seconds` is wall time from the end of the batch before it, and stages are seconds within that.

    The stage "decode" is what the loop waited for pictures; `decode_seconds` what decoding them took in its threads.
    """

    session: int
    rank: int
    batch: int
    pictures: int
    expressions: int
    seconds: float
    stages: Mapping[str, float]
    decode_seconds: float
    memory_mb: float | None
    device_memory_mb: float | None
    note: str = ""


def dump_time(entry: BatchTime) -> str:
    """One line of batches.jsonl, newline included."""
    return json.dumps(asdict(entry), separators=(",", ":")) + "\n"


def read_times(paths: Iterable[Path]) -> list[BatchTime]:
    """Every batch of the files, each once, in order of session, rank and batch; torn lines are left out."""
    found = {(t.session, t.rank, t.batch): t for path in paths for t in _lines(path)}
    return [found[key] for key in sorted(found)]


def _lines(path: Path) -> Iterator[BatchTime]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            return
        try:
            yield BatchTime(**json.loads(line))
        except (ValueError, TypeError):  # timing is not worth refusing a run's answers for
            continue


def throughput(times: Iterable[BatchTime], load_seconds: float | None) -> Throughput:
    """The run's speed from its batches: sessions follow one another, the ranks of a session run side by side."""
    pictures = expressions = 0
    seconds: dict[tuple[int, int], float] = defaultdict(float)
    stages: dict[str, float] = defaultdict(float)
    memory: list[float] = []
    device_memory: list[float] = []
    for t in times:
        pictures += t.pictures
        expressions += t.expressions
        seconds[t.session, t.rank] += t.seconds
        for name, value in t.stages.items():
            stages[name] += value
        memory += [] if t.memory_mb is None else [t.memory_mb]
        device_memory += [] if t.device_memory_mb is None else [t.device_memory_mb]
    slowest: dict[int, float] = defaultdict(float)
    for (session, _), value in seconds.items():
        slowest[session] = max(slowest[session], value)
    total = sum(slowest.values())
    return Throughput(
        seconds=round(total, 6),
        pictures_per_s=pictures / total if total else None,
        expressions_per_s=expressions / total if total else None,
        stages={name: round(value, 6) for name, value in stages.items()},
        peak_memory_mb=max(memory, default=None),
        device_memory_mb=max(device_memory, default=None),
        load_seconds=None if load_seconds is None else round(load_seconds, 3),
    )
