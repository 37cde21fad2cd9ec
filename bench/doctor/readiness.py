"""What is registered, and what a pipeline still needs: packages and weights, and how each is brought there.

Nothing of a pipeline is built. Where published weights come from is in costs.toml, beside what they cost.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import registry
from bench.errors import BenchError, RunError
from bench.hashing import find_file, places_of
from bench.settings import Resolved, weights_named

FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
BOXES = "{dataset}_dets_dict.json"

Missing = tuple[str, str, bool]  # what; how it is brought; True: the first use fetches it, given a network


def missing_parts(name: str, dataset: str, resolved: Resolved) -> list[Missing]:
    """List what a pipeline still needs for a data set, with the options of bench.toml; empty when it is ready."""
    try:
        registry.pipeline_factory(name)
    except BenchError as error:
        return [(str(error), "", False)]
    table = resolved.table("pipelines", name, dataset)
    named = list(weights_named(table))
    # Official weights bring no tokenizer.
    if str(table.get("weights", "")).endswith(".pth") and isinstance(table.get("tokenizer"), str):
        named.append((table["tokenizer"], "tokenizer"))
    weights = [_source(*each, resolved) for each in named if not at_hand(*each, resolved)]
    return list(dict.fromkeys([*_proposer(table, dataset, resolved), *weights]))


def ready(dataset: str, resolved: Resolved) -> list[str]:
    """List the pipelines that need nothing more for a data set."""
    return [name for name in registry.names(registry.PIPELINES) if not missing_parts(name, dataset, resolved)]


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


def _source(weights: str, model: str, resolved: Resolved) -> Missing:
    what, home = f"{model} {weights}".strip(), resolved.home / "weights"
    entry = _entry(what)
    if "how" in entry:
        how = str(entry["how"]).replace("{name}", weights).replace("{home}", str(home))
        return what, how, bool(entry.get("by_itself", False))
    hub = entry.get("hub", weights)
    if "/" in hub and not hub.endswith(FILE_SUFFIXES):
        return what, f"hf download {hub} --cache-dir {home / entry.get('cache', 'huggingface')}", True
    return what, f"put the file into {home} or name it with --weights", False


def _proposer(table: Mapping[str, Any], dataset: str, resolved: Resolved) -> Iterator[Missing]:
    """List what the proposer still needs: packages, and of kind "file" its file of boxes."""
    proposer = table.get("proposer")
    if not isinstance(proposer, Mapping):
        return
    kind = proposer.get("kind")
    for package, extra in costs()["packages"].get(kind, {}).items():
        if find_spec(package) is None:
            yield f"the package {package}", f'pip install "grounding-bench[{extra}]"', False
    name = str(proposer.get("file", BOXES)).replace("{dataset}", dataset or "DATASET")
    if kind == "file" and find_file(name, resolved) is None:
        how = f"put the file of boxes into {resolved.home / 'weights'}, or --set proposer.kind=yolo makes them here"
        yield name, how, False


def _entry(name: str) -> Mapping[str, Any]:
    """Return where weights come from, by costs.toml; empty where it has no entry."""
    return next((e for e in costs()["source"] if any(fnmatch(name, pattern) for pattern in e["names"])), {})


@cache
def costs() -> dict[str, Any]:
    """Read costs.toml."""
    return tomllib.loads((Path(__file__).parent / "costs.toml").read_text(encoding="utf-8"))


def pipeline_rows(resolved: Resolved) -> list[dict[str, object]]:
    """List every pipeline with its weights in bench.toml; nothing of a pipeline is imported."""
    rows: list[dict[str, object]] = []
    for name in registry.names(registry.PIPELINES):
        table = resolved.settings.pipelines.get(name, {})
        card = table.get("card", {})
        rows.append(
            {
                "pipeline": name,
                "weights": _weights({key: value for key, value in table.items() if key != "on"}),
                "licence": card.get("licence"),
                "saw test images": card.get("saw_test_images"),
                "trainable": "yes" if registry.has(name, "tasks") else "",
                "from": registry.origin(registry.PIPELINES, name),
            }
        )
    return rows


def _weights(table: Mapping[str, Any]) -> str:
    """Name the weights of a pipeline's table, in its order: "yolo11x.pt, ViT-B-16 openai"."""
    names = [f"{table.get('model', '')} {table['pretrained']}".strip()] if "pretrained" in table else []
    names += [table["weights"]] if isinstance(table.get("weights"), str) else []
    for value in table.values():
        inner = value if isinstance(value, list) else [value]
        names += [named for part in inner if isinstance(part, Mapping) and (named := _weights(part))]
    return ", ".join(names)


def split_rows(_: Resolved) -> list[dict[str, object]]:
    """List every split with its published counts."""
    from bench.datasets.load import datasets

    return [
        {
            "split": f"{dataset.name}-{part.name}",
            "data set": dataset.title,
            "expressions": part.expressions,
            "images": part.images,
        }
        for dataset in datasets()
        for part in dataset.parts
    ]


def run_rows(resolved: Resolved) -> list[dict[str, object]]:
    """List every stored run with its status and score."""
    from bench.runs.record import read_record

    rows: list[dict[str, object]] = []
    for path in sorted(Path(resolved.settings.results).glob("runs/*/*/*/run.json")):
        row: dict[str, object] = {"run": str(path.parent), "status": "unreadable", "acc@0.5": None, "finished": None}
        try:
            record = read_record(path.parent)
            accuracy = f"{100 * record.metrics.accuracy:.2f}" if record.metrics else None
            row |= {"status": record.status, "acc@0.5": accuracy, "finished": record.finished}
        except RunError:
            pass
        rows.append(row)
    return rows
