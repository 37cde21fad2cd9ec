"""An open run: appended to batch by batch, and ended in the same bytes whatever was killed before.

batches.jsonl has one line a batch, so that a run that was killed and resumed still knows its throughput:

{"session": 1, "rank": 0, "batch": 3, "images": 8, "expressions": 57, "seconds": 1.9,
 "stages": {"decode": 0.01, "detect": 1.2}, "decode_seconds": 0.3,
 "memory_mb": 812.0, "device_memory_mb": null, "note": ""}

`seconds` is wall time since the end of the batch before, `stages` the stages within it: "decode" is the loop's waiting
for images, `decode_seconds` their decoding in its threads.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.grounding import Scene
from bench.memory import device_memory_mb, peak_memory_mb
from bench.old_names import current
from bench.runs.files import Appender, explained, write_atomically
from bench.runs.lock import LOCK, locked
from bench.runs.numbers import Metrics, Throughput
from bench.runs.packed import PREDICTIONS, STEMS, json_lines, pack, packed_name, stored_bytes, stored_parts
from bench.runs.predictions import SceneAnswers, count_notes, dump_line, parse_lines, parse_row
from bench.runs.record import RECORD, RunRecord
from bench.runs.seal import sealed
from bench.runs.shards import Rank, owned, wait_for

ANSWERS, TIMES = PREDICTIONS, STEMS[-1]
DAMAGED = f"{ANSWERS}.damaged"
BatchTime = dict[str, Any]  # one line of batches.jsonl
KEYS = {"session", "rank", "batch", "images", "expressions", "seconds", "stages", "decode_seconds", "note"}
KEYS |= {"memory_mb", "device_memory_mb"}


@dataclass
class Run:
    """A run as one rank has it; `scenes` is the whole split, `pending` what this rank has still to ground.

    `already_done` is true for one that was finished before. The record is complete only on rank 0.
    """

    folder: Path
    record: RunRecord
    rank: Rank
    scenes: Sequence[Scene]
    pending: list[Scene]
    already_done: bool = False
    stack: ExitStack = field(default_factory=ExitStack, repr=False)
    _rows: list[SceneAnswers] = field(default_factory=list, repr=False)
    _size: int = field(default=0, repr=False)
    _alone: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        """Find out whether this process will have stored all there is of the run."""
        self._alone = self.rank.size == 1 and len(self.pending) == len(self.scenes)

    _files: dict[str, Appender] = field(default_factory=dict, repr=False)

    @property
    def share(self) -> int:
        """Count the scenes of this rank."""
        return len(owned(self.scenes, self.rank))

    def append(self, rows: Sequence[SceneAnswers], time: BatchTime, device: str) -> None:
        """Store one batch and its times; a kill after this returns loses nothing of it. Raises RunError."""
        memory = {"memory_mb": peak_memory_mb(), "device_memory_mb": device_memory_mb(device)}
        # Rank 0 may end the run as soon as it sees the last scene, so the times go first.
        self._file(TIMES).write(dump_time({"session": self.record.sessions, "rank": self.rank.index, **memory, **time}))
        lines = "".join(map(dump_line, rows))
        self._file(ANSWERS).write(lines)
        if self._alone:
            self._rows += rows
            self._size += len(lines.encode())

    def gather(self, timeout_s: float) -> list[SceneAnswers]:
        """Wait for the other ranks; returns one row a scene, in the split's order, and stores them so. Rank 0.

        Raises RunError naming the ranks that were silent for `timeout_s`.
        """
        self._close_files()
        path = self.folder / f"{ANSWERS}.jsonl"
        in_order = self._alone and [row.scene for row in self._rows] == [scene.id for scene in self.scenes]
        if in_order and path.is_file() and path.stat().st_size == self._size:
            return self._rows  # as the file has them
        rows = stored_rows(self.folder)
        if missing := {scene.id for scene in self.scenes} - rows.keys():
            if lost := len(missing & {scene.id for scene in owned(self.scenes, self.rank)}):
                raise RunError(
                    f"{self.folder}: predictions of {lost:,} images are gone since they were stored: the folder or its "
                    "files were moved or deleted meanwhile; start the same command again"
                )
            files = {i: self.folder / Rank(i, self.rank.size).file(ANSWERS) for i in range(self.rank.size)}
            wait_for(self.scenes, files, missing, timeout_s)
            rows = stored_rows(self.folder)
        store_rows(self.folder, ordered := [rows[scene.id] for scene in self.scenes])
        return ordered

    def stored(self) -> list[SceneAnswers]:
        """Load every scene's row."""
        return list(stored_rows(self.folder).values())

    def complete(
        self, metrics: Metrics, rows: Sequence[SceneAnswers], load_seconds: float | None, finished: str
    ) -> None:
        """Write the finished record; `rows` are those of `gather`, `finished` the time. Rank 0."""
        self._close_files()
        times = read_times(sorted(self.folder.glob(f"{TIMES}*.jsonl")))
        write_atomically(self.folder / f"{TIMES}.jsonl", "".join(map(dump_time, times)).encode())
        _remove(self.folder, f"{TIMES}.rank*.jsonl")
        errors = {
            scene.file: row.error.removeprefix(f"{scene.file}: ")
            for scene, row in zip(self.scenes, rows, strict=True)
            if row.error is not None
        }
        notes = dict.fromkeys([*self.record.notes, *count_notes(rows), *(t["note"] for t in times if t["note"])])
        changed = {"status": "complete", "metrics": metrics, "errors": errors, "notes": tuple(notes)}
        changed |= {"throughput": throughput(times, load_seconds), "finished": finished}
        self.record = write_packed(self.folder, self.record.model_copy(update=changed))

    def _file(self, stem: str) -> Appender:
        if stem not in self._files:
            self._files[stem] = self.stack.enter_context(Appender(self.folder / self.rank.file(stem)))
        return self._files[stem]

    def _close_files(self) -> None:
        for name in list(self._files):
            self._files.pop(name).close()


