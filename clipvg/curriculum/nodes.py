"""The nodes of a curriculum: trainings and scorings that are done once, whatever is killed in between.

    FOLDER/measure-1f0c.../node.json    what it was, what it found, how long it took
                           network.*    of a training: its weights, and while it goes on its step file

A node is named by a hash of everything that its result depends on. What is there is never done again; a training that
was stopped goes on from its step file.
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
Found = dict[str, Any]


class NotDone(Exception):
    """A dry run came to a node that has not been done yet."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass
class Nodes:
    """The nodes under `folder`. `agree` makes every process go by what the first one says; `dry` does nothing new."""

    folder: Path
    agree: Callable[[Any], Any]
    lead: bool = True
    dry: bool = False
    done: int = 0  # in this run
    reused: list[str] = field(default_factory=list)

    def once(self, kind: str, key: Mapping[str, Any], what: str, work: Callable[[Path], Found]) -> tuple[str, Found]:
        """The node's name and what it found: from its record, or from `work`, handed the node's folder.

        `work` returns plain JSON on the first process (others' answers are not looked at). Raises NotDone in a dry
        run, RunError for a record that cannot be read.
        """
        name = f"{kind}-{digest(key)}"
        place = self.folder / name
        held = self.agree(_read(place / RECORD) if self.lead else None)
        if held is not None:
            if name not in self.reused:
                self.reused.append(name)
                log.info("curriculum: %s: done before (%s)", what, name)
            return name, held["found"]
        if self.dry:
            raise NotDone(what)
        log.info("curriculum: %s (%s)", what, name)
        began = time.monotonic()
        if self.lead:
            make_folder(place)
        found: Found = self.agree(work(place))
        self.done += 1
        if self.lead:
            record: dict[str, Any] = {"what": what, "kind": kind, "key": dict(key), "found": found}
            record["seconds"] = round(time.monotonic() - began, 1)
            write_atomically(place / RECORD, (json.dumps(record, indent=2) + "\n").encode())
        self.reused.append(name)  # asked for again in this run it is no news
        return name, found

    def records(self) -> list[dict[str, Any]]:
        """Every node that is done, for estimates."""
        held = (_read(path) for path in sorted(self.folder.glob(f"*/{RECORD}")))
        return [record for record in held if record is not None]


def digest(key: Mapping[str, Any]) -> str:
    """Sixteen hex digits for a table of plain values, whatever their order."""
    return sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or not isinstance(held.get("found"), dict):
            raise ValueError("no record")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: no record of a node ({error}); delete its folder and it is done again") from None
    return held
