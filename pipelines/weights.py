"""Weights on disk: where a name points, its hash, and strict loading with a diff a person can read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import WeightsError
from bench.grounding import PipelineContext

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN = 6  # keys of each kind in a diff


def find_file(name: str, context: PipelineContext) -> Path | None:
    """The file `name` points to: as it is, from the folder of bench.toml, or from BENCH_HOME/weights; None if nowhere."""
    for place in (Path(name).expanduser(), context.folder / name, context.home / "weights" / name):
        if place.is_file():
            return place.resolve()
    return None


def looks_like_path(name: str) -> bool:
    """Whether a weights name can only mean a file: it has a folder in it or a checkpoint's suffix."""
    return "/" in name or Path(name).suffix in {".safetensors", ".pt", ".pth", ".bin"}


def missing(name: str, context: PipelineContext, how: str) -> WeightsError:
    """The error for weights that are nowhere: every place looked in, and how to get them."""
    places = ", ".join(str(p) for p in (context.folder / name, context.home / "weights" / name))
    return WeightsError(f"weights {name!r} are not there (looked at {places}); {how}")


def sha256(path: Path) -> str:
    """The file's hash, remembered as long as its size and time stay the same."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A .safetensors file's tensors, float32, and its metadata (JSON values decoded). Raises WeightsError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: _decoded(value) for key, value in (file.metadata() or {}).items()}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a complete .safetensors file ({error})") from None
    return {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}, metadata


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Floats as float16, everything else as it is; metadata values as JSON; the file appears whole or not at all."""
    import torch
    from safetensors.torch import save_file

    halves = {k: (t.half() if t.is_floating_point() else t).contiguous().cpu() for k, t in tensors.items()}
    assert all(torch.isfinite(t).all() for t in halves.values() if t.is_floating_point()), "float16 overflow"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(halves, part, metadata={key: json.dumps(value) for key, value in metadata.items()})
    part.replace(path)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load `state` into `module`; every key and shape must agree. Raises WeightsError with the keys that differ."""
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
    module.load_state_dict(dict(state), strict=True)


def _listed(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} keys {what}: {', '.join(keys[:SHOWN])}{more}"


def _decoded(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
