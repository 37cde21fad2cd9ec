"""Weights files: the option and the path that a name means, and the hash that a run's record has of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, WeightsError
from bench.runs.files import make_folder, write_atomically
from bench.settings import merged

if TYPE_CHECKING:
    from bench.grounding import PipelineContext
    from bench.settings import Resolved

    Places = PipelineContext | Resolved

MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt")


def spelled_out(options: Mapping[str, Any], main: str | None = None) -> dict[str, Any]:
    """Move the shorthand `weights` to the options it stands for: proposer=FILE,clip=FILE, or FILE for `main` alone.

    `masks = "sam"` is short for a table with that `kind`.

    Without `main` it is the proposer where the options have one, the CLIP where they have segments; else `weights` is
    an option of its own. What names other parts stays as it is.
    """
    if isinstance(options.get("masks"), str):
        options = {**options, "masks": {"kind": options["masks"]}}
    main = main or ("proposer" if "proposer" in options else "clip" if "segments" in options else None)
    weights = options.get("weights")
    if main is None or not isinstance(weights, str):
        return dict(options)
    parts = dict(item.partition("=")[::2] for item in weights.split(",")) if "=" in weights else {main: weights}
    if parts.keys() - {main, "clip"}:
        return dict(options)
    table = {key: value for key, value in options.items() if key != "weights"}
    for part, name in parts.items():
        table = merged(table, {part: {"pretrained" if part == "clip" else "weights": name}} if name else {})
    return table


def places_of(name: str, where: Places) -> tuple[Path, Path, Path]:
    """List every path that `name` may mean: from the working folder, the program's own, BENCH_HOME/weights."""
    return Path(name).expanduser().absolute(), where.folder / name, where.home / "weights" / name


def looked_at(name: str, where: Places) -> str:
    """Write every place of `places_of` with its name, for a message."""
    labels = ("the working folder", "where bench is installed", "BENCH_HOME/weights")
    places = dict(reversed([*zip(places_of(name, where), labels, strict=True)]))
    if len(places) == 1:  # an absolute path
        return str(*places)
    return ", ".join(f"{place} ({label})" for place, label in reversed(places.items()))


def find_file(name: str, where: Places) -> Path | None:
    """Find the file that `name` means; None where it is in none of its places."""
    try:
        return next((place.resolve() for place in places_of(name, where) if place.is_file()), None)
    except (OSError, ValueError):  # a name that no file can have
        return None


def sha256_file(path: Path, home: Path | None = None) -> str:
    """Hash a file; kept while path, size and time of change stay, on disk under `home` too, where it is given.

    Raises WeightsError for a file that cannot be read.
    """
    try:
        state, path = path.stat(), path.resolve()
        key = (path, state.st_size, state.st_mtime_ns)
        return _sha256(*key) if home is None else _memoised(home, *key)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None


def sha256_folder(path: Path, home: Path | None = None) -> str | None:
    """Hash the folder of a model or tokenizer: names and contents of its files; None for any other folder.

    Hidden files and documents are left out. Raises WeightsError.
    """
    if not any((path / name).is_file() for name in MODEL_FILES):
        return None
    files = sorted(each.relative_to(path) for each in path.rglob("*") if each.is_file())
    files = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    kept = (file for file in files if file.suffix != ".md" and file.stem not in ("LICENSE", "LICENCE"))
    lines = "".join(f"{file.as_posix()} {sha256_file(path / file, home)}\n" for file in kept)
    return hashlib.sha256(lines.encode()).hexdigest()


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _memoised(home: Path, path: Path, size: int, changed_ns: int) -> str:
    key = hashlib.sha256(f"{path}|{size}|{changed_ns}".encode()).hexdigest()
    memo = home / "hashes" / key[:32]
    if memo.is_file() and re.fullmatch("[0-9a-f]{64}", known := memo.read_text(encoding="ascii", errors="replace")):
        return known
    digest = _sha256(path, size, changed_ns)
    try:
        make_folder(memo.parent)
        write_atomically(memo, digest.encode())
    except BenchError:  # a home that is read-only costs only time
        pass
    return digest
