"""Which folder a command's run lies in: an unfinished one to continue, a finished one to report, or a new one.

Runs are of the same command when pipeline, split, protocol and limit are the same; the identity (bench/runs/record.py)
decides whether one may be continued.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.runs.files import explained, make_folder
from bench.runs.record import Identity, RunRecord, read_record
from bench.tables import same_options

RECORD = "run.json"


def slug(name: str) -> str:
    """`name` as the name of one folder: "refcoco+-val" stays, "file:birds" becomes "file-birds"; never a path."""
    kept = re.sub(r"[^A-Za-z0-9+._-]+", "-", name).strip("-.")
    if kept and len(kept) <= 100:
        return kept
    return f"{kept[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def runs_of(results: Path, pipeline: str, split: str) -> Path:
    """The folder of every run of one pipeline on one split."""
    return results / "runs" / slug(pipeline) / slug(split)


def new_folder(parent: Path, record: RunRecord) -> Path:
    """A new empty folder for a run, named by when it started and its settings. Raises RunError."""
    make_folder(parent)
    folders = (parent / name for name in names_at(record.started, record.settings_hash))
    while True:
        folder = next(folders)
        with explained(folder), suppress(FileExistsError):
            folder.mkdir()
            return folder


def names_at(time: str, settings_hash: str) -> Iterator[str]:
    """Names of files by time and settings: 20260102-030405-1a2b3c4d, then the same with -2, -3, ..."""
    base = f"{re.sub(r'[^0-9T]', '', time[:19]).replace('T', '-')}-{settings_hash[:8]}"
    return (base if number == 1 else f"{base}-{number}" for number in count(1))


def same_command(parent: Path, identity: Identity, protocol: str) -> list[tuple[Path, RunRecord]]:
    """The runs under `parent` of this identity and protocol, oldest first; unreadable ones are skipped."""
    found = []
    for path in parent.glob(f"*/{RECORD}"):
        try:
            record = read_record(path.parent)
        except RunError:
            continue
        command = _command(record.identity, record.protocol)
        if record.provenance == "run" and command == _command(identity, protocol):
            found.append((path.parent, record))
    return sorted(found, key=lambda run: (run[1].started, run[0].name))


def _command(identity: Identity, protocol: str) -> tuple[Any, ...]:
    data = identity.data
    return (identity.pipeline, data.split, protocol, data.images if data.partial else None)


def choose(parent: Path, blank: RunRecord) -> tuple[Path, RunRecord] | None:
    """Choose the run that the command of `blank` continues or reports; None for a new one.

    Raises RunError, naming every difference, when the latest run is unfinished and of another identity.
    """
    runs = same_command(parent, blank.identity, blank.protocol)
    for folder, record in reversed(runs):
        if not differences(record.identity, blank.identity):
            return folder, record
    if runs and runs[-1][1].status == "running":
        refuse(runs[-1][0], runs[-1][1].identity, blank.identity)
    return None


def refuse(folder: Path, old: Identity, new: Identity) -> None:
    """Raises RunError when the identities differ: every key with what it was and what it is now."""
    if lines := differences(old, new):
        raise RunError(
            f"{folder}: this run was begun with something else and is not finished:\n  "
            + "\n  ".join(lines)
            + "\ngo back to what it was to continue it, or start anew beside it with --fresh"
        )


def differences(old: Identity, new: Identity) -> list[str]:
    """One line for each key in which two identities differ: "options.views: was 'crop', is 'blur'"."""
    if old.pipeline == new.pipeline and same_options(old.pipeline, old.options, new.options):
        old = old.model_copy(update={"options": new.options})  # one names defaults that the other leaves to the code
    was, now = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return [
        f"{key}: was {_said(was, key)}, is {_said(now, key)}"
        for key in dict.fromkeys([*was, *now])
        if was.get(key, _flat) != now.get(key, _flat)
    ]


def _said(table: Mapping[str, Any], key: str) -> str:
    return repr(table[key]) if key in table else "not set"


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out
