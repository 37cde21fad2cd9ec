"""The opcodes and stand-ins of a pickle that may be run: see `bench.datasets.pickles` for who uses them and why.

A pickle is a small program. Before it runs, `scan` walks over its opcodes and refuses every one that names, builds or
extends a class; what is left can only reach the stand-ins below, since `find_class` never returns a type or a real
function. They check their arguments and build arrays of plain numbers from bytes of exactly the right length, so
neither object arrays nor sizes out of proportion to the file get through.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Mapping

import numpy as np

from bench.errors import DataError

Admitted = Mapping[str, Callable[..., object]]
NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}

# How the argument of each admitted opcode is laid out; what is not here is refused.
BARE = b"(.012NRbad}el])stu\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94"
FIXED = {b"J": 4, b"K": 1, b"M": 2, b"G": 8, b"h": 1, b"j": 4, b"q": 1, b"r": 4, b"\x80": 1, b"\x95": 8}
COUNTED = {
    b"T": 4, b"U": 1, b"X": 4, b"\x8c": 1, b"\x8d": 8, b"B": 4, b"C": 1, b"\x8e": 8, b"\x8a": 1, b"\x8b": 4,
}  # fmt: skip
LINES = {b"F": 1, b"I": 1, b"L": 1, b"S": 1, b"V": 1, b"g": 1, b"p": 1, b"c": 2}
LAYOUT: dict[int, tuple[str, int]] = {
    **dict.fromkeys(BARE, ("fixed", 0)),
    **{code[0]: ("fixed", size) for code, size in FIXED.items()},
    **{code[0]: ("counted", size) for code, size in COUNTED.items()},
    **{code[0]: ("lines", count) for code, count in LINES.items()},
}
PERSISTENT = b"PQ"
MOST_ARRAY = 4096  # bytes: an index list's arrays are boxes
SPARE_MEMO = 1 << 16  # a memo index may run this far ahead of the memo: the unpickler makes room for every index below


class RefusedError(Exception):
    """A pickle asked for more than its stand-ins give; the message says for what."""


class _StandIn:
    """The only kind of thing `find_class` returns: no type, no attributes that a pickle could write."""

    __slots__ = ("call", "spend")
    call: Callable[..., object]
    spend: Callable[[object], None]

    def __init__(self, call: Callable[..., object], spend: Callable[[object], None]) -> None:
        object.__setattr__(self, "call", call)
        object.__setattr__(self, "spend", spend)

    def __call__(self, *args: object) -> object:
        made = self.call(*args)
        self.spend(made)
        return made

    def __setattr__(self, name: str, value: object) -> None:
        raise RefusedError(f"the attribute {name} of a function")


class SafeUnpickler(pickle.Unpickler):
    """Loads a pickle that `scan` has passed; globals become stand-ins, which make no more than it can hold."""

    def __init__(self, data: bytes, admitted: Admitted) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.admitted = admitted
        self.budget = len(data) + (1 << 16)

    def find_class(self, module: str, name: str) -> object:
        if (asked := f"{module}.{name}") not in self.admitted:
            raise RefusedError(asked)
        return _StandIn(self.admitted[asked], self.spend)

    def spend(self, made: object) -> None:
        """Counts what stand-ins make: one text, memoised once, could otherwise be copied a million times."""
        self.budget -= len(made) if isinstance(made, (bytes, set, dict)) else 1
        if self.budget < 0:
            raise ValueError("it makes more than a file of its size can hold")

    def persistent_load(self, pid: object) -> object:
        raise RefusedError("a tensor")


def scan(data: bytes, start: int, admitted: Admitted) -> int:
    """Walks over the opcodes from `start` to STOP without running them; the end of the pickle.

    Raises RefusedError at an opcode or a global that is not admitted, DataError at a tensor, and ValueError where the
    pickle runs past the data.
    """
    at, memo, size = start, 0, len(data)
    while at < size:
        code = data[at]
        if code not in LAYOUT:
            _refuse(data, at)
        kind, n = LAYOUT[code]
        at += 1
        if kind == "fixed":
            if code in b"qr\x94":  # BINPUT, LONG_BINPUT, MEMOIZE
                memo += 1
                if code == 0x72:
                    _check_memo(int.from_bytes(data[at : at + 4], "little"), memo)
            at += n
        elif kind == "counted":
            at += n + int.from_bytes(data[at : at + n], "little")
        else:
            line = at
            for _ in range(n):
                at = data.index(b"\n", at) + 1
            if code == 0x63 and (name := _dotted(data[line:at])) not in admitted:  # GLOBAL
                raise RefusedError(name)
            if code == 0x70:  # PUT
                memo += 1
                _check_memo(int(data[line:at]), memo)
        if code == 0x2E and at <= size:  # STOP
            return at
    raise ValueError("it ends before its STOP")


def _refuse(data: bytes, at: int) -> None:
    if data[at] in PERSISTENT:
        raise DataError("it holds tensors; an index list holds rows of plain values")
    op = {op.code: op.name for op in pickletools.opcodes}.get(chr(data[at]))
    if op is None:
        raise ValueError(f"byte {data[at]:#04x} at {at:,} is no opcode")
    if op == "INST":
        raise RefusedError(_dotted(b"\n".join(data[at + 1 : at + 300].split(b"\n")[:2])))
    raise RefusedError(f"the opcode {op}")


def _check_memo(index: int, used: int) -> None:
    if index > used + SPARE_MEMO:
        raise ValueError(f"memo index {index:,} after {used:,} entries")


def _dotted(lines: bytes) -> str:
    return ".".join(lines.decode("latin-1").strip().split("\n"))


class _Dtype:
    """A dtype of plain numbers, as a pickle describes it: a name, then (in __setstate__) a byte order."""

    __slots__ = ("numbers",)

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or name not in NUMBERS:
            raise RefusedError(f"an array of dtype {name!r}")
        self.numbers = np.dtype(name)

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
                self.numbers = self.numbers.newbyteorder(order)
            case _:
                raise RefusedError(f"a dtype of state {state!r:.80}")


class _Array(np.ndarray[tuple[int, ...], np.dtype[np.generic]]):
    """An array of plain numbers that is filled from bytes of exactly the length its shape calls for."""

    def __setstate__(self, state: object) -> None:
        match state:
            case (
                int() as version,
                tuple() as shape,
                _Dtype() as dtype,
                bool() | int() as fortran,
                bytes() | str() as raw,
            ):
                raw = raw.encode("latin-1") if isinstance(raw, str) else raw
                if not all(isinstance(n, int) and n >= 0 for n in shape) or len(shape) > 8:
                    raise ValueError(f"an array of shape {shape!r:.80}")
                if math.prod(shape) * dtype.numbers.itemsize != len(raw) or len(raw) > MOST_ARRAY:
                    raise ValueError(f"an array of shape {shape!r:.80} made of {len(raw):,} bytes")
                super().__setstate__((version, shape, dtype.numbers, bool(fortran), raw))  # type: ignore[arg-type]
            case _:
                raise RefusedError("an array that is not made of plain numbers")


def _array(kind: object, shape: object, code: object) -> _Array:
    if not isinstance(kind, _StandIn) or kind.call is not _ndarray:
        raise RefusedError("an array of another class")
    return np.ndarray.__new__(_Array, (0,))


def _ndarray(*_: object) -> object:
    raise RefusedError("an array without bytes")


def _scalar(dtype: object, raw: object = b"") -> object:
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or len(raw) != dtype.numbers.itemsize:
        raise RefusedError("a scalar that is no plain number")
    return np.frombuffer(raw, dtype.numbers)[0].item()


def _encode(text: object, encoding: object = None) -> bytes:
    """`_codecs.encode(text, "latin1")` is how protocols up to 2 write bytes."""
    if not isinstance(text, str) or encoding not in {"latin1", "latin-1"}:
        raise RefusedError(f"the codec {encoding!r:.40}")
    return text.encode("latin-1")


def _no_bytes(*args: object) -> bytes:
    if args:
        raise RefusedError("bytes(...)")
    return b""


def _set(items: object = ()) -> set[object]:
    if not isinstance(items, (list, tuple)):
        raise RefusedError("set(...) of something else than a list")
    return set(items)


def _ordered(pairs: object = ()) -> dict[object, object]:
    if not isinstance(pairs, (list, tuple)):
        raise RefusedError("OrderedDict(...) of something else than pairs")
    return dict(pairs)


PLAIN: Admitted = {
    "_codecs.encode": _encode,
    "collections.OrderedDict": _ordered,
    **{f"{module}.{name}": call for module in ("builtins", "__builtin__")
       for name, call in (("set", _set), ("frozenset", _set), ("bytes", _no_bytes))},
}  # fmt: skip
ARRAYS: Admitted = {
    **PLAIN,
    "numpy.ndarray": _ndarray,
    "numpy.dtype": lambda name, *_: _Dtype(name),
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}
