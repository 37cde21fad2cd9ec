"""Packed files of a finished run: a tenth of the JSON Lines that they give back byte for byte.

STEM.packed is two xz streams, one after the other: the text of STEM.jsonl with a zero byte in place of each number
with a point, and these numbers in millionths, four bytes each. (Digits are nearly random, and as text they take xz half
as many bits again.) run.json names each packed file with its SHA-256; a file that it does not name is not read.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import sys
from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.runs.record import RunRecord, read_record

PREDICTIONS, OUTCOMES, TIMES = STEMS = ("predictions", "outcomes", "batches")
# Numbers below 2,000 as `json` writes them; what is left out, -0.0 among them, stays in the text.
NUMBER = re.compile(rb"(?<![\d.+-])(?!-0\.0(?!\d))-?[01]?\d{1,3}\.\d{1,6}(?![\d.eE])")
TEXT = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
NUMBERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 2, "pb": 2}]  # of four bytes each


def packed_name(stem: str) -> str:
    """Return the name of a packed file."""
    return f"{stem}.packed"


def pack(text: bytes) -> bytes:
    """Pack the text of a file; the same text gives the same bytes."""
    packed = _compressed(NUMBER.sub(b"\0", text), map(float, NUMBER.findall(text)))
    try:
        exact = b"\0" not in text and unpack(packed) == text
    except ValueError:
        exact = False
    return packed if exact else _compressed(text, ())  # with numbers that are written in another way


def _compressed(text: bytes, numbers: Any) -> bytes:
    millionths = array("i", (round(number * 1e6) for number in numbers))
    if sys.byteorder == "big":
        millionths.byteswap()
    parts = ((text, TEXT), (millionths.tobytes(), NUMBERS))
    return b"".join(lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=how) for data, how in parts)


def unpack(packed: bytes, most: int = -1) -> bytes:
    """Return the text of a packed file. Raises ValueError where it is none, or larger than `most` bytes."""
    return join_parts(*_parts(packed, most))


def _parts(packed: bytes, most: int = -1) -> tuple[bytes, Sequence[int]]:
    """Return the two parts of a packed file: the text with zero bytes, and the numbers in millionths."""
    streams = []
    for _ in range(2):
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        try:
            streams.append(stream.decompress(packed, most))
        except (lzma.LZMAError, EOFError) as error:
            raise ValueError(f"not a packed file: {error}") from None
        if not stream.eof:
            raise ValueError("not a packed file: it is cut short, or larger than any")
        packed = stream.unused_data
    text, numbers = streams
    millionths = array("i")
    millionths.frombytes(numbers)
    if sys.byteorder == "big":
        millionths.byteswap()
    if millionths and (packed or text.count(b"\0") != len(millionths)):
        raise ValueError("not a packed file: its parts do not fit")
    return text, millionths


def join_parts(text: bytes, millionths: Sequence[int]) -> bytes:
    """Put the numbers back into a text of `stored_parts`."""
    if not millionths:
        return text
    numerals = [repr(value / 1e6).encode() for value in millionths]
    return b"".join(chain.from_iterable(zip(text.split(b"\0"), [*numerals, b""], strict=True)))


def stored_bytes(folder: Path, stem: str) -> bytes:
    """Return the text of a run's predictions, outcomes or batches, packed or not. Raises as `stored_parts` does."""
    return join_parts(*stored_parts(folder, stem))


def stored_parts(folder: Path, stem: str) -> tuple[bytes, Sequence[int]]:
    """Return a stored text with a zero byte in place of each number, and the numbers in millionths; a plain one whole.

    Raises FileNotFoundError where a run has neither, and RunError for a packed file that is not the one of run.json.
    """
    try:
        return _stored(folder, stem)
    except FileNotFoundError:  # a process may just have packed or unpacked it
        return _stored(folder, stem)


def _stored(folder: Path, stem: str) -> tuple[bytes, Sequence[int]]:
    record = _record(folder)
    path = folder / packed_name(stem)
    if record is None or path.name not in record.files:
        return (folder / f"{stem}.jsonl").read_bytes(), ()
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != record.files[path.name]:
        raise RunError(
            f"{path}: is not the file that this run wrote: its SHA-256 is not the one in run.json; restore the folder "
            "from where it came, or run it again with --fresh"
        )
    try:
        return _parts(packed)
    except ValueError as error:
        raise RunError(f"{path}: {error}") from None


def _record(folder: Path) -> RunRecord | None:
    try:
        return read_record(folder)
    except RunError:  # a folder in the making
        return None
