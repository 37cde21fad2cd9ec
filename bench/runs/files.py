"""Files that a kill or a full disk cannot leave half-written: whole files replaced at once, and lines appended.

Every OSError becomes a RunError with the path and what to do next.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from bench.errors import RunError

FSYNC_EVERY_S = 2.0  # a power cut costs at most this much work; a killed process costs none
LEFT_OVER_S = 600.0
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
BLOCKED_BY_FILE = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@contextmanager
def explained(path: Path, advice: str = "") -> Iterator[None]:
    """Turn an OSError about `path` into a RunError that ends with `advice`, by default what fits the error."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        if not advice and error.errno in FULL:
            advice = "free some space and start the same command again"
        elif not advice and error.errno in BLOCKED_BY_FILE:
            advice = "a folder is needed there; move the file away or name another place"
        elif not advice and error.errno == errno.ENOENT:
            advice = "the folder is not there, or was moved or deleted meanwhile; start the same command again"
        advice = advice or "make the folder writable or name another place"
        raise RunError(f"{path}: cannot be written ({why}); {advice}") from error


def make_folder(path: Path) -> None:
    """Make a folder with its parents. Raises RunError when a file is in the way or the place is read-only."""
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` as the whole of `path`, or leave `path` as it was. Raises RunError."""
    temporary = temporary_name(path)
    with explained(path):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)


def temporary_name(path: Path, ending: str = "tmp") -> Path:
    """Name this process's own file or folder beside `path`, and remove those that killed processes left there.

    One is a left-over when its process is not on this machine and nothing was written to it for LEFT_OVER_S, so that
    a process of another machine keeps its own.
    """
    for other in path.parent.glob(f".{glob.escape(path.name)}.*.{ending}"):
        number = other.name.removesuffix(f".{ending}").rpartition(".")[2]
        with suppress(OSError, OverflowError):
            if number.isdecimal() and time.time() - other.stat().st_mtime > LEFT_OVER_S and not _lives(int(number)):
                shutil.rmtree(other) if other.is_dir() else other.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_all(handle: int, data: bytes) -> None:
    """Write all of `data` to the descriptor: one write may take only a part of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _sync_folder(folder: Path) -> None:
    # A rename is on the disk only once its folder is; file systems without folder fsync are none the worse.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Appender:
    """A file of lines that only grows. A last line that a kill cut short is cut off when the file is opened.

    Each `write` reaches the operating system at once, so a killed process loses nothing that was written.
    Raises RunError when the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained(path):
            cut_torn_line(path)
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._synced = time.monotonic()

    def write(self, lines: str) -> None:
        """Append whole lines, newline included. Raises RunError where the file is no longer in its place."""
        with explained(self.path):
            write_all(self._handle, lines.encode("utf-8"))
            mine, there = os.fstat(self._handle), self.path.stat()
            if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if time.monotonic() - self._synced > FSYNC_EVERY_S:
                os.fsync(self._handle)
                self._synced = time.monotonic()

    def close(self) -> None:
        if self._handle < 0:
            return
        handle, self._handle = self._handle, -1
        with explained(self.path):
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:  # the first error is the one to show
            with suppress(RunError):
                self.close()


def cut_torn_line(path: Path) -> None:
    """Truncate a file after its last newline; a missing file is left so."""
    try:
        file = path.open("rb+")
    except FileNotFoundError:
        return
    with file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:
            start = max(0, keep - 65536)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < end:
            file.truncate(keep)
