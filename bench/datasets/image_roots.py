"""Where images lie: the names an image may go by, and folders and zip files, without unpacking."""

from __future__ import annotations

import os
import re
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO

from bench.errors import ImageError
from bench.inputs import check_size, load_bytes, opened

_COCO = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{12})\.jpg")


def names_of(file: str) -> list[str]:
    """List the names an image may go by, its own first: COCO's train2014 and train2017 name the same images.

    Raises ImageError for a name that leaves the folder it belongs to (absolute, drive letter, or with "..").
    """
    path = PurePosixPath(file.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in file:
        raise ImageError(f"{file!r}: not the name of an image inside its folder; use a relative name without '..'")
    names = [str(path)]
    if coco := _COCO.fullmatch(path.name):
        number = coco[1]
        same = (f"{number}.jpg", f"COCO_train2014_{number}.jpg", f"COCO_val2014_{number}.jpg")
        names += [n for n in (str(path.with_name(s)) for s in same) if n not in names]
    return names


class FolderRoot:
    """A folder of images, its sub-folders included (links followed once).

    Paths in a root are relative to its top, with forward slashes. `direct` says whether it holds just that path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def direct(self, name: str) -> bool:
        try:
            return (self.path / name).is_file()
        except (OSError, ValueError):  # a name that no file can have
            return False

    def paths(self) -> Iterator[str]:
        visited: set[str] = set()
        for folder, below, files in os.walk(self.path, followlinks=True):
            real = os.path.realpath(folder)
            if real in visited:  # a link back up would go round for ever
                below.clear()
                continue
            visited.add(real)
            below.sort()
            inside = Path(folder).relative_to(self.path)
            yield from ((inside / file).as_posix() for file in files)

    def size(self, path: str) -> int:
        return (self.path / path).stat().st_size

    def read(self, path: str) -> bytes:
        return load_bytes(self.path / path, "image_mb", ImageError)

    def opened(self, path: str) -> AbstractContextManager[IO[bytes]]:
        return opened(self.path / path, "image_mb", ImageError)


class ZipRoot:
    """A zip file. One handle for all threads, of which only opening a member is locked.

    A forked process opens it anew: with its parent it shares one place in the file, and possibly a locked lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()
        self._sizes = {info.filename: info.file_size for info in self._zip.infolist() if not info.is_dir()}

    def direct(self, name: str) -> bool:
        return name in self._sizes

    def paths(self) -> Iterator[str]:
        return iter(self._sizes)

    def size(self, path: str) -> int:
        return self._sizes[path]

    def _open(self) -> None:
        lock = threading.Lock()
        try:
            opened = zipfile.ZipFile(self.path)
        except Exception as error:  # a broken directory fails with any of a dozen errors
            raise ImageError(f"{self.path}: not a zip file that can be read ({error}); fetch it again") from None
        self._lock, self._zip, self._process = lock, opened, os.getpid()

    def read(self, path: str) -> bytes:
        with self.opened(path) as member:
            return member.read()

    @contextmanager
    def opened(self, path: str) -> Iterator[IO[bytes]]:
        """Open a member that is no larger than the limit. Raises ImageError."""
        check_size(self.size(path), f"{self.path}: {path}", "image_mb", ImageError)
        if self._process != os.getpid():
            self._open()
        with self._lock:
            member = self._zip.open(path)
        try:
            yield member
        finally:
            with self._lock:
                member.close()


Root = FolderRoot | ZipRoot


def choose(file: str, name: str, root: Root, paths: Sequence[str]) -> str:
    """Choose the path meant by `name`. Raises ImageError when different images of that name could be."""
    ends = [path for path in paths if f"/{path}".endswith(f"/{name}")] or list(paths)
    if len(ends) > 1 and (
        len({root.size(path) for path in ends}) > 1 or len({sha256(root.read(path)).digest() for path in ends}) > 1
    ):
        raise ImageError(
            f"{file}: {root.path} holds different files of that name ({', '.join(sorted(ends)[:3])}); "
            "name the folder that is meant"
        )
    return sorted(ends)[0]
