"""The machine that runs a stranger's pickle: Python's own, less every opcode that names, builds or extends a class.

A global becomes one of the functions below, which check their arguments and build arrays of plain numbers from bytes of
exactly the right length. Time and memory are in proportion to the file: what an opcode makes is paid from a budget, and
a key is text, bytes or a number, for hashing a tuple of shared tuples takes exponential time.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from bench.errors import DataError, UnsafePickle, short

MOST_ARRAY = 4096  # bytes: an index list's arrays are boxes
# Bytes of memory that a byte of the file may cost, and the price of each thing: what Python's objects take, or what is
# made of them later. Index lists cost 12 to 25.
BUDGET = 48
CONTAINER, MEMO, CALL, FETCHED = 80, 100, 200, 500
LONG_TEXT = 256
ADMITTED = (
    b"(.012NRbad}el])stu\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94JKMGhjqr\x80\x95TUX\x8c\x8dBC\x8e\x8a\x8bFILSVgpci"
)
NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
Opcode = Callable[..., None]
Globals = Mapping[str, Callable[..., object]]


class SafeUnpickler(pickle._Unpickler):
    """Python's unpickler without opcodes of classes; what it makes is no more than the file can hold."""

    stack: list[Any]
    readline: Callable[[], bytes]

    def __init__(self, file: BinaryIO, size: int, admitted: Globals) -> None:
        super().__init__(file, encoding="latin1")
        self.admitted = admitted
        self.size = size
        self.budget = BUDGET * size + (1 << 20)

    def spend(self, cost: int) -> None:
        """Pay for what an opcode makes. Raises ValueError when the budget is spent."""
        self.budget -= cost
        if self.budget < 0:
            raise ValueError("it makes more than a file of its size can hold")

    def find_class(self, module: str, name: str) -> Any:
        """Return the function that stands for a global. Raises UnsafePickle for any that is not admitted."""
        if f"{module}.{name}" not in self.admitted:
            raise UnsafePickle(f"{module}.{name}")
        return self.admitted[f"{module}.{name}"]

    def load_reduce(self) -> None:
        """Call a function of `admitted`, never anything else that lies on the stack."""
        args, function = self.stack.pop(), self.stack.pop()
        if not any(function is each for each in self.admitted.values()) or not isinstance(args, tuple):
            raise UnsafePickle(f"a call of {short(function)}")
        self.stack.append(made := function(*args))
        # One text, memoised once, could otherwise be copied a million times.
        self.spend(CALL + (CONTAINER * len(made) if isinstance(made, (bytes, set, dict)) else 0))

    def load_build(self) -> None:
        """Give an array or a dtype its state; nothing else has one."""
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, (_Dtype, _Array)):
            raise UnsafePickle(f"the state of a {type(made).__name__}")
        made.__setstate__(state)

    def load_inst(self) -> None:
        """Refuse an instance, by the name of its class."""
        raise UnsafePickle(".".join(self.readline()[:-1].decode("latin-1") for _ in range(2)))


def checked_keys(keys: Iterable[object]) -> None:
    """Raise DataError for a key of a dict, or a member of a set, whose hash takes time: a container, a huge number."""
    for key in keys:
        if not isinstance(key, (str, bytes, float, type(None))) and not (
            isinstance(key, int) and key.bit_length() < 65
        ):
            raise DataError(f"a key should be text or a number, not {short(key)}")


def _keyed(code: int, keys: Callable[[list[Any]], Iterable[object]]) -> Opcode:
    """Run an opcode that hashes, once the keys on its stack are checked."""
    base: Opcode = pickle._Unpickler.dispatch[code]

    def run(machine: SafeUnpickler) -> None:
        checked_keys(keys(machine.stack))
        base(machine)

    return run


def _paid(code: int, cost: int) -> Opcode:
    """Run an opcode that makes or memoises an object, once it is paid."""
    base: Opcode = pickle._Unpickler.dispatch[code]

    def run(machine: SafeUnpickler) -> None:
        machine.spend(cost)
        base(machine)

    return run


def _fetched(code: int) -> Opcode:
    """Fetch from the memo; what is large is paid again, for a row of two bytes is a row all the same."""
    base: Opcode = pickle._Unpickler.dispatch[code]

    def run(machine: SafeUnpickler) -> None:
        base(machine)
        top = machine.stack[-1]
        if isinstance(top, (str, bytes)):
            machine.spend(len(top) if len(top) > LONG_TEXT else 0)
        elif isinstance(top, (list, tuple, dict, set, np.ndarray)):
            machine.spend(FETCHED)

    return run


