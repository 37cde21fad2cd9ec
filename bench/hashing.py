"""The hash of a file: what a run's record says about the weights behind it."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from bench.errors import WeightsError


def sha256_file(path: Path) -> str:
    """sha256 of a file, read in pieces, remembered while size and time of change stay. Raises WeightsError."""
    try:
        state = path.stat()
        return _sha256(path.resolve(), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
