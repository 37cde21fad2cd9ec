"""Load torch-saved files with tensors from strangers: checkpoints, and lists of rows with tensors.

torch's own machine (weights_only) executes nothing, but it hashes whatever is a key and allocates whatever is claimed.
So the pickle is run dry before, on our machine, which makes no tensor and refuses what is out of proportion.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from bench.datasets.pickles import TORCH_MAGIC, ZIP, explained, pickle_of
from bench.datasets.pickles import as_text as as_text
from bench.datasets.pickles import load_index_list as load_index_list
from bench.datasets.unpickler import CALL, CONTAINER, OPCODES, Opcode, SafeUnpickler, encoded_latin1, of_list
from bench.errors import BenchError, DataError, UnsafePickle, first_line, short
from bench.inputs import Sized, check_file, opened

# What a torch-saved file may name, and what of that it may call.
TORCH = re.compile(r"torch(\.cuda|\.storage)?\.\w+")
TORCH_CALLS = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.(Size|device|nn\.parameter\.Parameter)|"
    r"torch\.serialization\._get_layout|collections\.(OrderedDict|Counter)|(builtins|__builtin__)\.(set|complex)|"
    r"_codecs\.encode|numpy\.(core|_core)\.multiarray\.(_reconstruct|scalar)|numpy\.(dtype|dtypes\.\w+)"
)
MOST_SIDES = 64  # of a tensor
MADE: dict[str, Callable[..., object]] = {
    "OrderedDict": of_list(dict),
    "Counter": of_list(dict),
    "set": of_list(set),
    "encode": encoded_latin1,
}


def load_torch(
    path: Path,
    classes: Sequence[Any] = (),
    limit: Sized = "file_mb",
    error: type[BenchError] | None = None,
    mapped: bool = False,
) -> Any:
    """Load a torch-saved file of plain containers, tensors and `classes`, for which torch's weights_only is made.

    `classes` are as torch.serialization.safe_globals takes them; `mapped` maps a zip archive, so that parts that nobody
    uses are never read. Nothing in it is executed, and time and memory are in proportion to the file. Raises
    UnsafePickle and DataError, or in their stead `error`.
    """
    import torch

    names = [each[1] if isinstance(each, tuple) else f"{each.__module__}.{each.__qualname__}" for each in classes]
    try:
        size = check_file(path, limit)
        with opened(path, limit) as file, explained(path):
            archive = file.read(len(ZIP)) == ZIP
            file.seek(0)
            _dry_run(io.BytesIO(pickle_of(file, size)) if archive else file, size, names)
        with torch.serialization.safe_globals(list(classes)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and archive)
    except DataError as why:
        raise (error or type(why))(str(why)) from None
    except Exception as why:  # weights_only raises several kinds for broken files
        # What torch advises is to execute the file.
        cause = "torch admits no such file" if "weights_only" in str(why) else first_line(why)
        raise (error or DataError)(f"{path}: a broken or cut file ({cause:.200}); fetch it again") from None


def _dry_run(file: BinaryIO, size: int, classes: Sequence[str]) -> None:
    first = DryRun(file, size, classes).load()
    if type(first) is int and first == TORCH_MAGIC:
        for _ in ("protocol", "system", "object", "keys of storages"):
            DryRun(file, size, classes).load()


class Named:
    """A global of a torch-saved file, or, without a name, what was made by calling one."""

    def __init__(self, name: str = "") -> None:
        self.name = name


def _made(*_: object) -> Named:
    return Named()


class DryRun(SafeUnpickler):
    """Runs the pickle of a torch-saved file and makes nothing of it but plain containers.

    torch's own machine refuses all that it does not know, but hashes what it is given and allocates what is claimed.
    """

    def __init__(self, file: BinaryIO, size: int, classes: Collection[str]) -> None:
        super().__init__(file, size, {})
        self.classes = classes

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in. Raises UnsafePickle for what neither torch's files nor `classes` name."""
        full = f"{module}.{name}"
        if not (full in self.classes or TORCH.fullmatch(full) or TORCH_CALLS.fullmatch(full)):
            raise UnsafePickle(full)
        return Named(full)

    def load_reduce(self) -> None:
        """Check the arguments of a call, which is not made."""
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Named) or not TORCH_CALLS.fullmatch(function.name) or not isinstance(args, tuple):
            raise UnsafePickle(f"a call of {function.name if isinstance(function, Named) else short(function)}")
        self._check_flat(args)
        made = MADE.get(function.name.rpartition(".")[2], _made)(*args)
        self.spend(CALL + (CONTAINER * len(made) if isinstance(made, (bytes, set, dict)) else 0))
        self.stack.append(made)

    def load_newobj(self) -> None:
        """Check a class and its arguments; no object is made."""
        args, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Named) or kind.name not in self.classes or args != ():
            raise UnsafePickle(f"an object of {kind.name if isinstance(kind, Named) else short(kind)}")
        self.stack.append(Named())

    def load_build(self) -> None:
        """Drop the state of an object."""
        self.stack.pop()

    def load_binpersid(self) -> None:
        """Check what a storage claims: no more numbers than the file has bytes."""
        about = self.stack.pop()
        if not isinstance(about, tuple):
            raise UnsafePickle(f"the storage {short(about)}")
        self._check_flat(about)
        if any(isinstance(each, int) and each > self.size for each in about):
            raise DataError(f"the storage {short(about)} claims more numbers than the file has bytes")
        self.stack.append(Named())

    def _check_flat(self, values: tuple[object, ...]) -> None:
        """Raise DataError where hashing one of `values` could take long."""
        for value in values:
            if isinstance(value, tuple) and (len(value) > MOST_SIDES or any(isinstance(each, tuple) for each in value)):
                raise DataError(f"an argument is {short(value)}, deeper or longer than those of tensors")


_OPCODES: dict[int, Opcode] = {
    **OPCODES,
    pickle.REDUCE[0]: DryRun.load_reduce,
    pickle.BUILD[0]: DryRun.load_build,
    pickle.NEWOBJ[0]: DryRun.load_newobj,
    pickle.BINPERSID[0]: DryRun.load_binpersid,
}
DryRun.dispatch = _OPCODES