def lock_of(folder: Path) -> AbstractContextManager[Any]:
    """Lock a stored run against processes that would continue it. Raises RunError when one does."""
    return locked(folder / LOCK, "this run")


def write_record(folder: Path, record: RunRecord) -> RunRecord:
    """Write run.json, whole or not at all; returns the record with its seal. Raises RunError."""
    record = sealed(record)
    write_atomically(folder / RECORD, record.model_dump_json(by_alias=True, indent=2).encode() + b"\n")
    return record


def write_packed(folder: Path, record: RunRecord) -> RunRecord:
    """Write a finished run's record with its files packed; returns the record with their hashes.

    A kill loses nothing: the packed files count once the record names them, and only then the others go. Raises
    RunError.
    """
    files = dict(record.files)
    for stem in STEMS:
        with suppress(FileNotFoundError):
            packed = pack((folder / f"{stem}.jsonl").read_bytes())
            write_atomically(folder / packed_name(stem), packed)
            files[packed_name(stem)] = hashlib.sha256(packed).hexdigest()
    record = write_record(folder, record.model_copy(update={"files": files}))
    remove_plain(folder, record)
    return record


def remove_plain(folder: Path, record: RunRecord) -> None:
    """Remove the files that a finished run has packed as well, which a kill may have left."""
    for stem in STEMS:
        if record.status == "complete" and packed_name(stem) in record.files:
            _drop(folder / f"{stem}.jsonl")


def write_continued(folder: Path, old: RunRecord, record: RunRecord) -> None:
    """Write the record of a run that goes on, with its files unpacked to be appended to. Raises RunError."""
    packed = [stem for stem in STEMS if packed_name(stem) in old.files]
    for stem in packed:
        with suppress(FileNotFoundError):  # somebody removed it: what it had is grounded again
            write_atomically(folder / f"{stem}.jsonl", stored_bytes(folder, stem))
    write_record(folder, record.model_copy(update={"files": {}}))
    for stem in STEMS:
        _drop(folder / packed_name(stem))


def _drop(path: Path) -> None:
    with suppress(OSError):  # one that is left is not read
        path.unlink()


