"""Load pickles from strangers without executing anything: plain containers, in index lists plain numeric arrays too.

A pickle is a small program. Its opcodes are run by Python's own unpickler, less every opcode that names, builds or
extends a class; a global becomes one of the functions below, which check their arguments and build arrays of plain
numbers from bytes of exactly the right length. So neither object arrays nor sizes out of proportion get through.

torch is not needed: a torch-saved list is a zip archive that holds `<name>/data.pkl`, or (legacy) four pickles in a
row: magic number, protocol, system, object.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import DataError, UnsafePickle

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
MOST_BYTES = 4 << 30
MOST_ARRAY = 4096  # bytes: an index list's arrays are boxes
ADMITTED = (
    b"(.012NRbad}el])stu\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94JKMGhjqr\x80\x95TUX\x8c\x8dBC\x8e\x8a\x8bFILSVgpci"
)
NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
BROKEN = (EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)  # as stray bytes may raise

Globals = Mapping[str, Callable[..., object]]


def load_plain_pickle(path: Path) -> object:
    """Load a Python 2 or 3 pickle of dicts, lists, tuples, sets, text, bytes, numbers, bools and None.

    Text that Python 2 stored as bytes comes back as latin-1 (see `as_text`). Raises UnsafePickle, naming the file and
    what it calls for, when that is anything else, and DataError when the file is missing, empty, cut or no pickle.
    """
    return _load(io.BytesIO(_bytes_of(path)), path, PLAIN)


def load_index_list(path: Path) -> list[tuple[object, ...]]:
    """Load the rows of a torch-saved list (zip or legacy format, or a bare pickle).

    Cells are plain values; arrays that numpy 1 or 2 pickled come back as arrays of plain numbers, its scalars as Python
    numbers. Raises UnsafePickle and DataError as `load_plain_pickle` does, and DataError when it holds no list of rows.
    """
    data = _bytes_of(path)
    file = io.BytesIO(_zipped(path) if data[:4] == b"PK\x03\x04" else data)
    rows = _load(file, path, ARRAYS)
    if rows == TORCH_MAGIC:
        for _ in ("protocol", "system", "object"):
            rows = _load(file, path, ARRAYS)
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, (list, tuple)) for row in rows):
        kind = f"a {type(rows).__name__}" if not isinstance(rows, (list, tuple)) else "a list of something else"
        hint = f" with the keys {', '.join(map(str, list(rows)[:5]))}: a checkpoint?" if isinstance(rows, dict) else ""
        raise DataError(f"{path}: an index list should hold a list of rows, and this holds {kind}{hint}")
    return [tuple(row) for row in rows]


def as_text(text: object) -> object:
    """Mend text that Python 2 stored as UTF-8 bytes and that was loaded as latin-1; everything else stays."""
    if isinstance(text, str) and not text.isascii():
        try:
            return text.encode("latin-1").decode()
        except UnicodeError:
            return text
    return text


def _bytes_of(path: Path) -> bytes:
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
    """Return the pickle in a torch zip archive; members are stored as they are, so never larger than the file."""
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


def _load(file: io.BytesIO, path: Path, admitted: Globals) -> object:
    """Load the pickle that begins where `file` stands; afterwards it stands at the pickle's end."""
    try:
        return SafeUnpickler(file, admitted).load()
    except UnsafePickle as error:
        raise UnsafePickle(
            f"{path}: this pickle asks for {error}, and only plain containers are admitted; nothing in it was "
            "executed. Fetch it again from its authors or, if it is your own, write it as JSONL"
        ) from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except MemoryError:
        raise DataError(f"{path}: the pickle needs more memory than there is") from None
    except (pickle.UnpicklingError, struct.error, *BROKEN) as error:
        why = str(error) or "it ends before its STOP"
        raise DataError(f"{path}: not a readable pickle ({why}); is it cut, or of another format?") from None


class SafeUnpickler(pickle._Unpickler):
    """Python's unpickler without opcodes of classes; what it makes is no more than the file can hold."""

    stack: list[Any]
    readline: Callable[[], bytes]

    def __init__(self, file: io.BytesIO, admitted: Globals) -> None:
        super().__init__(file, encoding="latin1")
        self.admitted = admitted
        self.budget = len(file.getbuffer()) + (1 << 16)

    def find_class(self, module: str, name: str) -> Any:
        """Return the function that stands for a global. Raises UnsafePickle for any that is not admitted."""
        if f"{module}.{name}" not in self.admitted:
            raise UnsafePickle(f"{module}.{name}")
        return self.admitted[f"{module}.{name}"]

    def load_reduce(self) -> None:
        """Call a function of `admitted`, never anything else that lies on the stack."""
        args, function = self.stack.pop(), self.stack.pop()
        if not any(function is each for each in self.admitted.values()) or not isinstance(args, tuple):
            raise UnsafePickle(f"a call of {function!r:.80}")
        self.stack.append(made := function(*args))
        # One text, memoised once, could otherwise be copied a million times.
        self.budget -= len(made) if isinstance(made, (bytes, set, dict)) else 1
        if self.budget < 0:
            raise ValueError("it makes more than a file of its size can hold")

    def load_build(self) -> None:
        """Give an array or a dtype its state; nothing else has one."""
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, (_Dtype, _Array)):
            raise UnsafePickle(f"the state of a {type(made).__name__}")
        made.__setstate__(state)

    def load_inst(self) -> None:
        """Refuse an instance, by the name of its class."""
        raise UnsafePickle(".".join(self.readline()[:-1].decode("latin-1") for _ in range(2)))


