"""Load pickles from strangers without executing anything: plain containers, in index lists plain numeric arrays too.

torch is not needed: a torch-saved list is a zip archive that holds `<name>/data.pkl`, or (legacy) four pickles in a
row: magic number, protocol, system, object. Files with tensors are torch_files.py's.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from bench.datasets.unpickler import ARRAYS, PLAIN, Globals, SafeUnpickler
from bench.errors import DataError, UnsafePickle, first_line, short
from bench.inputs import load_bytes

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
ZIP = b"PK\x03\x04"
MOST_COLUMNS = 16


def load_plain_pickle(path: Path) -> object:
    """Load a Python 2 or 3 pickle of dicts, lists, tuples, sets, text, bytes, numbers, bools and None.

    Text that Python 2 stored as bytes comes back as latin-1 (see `as_text`). Raises UnsafePickle, naming the file and
    what it calls for, when that is anything else, and DataError when the file is missing, empty, cut or no pickle.
    """
    return _load(load_bytes(path), path, PLAIN)[0]


def load_index_list(path: Path) -> list[tuple[object, ...]]:
    """Load the rows of a torch-saved list (zip or legacy format, or a bare pickle).

    Cells are plain values; arrays that numpy 1 or 2 pickled come back as arrays of plain numbers, its scalars as Python
    numbers. Raises UnsafePickle and DataError as `load_plain_pickle` does, and DataError when it holds no list of rows.
    """
    data = load_bytes(path)
    if data.startswith(ZIP):
        with explained(path):
            data = pickle_of(io.BytesIO(data), len(data))
    rows, *more = _load(data, path, ARRAYS)
    rows = more[2] if more else rows
    if not isinstance(rows, (list, tuple)):
        hint = f" with the keys {short(list(rows)[:5])}: a checkpoint?" if isinstance(rows, dict) else ""
        kind = f"a {type(rows).__name__}{hint}"
    elif not all(isinstance(row, (list, tuple)) for row in rows):
        kind = "a list of something else"
    elif any(len(row) > MOST_COLUMNS for row in rows):
        kind = f"rows of more than {MOST_COLUMNS} columns"
    else:
        return [tuple(row) for row in rows]
    raise DataError(f"{path}: an index list should hold a list of rows, and this holds {kind}")


def as_text(text: object) -> object:
    """Mend text that Python 2 stored as UTF-8 bytes and that was loaded as latin-1; everything else stays."""
    if isinstance(text, str) and not text.isascii():
        try:
            return text.encode("latin-1").decode()
        except UnicodeError:
            return text
    return text


def pickle_of(file: BinaryIO, size: int) -> bytes:
    """Return the pickle in a torch zip archive; members are stored as they are, so never larger than the file."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if m.filename.rpartition("/")[2] == "data.pkl"]
            if len(members) != 1:
                raise DataError(f"a torch-saved archive has one data.pkl, this has {len(members)}")
            if sum(member.file_size for member in archive.infolist()) > size:
                raise DataError("its members claim more bytes than the whole file has")
            return archive.read(members[0])
    except DataError:
        raise
    except Exception as error:  # a broken member fails with any of a dozen errors
        raise DataError(f"a broken or cut archive ({first_line(error)}); fetch it again") from None


def _load(data: bytes, path: Path, admitted: Globals) -> list[Any]:
    """Load the pickle in `data`, and where that is torch's magic number the three after it."""
    file = io.BytesIO(data)
    with explained(path):
        objects = [SafeUnpickler(file, len(data), admitted).load()]
        if admitted is ARRAYS and type(objects[0]) is int and objects[0] == TORCH_MAGIC:
            objects += [SafeUnpickler(file, len(data), admitted).load() for _ in ("protocol", "system", "object")]
    return objects


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever a pickle makes an unpickler raise into UnsafePickle or DataError, naming the file."""
    try:
        yield
    except UnsafePickle as error:
        raise UnsafePickle(
            f"{path}: this pickle asks for {error!s:.200}, and only plain containers are admitted; nothing in it was "
            "executed. Fetch it again from its authors or, if it is your own, write it as JSONL"
        ) from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except MemoryError:
        raise DataError(f"{path}: the pickle needs more memory than there is") from None
    except Exception as error:  # stray bytes are opcodes too
        why = str(error) or "it ends before its STOP"
        raise DataError(f"{path}: not a readable pickle ({why:.200}); is it cut, or of another format?") from None
