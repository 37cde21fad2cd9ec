"""A run's folder while it is open: appended to batch by batch, and ended in the same bytes whatever happened before.

batches.jsonl has one line a batch, so that a run that was killed and resumed still knows its throughput:

{"session": 1, "rank": 0, "batch": 3, "images": 8, "expressions": 57, "seconds": 1.9,
 "stages": {"decode": 0.01, "detect": 1.2}, "decode_seconds": 0.3,
 "memory_mb": 812.0, "device_memory_mb": null, "note": ""}
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.grounding import Scene
from bench.old_names import current
from bench.runs.files import Appender, explained, write_atomically
from bench.runs.folders import RECORD
from bench.runs.predictions import SceneAnswers, dump_line, read_lines
from bench.runs.record import Metrics, RunRecord, Throughput
from bench.runs.shards import Rank, wait_for

ANSWERS, TIMES = "predictions", "batches"


@dataclass(frozen=True, slots=True)
class BatchTime:
    """One batch: wall seconds since the end of the batch before, and the stages within them.

    The stage "decode" is what the loop waited for images; `decode_seconds` what decoding them took in its threads.
    """

    session: int
    rank: int
    batch: int
    images: int
    expressions: int
    seconds: float
    stages: Mapping[str, float]
    decode_seconds: float
    memory_mb: float | None
    device_memory_mb: float | None
    note: str = ""


@dataclass
class Run:
    """An open run, as one rank sees it; `scenes` is the whole split, `pending` what this rank has still to ground."""

    folder: Path
    record: RunRecord
    rank: Rank
    scenes: Sequence[Scene]
    pending: list[Scene]
    stack: ExitStack = field(default_factory=ExitStack, repr=False)
    _files: dict[str, Appender] = field(default_factory=dict, repr=False)

    @property
    def already_done(self) -> bool:
        """Whether it was finished before and nothing is left to ask again."""
        return self.record.status == "complete"

    def append(self, rows: Iterable[SceneAnswers], taken: BatchTime) -> None:
        """One batch; a kill after this returns loses nothing of it. Raises RunError when it cannot be written."""
        # Rank 0 may end the run as soon as it sees the last scene, so the times go first.
        self._file(TIMES).write(dump_time(taken))
        self._file(ANSWERS).write("".join(map(dump_line, rows)))

    def gather(self, timeout_s: float) -> list[SceneAnswers]:
        """Rank 0: waits for the other ranks; one row a scene, in the split's order, and stored so.

        Raises RunError naming the ranks that were silent for `timeout_s`.
        """
        self._close_files()
        rows = stored_rows(self.folder)
        if missing := {scene.id for scene in self.scenes} - rows.keys():
            files = {i: self.folder / Rank(i, self.rank.size).file(ANSWERS) for i in range(self.rank.size)}
            wait_for(self.scenes, files, missing, timeout_s)
            rows = stored_rows(self.folder)
        store_rows(self.folder, ordered := [rows[scene.id] for scene in self.scenes])
        return ordered

    def complete(
        self,
        metrics: Metrics,
        errors: Mapping[str, str],
        load_seconds: float | None,
        said: Iterable[str] = (),
        **more: Any,
    ) -> RunRecord:
        """Rank 0: writes the finished record; `said` are notes on its answers, `more` further fields of it."""
        self._close_files()
        times = read_times(sorted(self.folder.glob(f"{TIMES}*.jsonl")))
        write_atomically(self.folder / f"{TIMES}.jsonl", "".join(map(dump_time, times)).encode())
        _remove(self.folder, f"{TIMES}.rank*.jsonl")
        notes = dict.fromkeys([*self.record.notes, *said, *(t.note for t in times if t.note)])
        changed = {
            "status": "complete",
            "metrics": metrics,
            "errors": dict(errors),
            "throughput": throughput(times, load_seconds),
            "notes": tuple(notes),
            **more,
        }
        self.record = self.record.model_copy(update=changed)
        write_record(self.folder, self.record)
        return self.record

    def _file(self, stem: str) -> Appender:
        if stem not in self._files:
            self._files[stem] = self.stack.enter_context(Appender(self.folder / self.rank.file(stem)))
        return self._files[stem]

    def _close_files(self) -> None:
        for name in list(self._files):
            self._files.pop(name).close()


def write_record(folder: Path, record: RunRecord) -> None:
    """run.json, whole or not at all. Raises RunError when it cannot be written."""
    write_atomically(folder / RECORD, record.model_dump_json(by_alias=True, indent=2).encode() + b"\n")


def stored_rows(folder: Path) -> dict[str, SceneAnswers]:
    """Every scene's row from the files of all ranks; an answer wins over an error, whichever came first."""
    rows: dict[str, SceneAnswers] = {}
    for path in sorted(folder.glob(f"{ANSWERS}*.jsonl")):
        for row in read_lines(path):
            if row.scene not in rows or rows[row.scene].error is not None:
                rows[row.scene] = row
    return rows


def store_rows(folder: Path, rows: Iterable[SceneAnswers]) -> None:
    """predictions.jsonl with just these rows; the other ranks' files are gone after."""
    write_atomically(folder / f"{ANSWERS}.jsonl", "".join(map(dump_line, rows)).encode())
    _remove(folder, f"{ANSWERS}.rank*.jsonl")


def _remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        with explained(path):
            path.unlink(missing_ok=True)


def dump_time(time: BatchTime) -> str:
    """One line of batches.jsonl, newline included."""
    return json.dumps(asdict(time), separators=(",", ":")) + "\n"


def read_times(paths: Iterable[Path]) -> list[BatchTime]:
    """Load every batch of the files once, by session, rank and batch; torn lines are left out."""
    found: dict[tuple[int, int, int], BatchTime] = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else ():
            # A line that cannot be parsed is dropped: timing is not worth refusing a run's answers for.
            with suppress(ValueError, TypeError):
                if line.endswith("\n"):
                    time = BatchTime(**current(json.loads(line)))
                    found[time.session, time.rank, time.batch] = time
    return [found[key] for key in sorted(found)]


def throughput(times: Sequence[BatchTime], load_seconds: float | None) -> Throughput:
    """Sum up a run's speed: sessions follow one another, the ranks of a session run side by side."""
    seconds: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    stages: dict[str, float] = defaultdict(float)
    for time in times:
        seconds[time.session][time.rank] += time.seconds
        for name, value in time.stages.items():
            stages[name] += value
    total = sum(max(ranks.values()) for ranks in seconds.values())
    return Throughput(
        seconds=round(total, 6),
        images_per_s=sum(t.images for t in times) / total if total else None,
        expressions_per_s=sum(t.expressions for t in times) / total if total else None,
        stages={name: round(value, 6) for name, value in stages.items()},
        peak_memory_mb=max((t.memory_mb for t in times if t.memory_mb is not None), default=None),
        device_memory_mb=max((t.device_memory_mb for t in times if t.device_memory_mb is not None), default=None),
        load_seconds=None if load_seconds is None else round(load_seconds, 3),
    )
