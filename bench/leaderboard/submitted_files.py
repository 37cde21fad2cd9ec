"""Copy the files of somebody else's run without trusting them: two regular files of a folder, of a bounded size.

Nothing but run.json and predictions.packed, or else predictions.jsonl, is ever opened, by its name in the folder
itself: a link, a pipe or a device in their place is refused, whatever it leads to, and what else lies there is not
looked at.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.runs.files import explained, write_atomically
from bench.runs.packed import packed_name, unpack
from bench.runs.predictions import SceneAnswers, read_lines
from bench.runs.record import RECORD, read_record
from bench.runs.store import ANSWERS

MB = 2**20
PREDICTIONS, PACKED = f"{ANSWERS}.jsonl", packed_name(ANSWERS)
MOST = {RECORD: 4 * MB, PREDICTIONS: 512 * MB, PACKED: 512 * MB}
LONGEST = 1000  # characters of an id or a note


def copy_in(folder: Path, here: Path) -> dict[str, str]:
    """Copy run.json and the predictions from `folder` into `here`, where they are unpacked; returns file -> sha256.

    Raises RunError for the first that is not a regular file of a size that a run has.
    """
    digests = {}
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RunError(f"{folder}: cannot be read ({error.strerror}); give the folder of a run") from None
    try:
        for name in (RECORD, PACKED if os.path.lexists(folder / PACKED) else PREDICTIONS):
            digests[name] = _copy(directory, folder, name, here / name, MOST[name])
    finally:
        os.close(directory)
    if PACKED in digests:
        _unpack(here, digests)
    return digests


def _unpack(here: Path, digests: dict[str, str]) -> None:
    """Write predictions.jsonl of the packed file, add its hash, and bring run.json to it."""
    record = read_record(here)
    if record.files.get(PACKED) != digests[PACKED]:
        raise RunError(f"{PACKED}: its SHA-256 is not the one in {RECORD}; hand in the run's own files")
    try:
        text = unpack((here / PACKED).read_bytes(), MOST[PREDICTIONS])
    except ValueError as error:
        raise RunError(f"{PACKED}: {error}") from None
    digests[PREDICTIONS] = hashlib.sha256(text).hexdigest()
    write_atomically(here / PREDICTIONS, text)
    (here / PACKED).unlink()


def _copy(directory: int, folder: Path, name: str, to: Path, most: int) -> str:
    # O_NOFOLLOW: a link is not opened. O_NONBLOCK: a pipe is opened at once instead of for ever, and then refused.
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError as error:
        why = "is a link, or cannot be opened" if os.path.lexists(folder / name) else "is not there"
        raise RunError(f"{folder}: {name} {why} ({error.strerror}); hand in the run's own files") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RunError(f"{folder}: {name} is no regular file; hand in the run's own files")
    digest, size = hashlib.sha256(), 0
    with explained(to), os.fdopen(handle, "rb") as source, to.open("wb") as out:
        while chunk := source.read(MB):
            size += len(chunk)
            if size > most:
                raise RunError(f"{folder}: {name} is larger than {most // MB} MB, which no run needs")
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def read_answers(path: Path) -> list[SceneAnswers]:
    """Read every line of a submitted predictions.jsonl.

    Raises RunError for the first one that is not as we write them: torn, of other types, with numbers that are not
    finite, or with a text longer than any.
    """
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                raise RunError(f"{path.name}: its last line is cut short; the run's file is not whole")
    rows = []
    try:
        for number, row in enumerate(read_lines(path), 1):
            if reason := next(_faults(row), None):
                raise RunError(f"{path.name}, line {number}: {reason}")
            rows.append(row)
    except UnicodeDecodeError as error:
        raise RunError(f"{path.name}: not UTF-8 ({error.reason})") from None
    return rows


def _faults(row: Any) -> Iterator[str]:
    """List wrong types in a row of `SceneAnswers`, whose reader only checks its shape."""
    names = [row.scene, *(answer.id for answer in row.answers)]
    if not all(isinstance(name, str) and 0 < len(name) <= LONGEST for name in names):
        yield "a scene or an expression has an id that is no text"
    if row.error is not None and not isinstance(row.error, str):
        yield "the error is no text"
    for answer in row.answers:
        if not (isinstance(answer.note, str) and len(answer.note) <= LONGEST):
            yield f"the note on {answer.id!r} is no text, or a very long one"
        if answer.score is not None and not _finite([answer.score]):
            yield f"the score of {answer.id!r} is no finite number"
        if answer.box is not None and not _finite(answer.box):
            yield f"the box of {answer.id!r} is not four finite numbers"
    if row.size is not None and min(row.size) <= 0:
        yield "the image's size is not positive"


def _finite(values: Sequence[Any]) -> bool:
    try:
        return all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    except OverflowError:  # a whole number of hundreds of digits
        return False