def stored_rows(folder: Path, damaged: list[bytes] | None = None) -> dict[str, SceneAnswers]:
    """Load every scene's row, of all ranks or of the packed file; an answer wins over an error, whichever came first.

    `damaged`, where it is given, gets the lines that are no rows. Raises RunError for one where it is not.
    """
    paths = {folder / f"{ANSWERS}.jsonl", *folder.glob(f"{ANSWERS}.rank*.jsonl")}
    rows: dict[str, SceneAnswers] = {}
    for path in sorted(paths):
        try:
            whole = path.stem == ANSWERS
            lines, loads = json_lines(*(stored_parts(folder, ANSWERS) if whole else (path.read_bytes(), ())))
        except FileNotFoundError:  # nothing is stored yet, or rank 0 has just gathered it
            continue
        for row in parse_lines(lines, path, parse_row, loads, damaged):
            if row.scene not in rows or rows[row.scene].error is not None:
                rows[row.scene] = row
    return rows


def set_aside(folder: Path, damaged: Sequence[bytes]) -> str:
    """Move lines that are no rows to predictions.damaged, before `store_rows` leaves them out; returns a note of it."""
    path = folder / DAMAGED
    before = path.read_bytes() if path.is_file() else b""
    write_atomically(path, before + b"".join(damaged))
    lines = "1 line" if len(damaged) == 1 else f"{len(damaged):,} lines"
    return f"{lines} of {ANSWERS}.jsonl were damaged and are in {DAMAGED} now; their images were grounded again"


def store_rows(folder: Path, rows: Iterable[SceneAnswers]) -> None:
    """Write predictions.jsonl with just these rows, and remove the other ranks' files."""
    store_lines(folder, map(dump_line, rows))


def store_lines(folder: Path, lines: Iterable[str]) -> None:
    """Write predictions.jsonl with just these lines, and remove the other ranks' files."""
    write_atomically(folder / f"{ANSWERS}.jsonl", "".join(lines).encode())
    _remove(folder, f"{ANSWERS}.rank*.jsonl")


def _remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        with explained(path):
            path.unlink(missing_ok=True)


def dump_time(time: BatchTime) -> str:
    """Return one line of batches.jsonl, newline included."""
    return json.dumps(_to_microseconds(time), separators=(",", ":")) + "\n"


def _to_microseconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_microseconds(inner) for key, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def read_times(paths: Iterable[Path]) -> list[BatchTime]:
    """Load every batch of the files once, by session, rank and batch; torn lines are left out."""
    return parse_times(b"".join(path.read_bytes().rpartition(b"\n")[0] + b"\n" for path in paths if path.is_file()))


def parse_times(text: bytes) -> list[BatchTime]:
    """Parse the text of batches.jsonl, as `read_times` does."""
    times: dict[tuple[int, int, int], BatchTime] = {}
    for line in text.splitlines():
        # A line that cannot be parsed is dropped: timing is not worth refusing a run's answers for.
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            time = current(json.loads(line))
            if time.keys() == KEYS:
                times[time["session"], time["rank"], time["batch"]] = time
    return [times[key] for key in sorted(times)]


def throughput(times: Sequence[BatchTime], load_seconds: float | None) -> Throughput:
    """Sum up a run's speed: sessions follow one another, the ranks of a session run side by side."""
    seconds: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    stages: dict[str, float] = defaultdict(float)
    for time in times:
        seconds[time["session"]][time["rank"]] += time["seconds"]
        for name, value in time["stages"].items():
            stages[name] += value
    total = sum(max(ranks.values()) for ranks in seconds.values())

    def rate(key: str) -> float | None:
        return sum(time[key] for time in times) / total if total else None

    def peak(key: str) -> float | None:
        return max((time[key] for time in times if time[key] is not None), default=None)

    return Throughput(
        seconds=round(total, 6),
        images_per_s=rate("images"),
        expressions_per_s=rate("expressions"),
        stages={name: round(value, 6) for name, value in stages.items()},
        peak_memory_mb=peak("memory_mb"),
        device_memory_mb=peak("device_memory_mb"),
        load_seconds=None if load_seconds is None else round(load_seconds, 3),
    )
