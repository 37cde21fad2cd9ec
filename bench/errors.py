"""Every error a user can cause, in one tree; the message states what is wrong and what to do next.

BenchError                exit code
├── UsageError                2      an argument that cannot be used
│   ├── UnknownName           2      a pipeline, split or key nobody registered; carries the nearest known one
│   └── SettingsError         2      bench.toml or a flag that overrides it
├── DataError                 2      an annotation, index or prediction file that is not what it should be
│   └── UnsafePickle          2      a pickle with more than plain containers
├── ImageError                2      an image that cannot be read (inside a run it is counted, not raised)
├── WeightsError              2      a checkpoint that is missing, broken or of another architecture
├── MissingPackage            2      an optional package that a command needs
├── DeviceError               2      a device that is requested and not there
├── RunError                  2      a run directory that is in use, full, unwritable or of other settings
└── CheckFailed               1      a check the user requested came out negative
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice


class BenchError(Exception):
    """The root: the command line prints the message and exits with `exit_code`."""

    exit_code = 2


class UsageError(BenchError):
    """An argument that cannot be used."""


class UnknownName(UsageError):
    """A name nobody registered; the message carries the nearest known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        near = nearest(name, known)
        message = f"no {kind} is called {name!r}"
        if near:
            message += f"; did you mean {' or '.join(repr(n) for n in near)}?"
        elif known:
            message += f"; known: {', '.join(known)}"
        if hint:
            message += f" ({hint})"
        super().__init__(message)


class SettingsError(UsageError):
    """bench.toml, or a flag that overrides it, holds something that is not understood; `keys` are the unknown ones."""

    def __init__(self, message: str, keys: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.keys = frozenset(keys)


class DataError(BenchError):
    """An annotation, index or prediction file that is not what it should be."""


class UnsafePickle(DataError):
    """A pickle with more than plain containers; nothing in it was executed."""


class ImageError(BenchError):
    """An image that is missing, empty, truncated or not an image."""


class WeightsError(BenchError):
    """A checkpoint that is missing, broken or of another architecture."""


class MissingPackage(BenchError):
    """An optional package that is needed and not installed; the message names the extra."""


class DeviceError(BenchError):
    """A device that is requested and not there."""


class RunError(BenchError):
    """A run directory that is in use, full, unwritable, or started with other settings."""


class CheckFailed(BenchError):
    """A check the user requested came out negative."""

    exit_code = 1


def nearest(name: str, known: Iterable[str], most: int = 2) -> list[str]:
    """List the known names that look most like `name`, best first; empty when none is close."""
    import difflib  # late: `bench --help` has no need of it

    known = list(known)
    same = [other for other in known if other.casefold() == name.casefold()]
    return list(dict.fromkeys(same + difflib.get_close_matches(name, known, n=most, cutoff=0.6)))[:most]


def first_line(error: BaseException) -> str:
    """Return an error's kind and the first line of its message; some libraries write a page, some nothing."""
    try:
        message = str(error).strip().partition("\n")[0]
    except Exception:  # other people's class may fail here too
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def short(value: object, depth: int = 2) -> str:
    """Write a value of a file for a message, in at most 100 letters; the time does not grow with the value.

    Not reprlib: it sorts whole dicts, and writes numbers and foreign objects whole.
    """
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length():,} bits"
    if value is None or isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r}..."
    brackets = next((b for kind, b in BRACKETS.items() if isinstance(value, kind)), None)
    if brackets is None or not isinstance(value, Iterable):
        return f"a value of type {type(value).__name__}"
    if depth == 0 and value:
        return f"{brackets[0]}...{brackets[1]}"
    parts = [
        f"{short(each, depth - 1)}: {short(value[each], depth - 1)}"
        if isinstance(value, Mapping)
        else short(each, depth - 1)
        for each in islice(value, 5)
    ]
    text = ", ".join(parts[:4]) + (", ..." if len(parts) > 4 else "")
    return brackets[0] + (text if len(text) <= 98 else f"{text[:95]}...") + brackets[1]


BRACKETS = {list: "[]", tuple: "()", set: "{}", frozenset: "{}", dict: "{}"}
