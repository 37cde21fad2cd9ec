"""Weights on disk: which file a name means, reading and writing, and strict loading that lists what differs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.datasets.torch_files import load_torch
from bench.errors import WeightsError
from bench.fetching import network, sources
from bench.fetching.fetch import download
from bench.grounding import PipelineContext
from bench.hashing import find_file
from bench.inputs import check_file
from bench.runs.files import make_folder, write_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn

Module = TypeVar("Module", bound="nn.Module")
LISTED = 6  # keys of each kind in a diff
MANY_ROWS = 4096  # of a table that may be kept sparse
MOST_RESTORED = 1 << 25  # numbers of such a table, however few rows of it are stored


def looks_like_path(name: str) -> bool:
    """Tell whether a name can only mean a file: it has a folder or a checkpoint's suffix."""
    return "/" in name or Path(name).suffix in {".safetensors", ".pt", ".pth", ".bin"}


def missing(name: str, context: PipelineContext, how: str = "", model: str = "", why: str = "") -> WeightsError:
    """Make the error for weights that are missing: every place searched, how to get them, `why` they are not fetched.

    `model` is the CLIP's name, or "tokenizer".
    """
    source = sources.source_of(name, model, context, option_of(name, context))
    return sources.not_there(source if source.hub or source.url else source._replace(how=how), context, why)


def option_of(name: str, context: PipelineContext) -> str:
    """Return the dotted option that names some weights; "" where none does, as for the code's defaults."""
    return next((key for key, weights, _ in sources.named(context.options) if weights == name), "")


def find_local(name: str, context: PipelineContext, how: str, published: bool) -> Path | None:
    """Return the file `name` means; None for a name without one that may be `published`.

    Raises the error that `missing` makes.
    """
    path = find_file(name, context)
    if path is None and not published:
        raise missing(name, context, how)
    return path


def find(name: str, context: PipelineContext, how: str) -> Path:
    """Return the file `name` means, fetched where it is published at an address. Raises as `missing`."""
    path = find_file(name, context)
    if path is not None:
        return path
    source, why = sources.source_of(name, "", context), ""
    if source.url and source.by_itself:
        if source.target.is_file():
            return source.target
        why = network.why_not(context.offline, source.url)
        if not why:
            return download(source)
    raise missing(name, context, how, why=why)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a .safetensors file: its tensors, float32, and its metadata, JSON decoded. Raises WeightsError."""
    from safetensors import SafetensorError, safe_open

    check_file(path, "weights_mb", WeightsError)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: _decoded(value) for key, value in (file.metadata() or {}).items()}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a complete .safetensors file ({error})") from None
    return _dense({k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}, path), metadata


def read_metadata(path: Path) -> dict[str, Any]:
    """Read a .safetensors file's metadata alone, JSON decoded; nothing of another file. Raises WeightsError."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: _decoded(value) for key, value in (file.metadata() or {}).items()}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a complete .safetensors file ({error})") from None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a pickled table of tensors, alone or under "model" or "state_dict". Raises as `read_checkpoint` does."""
    import torch

    state = read_checkpoint(path)
    for key in ("model", "state_dict"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise WeightsError(f"{path}: holds no table of tensors; expected a state dict")
    return state


def read_checkpoint(path: Path) -> Any:
    """Read a pickled checkpoint: plain containers and tensors, argparse.Namespace the one class besides.

    The file is mapped where it can be, so that unused parts, such as an optimiser's state, are never read. Nothing in
    it is executed. Raises WeightsError.
    """
    return load_torch(path, [argparse.Namespace], "weights_mb", WeightsError, mapped=True)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write floats as float16, everything else as it is, metadata as JSON; atomically.

    A tensor with a value beyond float16 stays in float32. A table most of whose rows are zero, such as the unused
    words of a small CLIP, is stored as the rows that are not. Raises RunError, and WeightsError for values that are not
    finite.
    """
    import torch
    from safetensors.torch import save

    if broken := [key for key, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]:
        raise WeightsError(f"{path}: not written: {broken[0]} holds values that are not finite; the training diverged")
    halves = {key: _halved(tensor).contiguous().cpu() for key, tensor in _sparse(tensors).items()}
    make_folder(path.parent)
    plain = {key: json.dumps(value) for key, value in metadata.items()}
    write_atomically(path, _in_order(save(halves, metadata=plain)))


def _halved(tensor: Tensor) -> Tensor:
    """Convert floats to float16 where they fit, else to float32."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor.float()


def _in_order(file: bytes) -> bytes:
    """Sort a .safetensors file's metadata: the library shuffles them, and equal weights got unequal hashes."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + file[8 + length :]


def _sparse(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store tables with mostly empty rows as KEY.rows (indices), KEY.values and KEY.length."""
    import torch

    out: dict[str, Tensor] = {}
    for key, table in tensors.items():
        rows = table.ne(0).any(dim=1).nonzero()[:, 0] if table.ndim == 2 and len(table) > MANY_ROWS else None
        if rows is None or 2 * len(rows) > len(table):
            out[key] = table
        else:
            out |= {f"{key}.rows": rows.int(), f"{key}.values": table[rows], f"{key}.length": torch.tensor(len(table))}
    return out


def _dense(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Restore the tables that `_sparse` took apart. Raises WeightsError for parts that are of no such table."""
    out = dict(tensors)
    for key in [k.removesuffix(".rows") for k in tensors if k.endswith(".rows")]:
        rows, values, length = (out.pop(f"{key}.{part}", None) for part in ("rows", "values", "length"))
        if rows is None or values is None or length is None:
            raise WeightsError(f"{path}: {key}.rows stands without {key}.values or {key}.length; fetch the file again")
        fits = rows.ndim == 1 and values.ndim == 2 and len(values) == len(rows) and length.numel() == 1
        fits &= not any(part.is_floating_point() or part.is_complex() for part in (rows, length))
        if not fits or bool(((rows < 0) | (rows >= length)).any()):
            raise WeightsError(f"{path}: {key}.rows, {key}.values and {key}.length do not fit; fetch the file again")
        most = MOST_RESTORED + 16 * values.numel()
        if not 0 <= int(length) * max(values.shape[1], 1) <= most:
            raise WeightsError(f"{path}: {key} claims {int(length):,} rows, more than a file of its size can hold")
        out[key] = values.new_zeros(int(length), values.shape[1])
        out[key][rows.long()] = values
    return out


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str, assign: bool = False) -> None:
    """Load `state` into `module`; every key and shape must agree. Raises WeightsError with the keys that differ.

    With `assign` the tensors become the parameters: for a module on "meta".
    """
    own = module.state_dict()
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    problems = [
        _listed("missing", sorted(own.keys() - state.keys())),
        _listed("not known to the model", sorted(state.keys() - own.keys())),
        _listed(
            "of another shape",
            [f"{k} {tuple(state[k].shape)}, the model has {tuple(own[k].shape)}" for k in sorted(shapes)],
        ),
    ]
    if any(problems):
        detail = "; ".join(p for p in problems if p)
        raise WeightsError(f"{where}: weights of another architecture than {type(module).__name__}: {detail}")
    module.load_state_dict(dict(state), strict=True, assign=assign)


def load_matching(module: Module, state: Mapping[str, Tensor]) -> Module:
    """Load the tensors of `state` that have the name and shape of the module's, for fine-tuning with another head."""
    own = module.state_dict()
    module.load_state_dict({k: t for k, t in state.items() if k in own and own[k].shape == t.shape}, strict=False)
    return module


def _listed(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return f"{len(keys)} keys {what}: {', '.join(keys[:LISTED])}{more}"


def _decoded(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
