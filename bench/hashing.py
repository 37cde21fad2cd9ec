"""Weights files: the path that a name means, and the hash that a run's record has of them."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, WeightsError
from bench.runs.files import make_folder, write_atomically

if TYPE_CHECKING:
    from bench.grounding import PipelineContext
    from bench.settings import Resolved

    Places = PipelineContext | Resolved


def places_of(name: str, where: Places) -> tuple[Path, Path, Path]:
    """List every path that `name` may mean: as it is, from bench.toml's folder, from BENCH_HOME/weights."""
    return Path(name).expanduser(), where.folder / name, where.home / "weights" / name


def find_file(name: str, where: Places) -> Path | None:
    """Find the file that `name` means; None where it is in none of its places."""
    return next((place.resolve() for place in places_of(name, where) if place.is_file()), None)


def sha256_file(path: Path, home: Path | None = None) -> str:
    """Hash a file; kept while path, size and time of change stay, on disk under `home` too, where it is given.

    Raises WeightsError for a file that cannot be read.
    """
    try:
        state, path = path.stat(), path.resolve()
        key = (path, state.st_size, state.st_mtime_ns)
        return _sha256(*key) if home is None else _memoised(home, *key)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _memoised(home: Path, path: Path, size: int, changed_ns: int) -> str:
    key = hashlib.sha256(f"{path}|{size}|{changed_ns}".encode()).hexdigest()
    memo = home / "hashes" / key[:32]
    if memo.is_file() and re.fullmatch("[0-9a-f]{64}", known := memo.read_text(encoding="ascii", errors="replace")):
        return known
    digest = _sha256(path, size, changed_ns)
    try:
        make_folder(memo.parent)
        write_atomically(memo, digest.encode())
    except BenchError:  # a home that is read-only costs only time
        pass
    return digest
