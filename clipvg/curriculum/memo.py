"""A memo of finished work by content hash: trainings and scorings that are done once, whatever is killed in between.

    FOLDER/train-1f0c.../node.json    what it was, its result, how long it took
                         network.*    of a training: its weights, and while it runs its step file
           score-77ab.../node.json    of a scoring: the reliability of every row

A node is named by a hash of everything that its result depends on. A training that was stopped resumes from its step
file.
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
from bench.runs.files import make_folder, write_atomically

log = logging.getLogger("bench.train")
RECORD = "node.json"
Result = dict[str, Any]


class DryRunStop(Exception):
    """A dry run reached work that is not done; its text names the work."""


@dataclass
class Memo:
    """The nodes under `folder`. `agree` gives every process the first one's value; `dry` does nothing new."""

    folder: Path
    agree: Callable[[Any], Any]
    lead: bool = True
    dry: bool = False
    done: int = 0  # in this run
    known: set[str] = field(default_factory=set)

    def run(self, kind: str, key: Mapping[str, Any], what: str, work: Callable[[Path], Result]) -> tuple[str, Result]:
        """Return the node's name and result: from its record, or from `work`, given the node's folder.

        `work` returns plain JSON on the first process; what others return is not used. Raises DryRunStop, and RunError
        for a record that cannot be read.
        """
        name = f"{kind}-{digest(key)}"
        folder = self.folder / name
        record = self.agree(_record(folder / RECORD) if self.lead else None)
        if record is not None:
            if name not in self.known:
                log.info("curriculum: %s: done before (%s)", what, name)
            self.known.add(name)
            result: Result = record["found"]
            return name, result
        if self.dry:
            raise DryRunStop(what)
        log.info("curriculum: %s (%s)", what, name)
        start = time.monotonic()
        if self.lead:
            make_folder(folder)
        result = self.agree(work(folder))
        self.done += 1
        if self.lead:
            record = {"what": what, "kind": kind, "key": dict(key), "found": result}
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
        if not isinstance(record, dict) or not isinstance(record.get("found"), dict):
            raise ValueError("not a record")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: no record of a node ({error}); delete its folder and it is done again") from None
    return record
