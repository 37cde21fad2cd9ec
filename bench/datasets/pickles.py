"""Pickles from strangers, read without executing anything: plain containers, and in index lists plain numeric arrays.

What may be in such a pickle is decided in `bench.datasets.unpickler`. torch is not needed: a torch-saved list is a zip
archive that holds `<name>/data.pkl`, or (legacy) four pickles in a row: magic number, protocol, system, object.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

from bench.datasets.unpickler import ARRAYS, PLAIN, Admitted, RefusedError, SafeUnpickler, scan
from bench.errors import DataError, UnsafePickle

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
MOST_BYTES = 4 << 30


def load_plain_pickle(path: Path) -> object:
    """The object in a Python 2 or 3 pickle that holds dicts, lists, tuples, sets, text, bytes, numbers, bools and None.

    Text that Python 2 stored as bytes comes back as latin-1 (see `as_text`). Raises UnsafePickle, naming the file and
    what it asked for, when it wants anything else, and DataError when the file is missing, empty, cut or no pickle.
    """
    return _load(_read(path), 0, path, PLAIN)[0]


def load_index_list(path: Path) -> list[tuple[object, ...]]:
    """The rows of a torch-saved list (zip or legacy format, or a bare pickle), read without torch (spec clipvg.md 3.1).

    Cells are plain values; arrays that numpy 1 or 2 pickled come back as arrays of plain numbers, its scalars as Python
    numbers. Raises UnsafePickle and DataError as `load_plain_pickle` does, and DataError when it holds no list of rows.
    """
    data = _read(path)
    if data[:4] == b"PK\x03\x04":
        data = _zipped(path)
    rows, end = _load(data, 0, path, ARRAYS)
    if rows == TORCH_MAGIC:
        for _ in ("protocol", "system", "object"):
            rows, end = _load(data, end, path, ARRAYS)
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, (list, tuple)) for row in rows):
        held = f"a {type(rows).__name__}" if not isinstance(rows, (list, tuple)) else "a list of something else"
        hint = f" with the keys {', '.join(map(str, list(rows)[:5]))}: a checkpoint?" if isinstance(rows, dict) else ""
        raise DataError(f"{path}: an index list should hold a list of rows, and this holds {held}{hint}")
    return [tuple(row) for row in rows]


def as_text(text: object) -> object:
    """Text that Python 2 stored as UTF-8 bytes and that was read as latin-1, mended; everything else as it is."""
    if isinstance(text, str) and not text.isascii():
        try:
            return text.encode("latin-1").decode()
        except UnicodeError:
            return text
    return text


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MOST_BYTES else b""
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if size > MOST_BYTES:
        raise DataError(f"{path}: {size / 2**30:.1f} GiB is too much for an annotation file (at most 4 GiB)")
    if not data:
        raise DataError(f"{path}: the file is empty; fetch it again")
    return data


def _zipped(path: Path) -> bytes:
    """The pickle in a torch zip archive; its members are stored as they are, so they are never larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith("/data.pkl") or m.filename == "data.pkl"]
            if len(members) != 1:
                raise DataError(f"{path}: a torch-saved archive has one data.pkl, this has {len(members)}")
            if members[0].file_size > path.stat().st_size:
                raise DataError(f"{path}: data.pkl claims {members[0].file_size:,} bytes, more than the whole file")
            return archive.read(members[0])
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise DataError(f"{path}: a broken or cut archive ({error}); fetch it again") from None


def _load(data: bytes, start: int, path: Path, admitted: Admitted) -> tuple[object, int]:
    """The object of the pickle at `start`, and where that pickle ends."""
    try:
        end = scan(data, start, admitted)
        return SafeUnpickler(data[start:end], admitted).load(), end
    except RefusedError as asked:
        raise UnsafePickle(
            f"{path}: this pickle asks for {asked}, and only plain containers are admitted; nothing in it was "
            "executed. Fetch it again from its authors or, if it is your own, write it as JSONL"
        ) from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except MemoryError:
        raise DataError(f"{path}: the pickle wants more memory than there is") from None
    except (pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as e:
        raise DataError(f"{path}: not a readable pickle ({e}); is it cut, or of another format?") from None
