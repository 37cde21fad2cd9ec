"""One process at a time: an flock on a file, which the system lets go when its process dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.runs.files import explained, write_all


@contextmanager
def locked(path: Path, what: str, note: Mapping[str, Any] | None = None, patience_s: float = 1.0) -> Iterator[Lock]:
    """Holds `path` as a lock for the length of the block and removes it after.

    `note` is what `holder` tells other processes. Raises RunError, naming the holder, when it is not free within
    `patience_s` (`holder` itself takes the lock for an instant, so no patience at all would be too little).
    """
    lock = Lock(path, what, patience_s)
    try:
        lock.tell(note or {})
        yield lock
    finally:
        lock.release()


class Lock:
    """A held lock; see `locked`."""

    def __init__(self, path: Path, what: str, patience_s: float = 1.0) -> None:
        self.path = path
        until = time.monotonic() + patience_s
        while (handle := _try(path)) is None:
            if time.monotonic() > until:
                raise RunError(
                    f"{path}: {what} is in use by {_who(path)}; wait for it to end, or start anew with --fresh"
                )
            time.sleep(0.05)
        self._handle = handle

    def tell(self, note: Mapping[str, Any]) -> None:
        """Writes who holds the lock, and `note`, into the file."""
        entry = {"pid": os.getpid(), "host": socket.gethostname(), **note}
        with explained(self.path):
            os.ftruncate(self._handle, 0)
            os.lseek(self._handle, 0, os.SEEK_SET)
            write_all(self._handle, json.dumps(entry).encode())

    def release(self) -> None:
        # Unlinked while still held, so that nobody locks a file that is about to go; `_try` looks for that.
        with suppress(OSError):
            self.path.unlink()
        os.close(self._handle)


def holder(path: Path) -> dict[str, Any] | None:
    """What the living process that holds the lock wrote into it; None when nobody holds it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(handle)
    finally:
        os.close(handle)
    return None


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


def _who(path: Path) -> str:
    entry = holder(path) or {}
    return f"process {entry.get('pid', '?')} on {entry.get('host', '?')}"


def _read(handle: int) -> dict[str, Any]:
    try:
        entry = json.loads(os.read(handle, 65536))
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
