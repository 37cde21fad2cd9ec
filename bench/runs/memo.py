"""Memo of finished work by content hash: what is done once, whatever is killed in between.

    FOLDER/train-1f0c.../node.json    what it was, its result, how long it took
                         network.*    of a training: its weights, and while it runs its step file
           score-77ab.../node.json    of a scoring: the reliability of every row

A node is named by a hash of everything that its result depends on. The other way to resume, for work that is stored
line by line, is a run's append-only log (bench/runs/store.py).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.old_names import MEMO_RESULT
from bench.runs.files import make_folder, write_atomically

log = logging.getLogger("bench.train")
RECORD = "node.json"
Result = dict[str, Any]


class DryRunStop(Exception):
    """A dry run reached work that is not done; its text names the work."""


def _same(value: Any) -> Any:
    return value


@dataclass
class Memo:
    """The nodes under `folder`. `agree` gives every process the first one's value; `dry` does nothing new."""

    folder: Path
    agree: Callable[[Any], Any] = _same
    lead: bool = True
    dry: bool = False
    title: str = "memo"  # in the log
    log: logging.Logger = log
    done: int = 0  # in this run
    known: set[str] = field(default_factory=set)

    def run(
        self,
        kind: str,
        key: Mapping[str, Any],
        what: str,
        work: Callable[[Path], Result],
        intact: Callable[[Result], bool] = lambda result: True,
    ) -> tuple[str, Result]:
        """Return the node's name and result: from its record, or from `work`, given the node's folder.

        `work` returns plain JSON on the first process; what others return is not used. A result that is not `intact`,
        for files beside it have changed, is made anew. Raises DryRunStop, and RunError for a broken record.
        """
        name = f"{kind}-{digest(key)}"
        folder = self.folder / name
        # 1. Done before?
        record = _record(folder / RECORD) if self.lead else None
        record = self.agree(record if record is None or intact(record["result"]) else None)
        if record is not None:
            if name not in self.known:
                self.log.info("%s: %s: done before (%s)", self.title, what, name)
            self.known.add(name)
            result: Result = record["result"]
            return name, result
        if self.dry:
            raise DryRunStop(what)
        # 2. Do it.
        self.log.info("%s: %s (%s)", self.title, what, name)
        start = time.monotonic()
        if self.lead:
            make_folder(folder)
        result = self.agree(work(folder))
        self.done += 1
        # 3. The record comes last: without it the node counts as not done.
        if self.lead:
            record = {"what": what, "kind": kind, "key": dict(key), "result": result}
            record["seconds"] = round(time.monotonic() - start, 3)
            write_atomically(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())
        self.known.add(name)
        return name, result

    def records(self) -> list[dict[str, Any]]:
        """Return the record of every finished node, for estimates."""
        records = (_record(path) for path in sorted(self.folder.glob(f"*/{RECORD}")))
        return [record for record in records if record is not None]


def digest(key: Mapping[str, Any]) -> str:
    """Return sixteen hex digits for a table of plain values, whatever their order."""
    return sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if MEMO_RESULT in record:
            record["result"] = record.pop(MEMO_RESULT)
        if not isinstance(record["result"], dict):
            raise ValueError("not a record")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{path}: no record of a node ({error}); delete its folder and it is done again") from None
    return record  # type: ignore[no-any-return]