def _refuse(code: int, _: SafeUnpickler) -> None:
    if code in b"PQ":
        raise DataError("it holds tensors; an index list holds rows of plain values")
    names = {op.code: op.name for op in pickletools.opcodes}
    if chr(code) not in names:
        raise ValueError(f"byte {code:#04x} is no opcode")
    raise UnsafePickle(f"the opcode {names[chr(code)]}")


# Opcode -> what runs it; every other one is refused by name.
OPCODES: dict[int, Callable[..., None]] = {
    **{code: partial(_refuse, code) for code in range(256)},
    **{code: pickle._Unpickler.dispatch[code] for code in ADMITTED},
    pickle.REDUCE[0]: SafeUnpickler.load_reduce,
    pickle.BUILD[0]: SafeUnpickler.load_build,
    pickle.INST[0]: SafeUnpickler.load_inst,
}
SafeUnpickler.dispatch = OPCODES


class _Dtype:
    """A dtype of plain numbers, as a pickle describes it: a name, then (in __setstate__) a byte order."""

    __slots__ = ("numbers",)

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or name not in NUMBERS:
            raise UnsafePickle(f"an array of dtype {name!r}")
        self.numbers = np.dtype(name)

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
                self.numbers = self.numbers.newbyteorder(order)
            case _:
                raise UnsafePickle(f"a dtype of state {state!r:.80}")


class _Array(np.ndarray[tuple[int, ...], np.dtype[np.generic]]):
    """An array of plain numbers that is filled from bytes of exactly the length its shape calls for."""

    def __setstate__(self, state: object) -> None:
        match state:
            case (int() as version, tuple() as shape, _Dtype() as dtype, int() as fortran, bytes() | str() as raw):
                raw = raw.encode("latin-1") if isinstance(raw, str) else raw
                if not all(isinstance(n, int) and n >= 0 for n in shape) or len(shape) > 8:
                    raise ValueError(f"an array of shape {shape!r:.80}")
                if math.prod(shape) * dtype.numbers.itemsize != len(raw) or len(raw) > MOST_ARRAY:
                    raise ValueError(f"an array of shape {shape!r:.80} made of {len(raw):,} bytes")
                super().__setstate__((version, shape, dtype.numbers, bool(fortran), raw))  # type: ignore[arg-type]
            case _:
                raise UnsafePickle("an array that is not made of plain numbers")


def _array(kind: object, shape: object, code: object) -> _Array:
    if kind is not _ndarray:
        raise UnsafePickle("an array of another class")
    return np.ndarray.__new__(_Array, (0,))


def _ndarray(*_: object) -> object:
    raise UnsafePickle("an array without bytes")


def _dtype(name: object, *_: object) -> _Dtype:
    return _Dtype(name)


def _scalar(dtype: object, raw: object = b"") -> object:
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or len(raw) != dtype.numbers.itemsize:
        raise UnsafePickle("a scalar that is no plain number")
    return np.frombuffer(raw, dtype.numbers)[0].item()


def _encode(text: object, encoding: object = None) -> bytes:
    """`_codecs.encode(text, "latin1")` is how protocols up to 2 write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafePickle(f"the codec {encoding!r:.40}")
    return text.encode("latin-1")


def _no_bytes(*args: object) -> bytes:
    if args:
        raise UnsafePickle("bytes(...)")
    return b""


def _of_list(kind: type[set[object] | dict[object, object]]) -> Callable[..., object]:
    def make(items: object = ()) -> object:
        if not isinstance(items, (list, tuple)):
            raise UnsafePickle(f"{kind.__name__}(...) of something else than a list")
        return kind(items)

    return make


PLAIN: Globals = {
    "_codecs.encode": _encode,
    "collections.OrderedDict": _of_list(dict),
    **{f"{module}.{name}": call for module in ("builtins", "__builtin__")
       for name, call in (("set", _of_list(set)), ("frozenset", _of_list(set)), ("bytes", _no_bytes))},
}  # fmt: skip
ARRAYS: Globals = {
    **PLAIN,
    "numpy.ndarray": _ndarray,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}
