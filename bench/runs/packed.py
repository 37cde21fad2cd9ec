"""Packed files of a finished run: a tenth of the JSON Lines that they give back byte for byte.

STEM.packed is two xz streams, one after the other: the text of STEM.jsonl with a zero byte in place of each number
with a point, and these numbers in millionths, four bytes each. (Digits are nearly random, and as text they take xz half
as many bits again.) run.json names each packed file with its SHA-256; a file that it does not name is not read.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.runs.record import RunRecord, read_record

PREDICTIONS, OUTCOMES, TIMES = STEMS = ("predictions", "outcomes", "batches")
# Numbers below 2,000 that `json` writes in just this way. What is left out stays in the text: -0.0, 5e-05, 0.50.
NUMBER = re.compile(rb"([\[,: ])(?!-0\.0[],}])(-?(?:0\.(?!0000)|[1-9]\d{0,2}\.|1\d{3}\.)(?:0|\d{0,5}[1-9]))(?=[],}])")
PLACE = b"Infinity"
CHUNK = 1 << 20  # bytes of text that are searched at once
TEXT, LONG_TEXT = ([{"id": lzma.FILTER_LZMA2, "preset": preset}] for preset in (6, 2))
LONG = 1 << 20  # bytes from which preset 6 would take ten times as long, for files smaller by a twentieth
NUMBERS: list[dict[str, int]] = [
    {"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 2, "pb": 2}
]  # of four bytes each
# Matches are rare in digits, and looking for few of them costs a fiftieth in size and saves three quarters of the time.
SEARCH = {"mode": lzma.MODE_FAST, "mf": lzma.MF_HC3, "nice_len": 4, "depth": 1, "dict_size": 1 << 16}
LONG_NUMBERS = [{**NUMBERS[0], **SEARCH}]


def packed_name(stem: str) -> str:
    """Return the name of a packed file."""
    return f"{stem}.packed"


def pack(text: bytes) -> bytes:
    """Pack the text of a file; the same text gives the same bytes."""
    without, millionths = io.BytesIO(), array("i")
    start = len(text) if b"\0" in text else 0  # such a text is left as it is
    while start < len(text):
        end = text.find(b"\n", start + CHUNK) + 1 or len(text)
        parts = NUMBER.split(text[start:end])  # text, the mark before a number, the number, text, ...
        millionths.extend([round(float(number) * 1e6) for number in parts[2::3]])
        del parts[2::3]
        parts[1::2] = [mark + b"\0" for mark in parts[1::2]]
        without.write(b"".join(parts))
        start = end
    text = without.getvalue() or text
    if sys.byteorder == "big":
        millionths.byteswap()
    numbers = millionths.tobytes()
    streams = (
        (text, LONG_TEXT if len(text) > LONG else TEXT),
        (numbers, LONG_NUMBERS if len(numbers) > LONG else NUMBERS),
    )
    return b"".join(lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=how) for data, how in streams)


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


def json_lines(text: bytes, millionths: Sequence[int]) -> tuple[Iterable[bytes], Callable[[bytes], Any]]:
    """Return the lines of a text of `stored_parts`, and what parses them if it is given each in turn.

    A packed number is not written out to be parsed again: the parser takes it in place of a word that JSON has.
    """
    if not millionths or PLACE in text:
        return io.BytesIO(join_parts(text, millionths)), json.loads
    stack: list[float] = []
    decode = json.JSONDecoder(parse_constant=partial(next, iter(stack.pop, None))).decode
    done = 0

    def loads(line: bytes) -> Any:
        nonlocal done
        own = millionths[done : done + line.count(b"\0")]
        done += len(own)
        stack[:] = [value / 1e6 for value in reversed(own)]
        value = decode(line.replace(b"\0", PLACE).decode())
        return json.loads(join_parts(line, own)) if stack else value  # one stands within a string

    return io.BytesIO(text), loads


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
