"""What stands between a pipeline and a run: packages and weights that are not there, and how each is brought there.

Nothing of a pipeline is built. Where published weights come from is in costs.toml, beside what they cost.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import registry
from bench.errors import BenchError
from bench.hashing import find_file, places_of
from bench.settings import Resolved, weights_named

FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
BOXES = "{dataset}_dets_dict.json"


@dataclass(frozen=True, slots=True)
class Lack:
    """Name one missing thing. `how` brings it; `by_itself`: the first use fetches it, given a network."""

    what: str
    how: str
    by_itself: bool = False


def lacks(name: str, dataset: str, resolved: Resolved) -> list[Lack]:
    """List what the pipeline lacks for a data set with the options of bench.toml; empty when it is ready."""
    try:
        registry.pipeline_factory(name)
    except BenchError as error:
        return [Lack(str(error), "")]
    table = resolved.table("pipelines", name, dataset)
    named = list(weights_named(table))
    # Official weights bring no tokenizer.
    if str(table.get("weights", "")).endswith(".pth") and isinstance(table.get("tokenizer"), str):
        named.append((table["tokenizer"], "tokenizer"))
    weights = [_source(*each, resolved) for each in named if not at_hand(*each, resolved)]
    return list(dict.fromkeys([*_proposer(table, dataset, resolved), *weights]))


def ready(dataset: str, resolved: Resolved) -> list[str]:
    """List the pipelines that lack nothing for a data set."""
    return [name for name in registry.names(registry.PIPELINES) if not lacks(name, dataset, resolved)]


def at_hand(weights: str, model: str, resolved: Resolved) -> bool:
    """Tell whether weights lie on this disk: a file, a folder, or in a cache under BENCH_HOME."""
    if any(place.is_file() or (place / "config.json").is_file() for place in places_of(weights, resolved)):
        return True
    source = _entry(f"{model} {weights}".strip())
    if file := source.get("file"):
        return (resolved.home / "weights" / str(file)).is_file()
    where = source.get("cache", "huggingface")
    cached = source.get("hub", weights)
    if "/" not in cached:
        return False
    snapshots = resolved.home / "weights" / where / f"models--{cached.replace('/', '--')}" / "snapshots"
    return any(path.is_file() for path in snapshots.glob("*/*"))


def _source(weights: str, model: str, resolved: Resolved) -> Lack:
    what, home = f"{model} {weights}".strip(), resolved.home / "weights"
    entry = _entry(what)
    if "how" in entry:
        how = str(entry["how"]).replace("{name}", weights).replace("{home}", str(home))
        return Lack(what, how, bool(entry.get("by_itself", False)))
    hub = entry.get("hub", weights)
    if "/" in hub and not hub.endswith(FILE_SUFFIXES):
        return Lack(what, f"hf download {hub} --cache-dir {home / entry.get('cache', 'huggingface')}", True)
    return Lack(what, f"put the file into {home} or name it with --weights")


def _proposer(table: Mapping[str, Any], dataset: str, resolved: Resolved) -> Iterator[Lack]:
    """List what the proposer lacks: packages, and of kind "file" its file of boxes."""
    proposer = table.get("proposer")
    if not isinstance(proposer, Mapping):
        return
    kind = proposer.get("kind")
    for package, extra in costs()["packages"].get(kind, {}).items():
        if find_spec(package) is None:
            yield Lack(f"the package {package}", f'pip install "grounding-bench[{extra}]"')
    name = str(proposer.get("file", BOXES)).replace("{dataset}", dataset or "DATASET")
    if kind == "file" and find_file(name, resolved) is None:
        how = f"put the file of boxes into {resolved.home / 'weights'}, or --set proposer.kind=yolo finds them here"
        yield Lack(name, how)


def _entry(name: str) -> Mapping[str, Any]:
    """Find where costs.toml says weights come from; empty where it says nothing."""
    return next((e for e in costs()["source"] if any(fnmatch(name, pattern) for pattern in e["names"])), {})


@cache
def costs() -> dict[str, Any]:
    """Read costs.toml."""
    return tomllib.loads((Path(__file__).parent / "costs.toml").read_text(encoding="utf-8"))
