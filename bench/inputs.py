"""Files of the user: opened only where they are files, and only up to the limits in force.

`[limits]` of bench.toml holds the limits; loading the settings puts them in force for the whole process.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, Field

from bench.errors import BenchError, DataError

MB = 2**20


class Limits(BaseModel):
    """[limits]: what a file may cost; each message about a limit names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_mb: int = Field(4096, ge=1, description="a file of annotations, predictions or settings, in MiB")
    weights_mb: int = Field(65536, ge=1, description="a file of weights, in MiB")
    image_mb: int = Field(256, ge=1, description="an image as it is stored, in MiB")
    image_mpixels: int = Field(80, ge=1, description="an image, in millions of pixels")
    decoded_mb: int = Field(1024, ge=1, description="images decoded at a time, in MiB; a larger one is decoded alone")


Sized = Literal["file_mb", "weights_mb", "image_mb"]
_in_force = [Limits()]


def limits() -> Limits:
    """Return the limits in force."""
    return _in_force[-1]


def enforce(new: Limits) -> None:
    """Put limits in force for this process."""
    _in_force[-1] = new


def check_size(size: int, what: object, limit: Sized = "file_mb", error: type[BenchError] = DataError) -> None:
    """Raise `error` where a file of `size` bytes is larger than its limit, which the message names."""
    most = getattr(limits(), limit)
    if size > most * MB:
        raise error(f"{what}: {size / MB:,.0f} MiB are more than the limit of {most:,} MiB; [limits] {limit} raises it")


def check_file(path: Path, limit: Sized = "file_mb", error: type[BenchError] = DataError) -> int:
    """Return the size of a file that may be opened, in bytes.

    Raises `error` when it is missing, no regular file (opening a pipe would wait for ever, a device has no end) or
    larger than `limit`.
    """
    try:
        state = path.stat()
    except OSError as why:
        raise error(f"{path}: cannot be read ({why.strerror})") from None
    except ValueError:  # a NUL, or half a surrogate
        raise error(f"{str(path)!r}: no file can have this name") from None
    if not stat.S_ISREG(state.st_mode):
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a pipe or a device, and not a file"
        raise error(f"{path}: cannot be read (it is {kind})")
    check_size(state.st_size, path, limit, error)
    return state.st_size


@contextmanager
def opened(path: Path, limit: Sized = "file_mb", error: type[BenchError] = DataError) -> Iterator[BinaryIO]:
    """Open a user's file for reading, as `check_file` allows; a file that cannot be read raises `error` too."""
    check_file(path, limit, error)
    try:
        with path.open("rb") as file:
            yield file
    except OSError as why:
        raise error(f"{path}: cannot be read ({why.strerror or why})") from None


def load_bytes(path: Path, limit: Sized = "file_mb", error: type[BenchError] = DataError) -> bytes:
    """Load a user's file whole; raises as `opened`, and `error` where the file is empty."""
    with opened(path, limit, error) as file:
        data = file.read(os.fstat(file.fileno()).st_size)  # no more than was checked, should it grow
    if not data:
        raise error(f"{path}: the file is empty (0 bytes); fetch or write it again")
    return data


def load_text(path: Path, limit: Sized = "file_mb", error: type[BenchError] = DataError) -> str:
    """Load a user's text file, UTF-8 with or without a byte order mark; raises as `load_bytes`."""
    try:
        return load_bytes(path, limit, error).decode("utf-8-sig")
    except UnicodeDecodeError as why:
        raise error(f"{path}: not UTF-8 text ({why.reason} at byte {why.start})") from None


def load_json(path: Path, limit: Sized = "file_mb", error: type[BenchError] = DataError) -> Any:
    """Load a user's JSON file; raises as `load_bytes` and `parsed_json`."""
    return parsed_json(load_bytes(path, limit, error).removeprefix(b"\xef\xbb\xbf"), str(path), error)


def parsed_json(data: bytes | str, where: str, error: type[BenchError] = DataError, **options: Any) -> Any:
    """Parse JSON in UTF-8; `options` are those of json.loads. Raises `error`, which begins with `where`.

    Half a character (a lone surrogate), which no file could hold, is refused wherever it stands.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        value = json.loads(text, **options)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as why:
        what = str(why)
        if isinstance(why, (UnicodeEncodeError, RecursionError)):
            what = "nested too deeply" if isinstance(why, RecursionError) else "half a character, a lone surrogate"
        raise error(f"{where}: not JSON in UTF-8 ({what:.200}); is it cut, or another file?") from None
    return value


def as_utf8(path: object) -> str:
    """Write a path or an argument as text that a UTF-8 file takes: a byte that is no UTF-8 becomes \\xe9."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is a number that a float can be made of; NaN and infinity are, True is not."""
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 1024
    )
