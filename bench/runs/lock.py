"""Lock of one process at a time: an flock on a file, which the system releases when its process dies, however it dies.

Our own, because filelock keeps no note of who has the lock and leaves its file behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.runs.files import explained, write_all

LOCK = "lock"  # of a run, in its folder; those of further ranks are lock.rank1, lock.rank2, ...


@contextmanager
def locked(
    path: Path, what: str, note: Mapping[str, Any] | None = None, patience_s: float = 1.0, fresh: bool = True
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Lock `path` for the length of the block and remove it after; yields what writes another note.

    The file holds this process and `note`, for `holder`. Raises RunError, naming the holder, when it is not free within
    `patience_s` (`holder` itself takes the lock for an instant, so no patience at all would be too little).
    `fresh`: the command has that option.
    """
    until = time.monotonic() + patience_s
    while (handle := _try(path)) is None:
        if time.monotonic() > until:
            entry = holder(path) or {}
            who = f"process {entry.get('pid', '?')} on {entry.get('host', '?')}"
            anew = ", or start anew with --fresh" if fresh else ""
            raise RunError(f"{path}: {what} is in use by {who}; wait for it to end{anew}")
        time.sleep(0.05)

    def write(note: Mapping[str, Any]) -> None:
        with explained(path):
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            write_all(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), **note}).encode())

    try:
        write(note or {})
        yield write
    finally:
        # Unlinked while still locked, so that nobody locks a file that is about to go; `_try` looks for that.
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def holder(path: Path) -> dict[str, Any] | None:
    """Load what the living process that has the lock wrote into it; None when nobody has it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _note(path)
    finally:
        os.close(handle)
    return None


def state_of(folder: Path, status: str) -> str:
    """Return a run's `status`; a run that is `running` by its record but that no process works on is "stopped".

    Where the file system does not share locks between machines, a process of another one cannot be noticed: a lock
    file left by one is "stopped, or running on HOST".
    """
    locks = list(folder.glob(f"{LOCK}*")) if status == "running" else []
    if status != "running" or any(holder(path) is not None for path in locks):
        return status
    hosts = {_note(path).get("host") for path in locks} - {None, socket.gethostname()}
    return f"stopped, or running on {', '.join(sorted(map(str, hosts)))}" if hosts else "stopped"


def _note(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        entry = json.loads(path.read_bytes()[:65536])
        return entry if isinstance(entry, dict) else {}
    return {}


def _try(path: Path) -> int | None:
    with explained(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine, there = os.fstat(handle), path.stat()
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                return handle
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
        return None
