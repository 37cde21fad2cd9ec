"""Fetching published weights: each file whole or not at all, with its hash checked where it is known.

An address is streamed into a .part beside FILE, which becomes FILE; an id of the hub goes through huggingface_hub into
its cache.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from bench import registry
from bench.errors import UnknownName, WeightsError, first_line
from bench.fetching import network
from bench.fetching.sources import Source, at_hand, cached, named, source_of
from bench.hashing import find_file, sha256_file
from bench.runs.files import make_folder, temporary_name
from bench.settings import Resolved

CHUNK = 1 << 20
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
Progress = Callable[[str, int, int | None], None]  # file, bytes so far, bytes in all where they are known


def wanted(names: list[str], resolved: Resolved, dataset: str = "") -> list[Source]:
    """List the weights that pipelines, or weights by name, stand for; of a pipeline those for `dataset`.

    Raises UnknownName for what is neither.
    """
    known, out = registry.names(registry.PIPELINES), []
    tables = {name: resolved.table("pipelines", name, dataset) for name in known}
    by_name = {weights: (key, model) for table in tables.values() for key, weights, model in named(table)}
    for name in names:
        if name in tables:
            out += [source_of(weights, model, resolved, key) for key, weights, model in named(tables[name])]
            continue
        model, _, weights = name.rpartition(" ")
        key, model = ("", model) if model else by_name.get(weights, ("", ""))
        source = source_of(weights, model, resolved, key)
        if not (source.hub or source.url or weights in by_name):
            listed = {*known, *(f"{model} {weights}".strip() for weights, (_, model) in by_name.items())}
            hint = "a pipeline, OWNER/MODEL of the hub, or 'MODEL TAG' of open_clip"
            raise UnknownName("pipeline or published weights", name, listed, hint)
        out.append(source)
    return list(dict.fromkeys(out))


def licence_of(source: Source, resolved: Resolved) -> str:
    """Return the licence of weights, from the shortest card of bench.toml whose pipeline names them; "" for none."""
    tables = resolved.settings.pipelines.values()
    cards = (t.get("card", {}).get("licence", "") for t in tables if source.name in {w for _, w, _ in named(t)})
    return min(filter(None, cards), key=len, default="")


def fetch(source: Source, resolved: Resolved, progress: Progress | None = None) -> list[Path]:
    """Fetch weights that are not on this disk; return their files. Raises WeightsError: what failed, what to do."""
    if at_hand(source, resolved) and (here := files_of(source, resolved)):
        return here
    if not (source.hub or source.url):
        raise WeightsError(f"{source.what} is not published where a program can fetch it: {source.by_hand}")
    if why := network.why_not(resolved.settings.run.offline, source.url or None):
        raise WeightsError(f"{source.what}: {why}; by hand, where there is a network: {source.by_hand}")
    return [download(source, progress)] if source.url else from_hub(source)


def files_of(source: Source, resolved: Resolved) -> list[Path]:
    """List the files of weights that are on this disk."""
    if path := find_file(source.name, resolved):
        return [path]
    return [source.target] if source.url and source.target.is_file() else sorted(cached(source))


def download(source: Source, progress: Progress | None = None) -> Path:
    """Fetch `source.url` as `source.target`; a part of it never has that name.

    Raises WeightsError for a server that does not answer or stops, and for another hash than `source.sha256`.
    """
    make_folder(source.target.parent)
    part = temporary_name(source.target, "part")
    digest, size, reported = hashlib.sha256(), 0, 0.0
    try:
        with urlopen(Request(source.url, headers={"User-Agent": "grounding-bench"}), timeout=30) as answer:
            whole = int(answer.headers["Content-Length"]) if answer.headers.get("Content-Length") else None
            with part.open("wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    if progress and (time.monotonic() - reported > 0.2 or size == whole):
                        progress(source.what, size, whole)
                        reported = time.monotonic()
        if whole is not None and size != whole:
            raise OSError(f"the connection ended after {size:,} of {whole:,} bytes")
        if not digest.hexdigest().startswith(source.sha256):
            raise OSError(f"its SHA-256 is {digest.hexdigest()}, expected {source.sha256}...")
        part.replace(source.target)
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, HTTPError) else getattr(error, "reason", error)
        raise WeightsError(
            f"{source.what}: fetching {source.url} failed ({reason}); nothing was kept. By hand: {source.by_hand}"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return source.target


def from_hub(source: Source) -> list[Path]:
    """Fetch an id of the hub into its cache, and check the hash that its store names. Raises WeightsError."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    cache = str(source.cache)
    try:
        if not source.files:  # a model: safetensors, or else the older format
            folder = huggingface_hub.snapshot_download(source.hub, cache_dir=cache, allow_patterns=list(MODEL_FILES))
            if not any(Path(folder).glob("*.safetensors")):
                huggingface_hub.snapshot_download(source.hub, cache_dir=cache, allow_patterns=["*.bin"])
        for file in source.files:
            try:
                huggingface_hub.hf_hub_download(source.hub, file, cache_dir=cache)
            except EntryNotFoundError:
                continue
            if source.model != "tokenizer":  # of a CLIP the first that it has
                break
    except Exception as error:  # the hub raises many kinds
        raise WeightsError(
            f"{source.what}: fetching {source.hub} failed ({first_line(error)}). By hand: {source.by_hand}"
        ) from None
    files = sorted(cached(source))
    if not files:
        raise WeightsError(f"{source.what}: {source.hub} has none of {', '.join(source.files or MODEL_FILES)}")
    for path in files:
        stored = path.resolve()  # large files are stored under their hash
        if re.fullmatch("[0-9a-f]{64}", stored.name) and sha256_file(stored) != stored.name:
            stored.unlink()
            raise WeightsError(f"{source.what}: {path.name} arrived broken, and was removed; run the command again")
    return files
