"""A run's folder while it is open: appended to batch by batch, and ended in the same bytes whatever happened before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.grounding import Scene
from bench.runs.files import Appender, explained, write_atomically
from bench.runs.folders import RECORD
from bench.runs.predictions import SceneAnswers, dump_line, read_lines
from bench.runs.record import Metrics, RunRecord
from bench.runs.shards import Rank, wait_for
from bench.runs.timings import BatchTime, dump_time, read_times, throughput

ANSWERS, TIMES = "predictions", "batches"


@dataclass
class Run:
    """An open run, as one rank sees it (bench/runs/opening.py opens it).

    `scenes` is the whole split, `pending` what this rank has still to ask. `stack` closes what the run holds open.
    """

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