def _refuse(code: int, _: SafeUnpickler) -> None:
    if code in b"PQ":
        raise DataError("it holds tensors; an index list holds rows of plain values")
    names = {op.code: op.name for op in pickletools.opcodes}
    if chr(code) not in names:
        raise ValueError(f"byte {code:#04x} is no opcode")
    raise UnsafePickle(f"the opcode {names[chr(code)]}")


# Opcode -> what runs it; every other one is refused by name.
OPCODES: dict[int, Opcode] = {
    **{code: partial(_refuse, code) for code in range(256)},
    **{code: pickle._Unpickler.dispatch[code] for code in ADMITTED},
    pickle.REDUCE[0]: SafeUnpickler.load_reduce,
    pickle.BUILD[0]: SafeUnpickler.load_build,
    pickle.INST[0]: SafeUnpickler.load_inst,
    **{code: _paid(code, CONTAINER) for code in b"]}(\x8f\x85\x86\x87"},
    **{code: _paid(code, MEMO) for code in b"pqr\x94"},
    **{code: _fetched(code) for code in b"ghj2"},
    **{code: _keyed(code, lambda stack: stack[::2]) for code in pickle.DICT + pickle.SETITEMS},
    **{code: _keyed(code, lambda stack: stack) for code in pickle.ADDITEMS + pickle.FROZENSET},
    pickle.SETITEM[0]: _keyed(pickle.SETITEM[0], lambda stack: stack[-2:-1]),
}
SafeUnpickler.dispatch = OPCODES


class _Dtype:
    """A dtype of plain numbers, as a pickle describes it: a name, then (in __setstate__) a byte order."""

    __slots__ = ("numbers",)

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or name not in NUMBERS:
            raise UnsafePickle(f"an array of dtype {short(name)}")
        self.numbers = np.dtype(name)

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
                self.numbers = self.numbers.newbyteorder(order)
            case _:
                raise UnsafePickle(f"a dtype of state {short(state)}")


class _Array(np.ndarray[tuple[int, ...], np.dtype[np.generic]]):
    """An array of plain numbers that is filled from bytes of exactly the length its shape calls for."""

    def __setstate__(self, state: object) -> None:
        match state:
            case (int() as version, tuple() as shape, _Dtype() as dtype, int() as fortran, bytes() | str() as raw):
                raw = raw.encode("latin-1") if isinstance(raw, str) else raw
                if not all(isinstance(n, int) and n >= 0 for n in shape) or len(shape) > 8:
                    raise ValueError(f"an array of shape {short(shape)}")
                if math.prod(shape) * dtype.numbers.itemsize != len(raw) or len(raw) > MOST_ARRAY:
                    raise ValueError(f"an array of shape {short(shape)} made of {len(raw):,} bytes")
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


def encoded_latin1(text: object, encoding: object = None) -> bytes:
    """`_codecs.encode(text, "latin1")` is how protocols up to 2 write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafePickle(f"the codec {short(encoding)}")
    return text.encode("latin-1")


def _no_bytes(*args: object) -> bytes:
    if args:
        raise UnsafePickle("bytes(...)")
    return b""


def of_list(kind: type[set[object] | dict[object, object]]) -> Callable[..., object]:
    def make(items: object = ()) -> object:
        if not isinstance(items, (list, tuple)):
            raise UnsafePickle(f"{kind.__name__}(...) of something else than a list")
        if kind is dict and not all(isinstance(item, (list, tuple)) and len(item) == 2 for item in items):
            raise UnsafePickle("dict(...) of something else than pairs")
        checked_keys([item[0] for item in items] if kind is dict else items)
        return kind(items)

    return make


PLAIN: Globals = {
    "_codecs.encode": encoded_latin1,
    "collections.OrderedDict": of_list(dict),
    **{f"{module}.{name}": call for module in ("builtins", "__builtin__")
       for name, call in (("set", of_list(set)), ("frozenset", of_list(set)), ("bytes", _no_bytes))},
}  # fmt: skip
ARRAYS: Globals = {
    **PLAIN,
    "numpy.ndarray": _ndarray,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}
