"""What is registered, and what a pipeline still needs: packages and weights, and how each is brought there.

Nothing of a pipeline is built. What full-size models cost is in costs.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import registry
from bench.errors import BenchError, RunError
from bench.fetching import sources
from bench.hashing import find_file
from bench.install import pip_install
from bench.settings import Resolved

BOXES = "{dataset}_dets_dict.json"
SERVER = ("base_url", "model")  # options of a pipeline whose model is elsewhere

Missing = tuple[str, str, bool]  # what; how it is brought; True: the first use fetches it, given a network


def missing_parts(name: str, dataset: str, resolved: Resolved) -> list[Missing]:
    """List what a pipeline still needs for a data set, with the options of bench.toml; empty when it is ready."""
    try:
        factory = registry.pipeline_factory(name)
    except BenchError as error:
        return [(str(error), "", False)]
    table = resolved.table("pipelines", name, dataset)
    weights = [(each.what, _how(each), each.by_itself) for each in sources.missing(table, resolved)]
    known = getattr(getattr(factory, "table", None), "model_fields", {})
    needed = SERVER if known.keys() >= {*SERVER} else ()
    server = [(f"{key} of a server", f"--set {key}=...", False) for key in needed if not table.get(key)]
    return list(dict.fromkeys([*_proposer(table, dataset, resolved), *weights, *server]))


def _how(source: sources.Source) -> str:
    """Write the command that fetches weights, and the one without this program."""
    return f"{source.fetch_line}\n    or: {source.by_hand}" if source.fetch_line else source.by_hand


def ready(dataset: str, resolved: Resolved) -> list[str]:
    """List the pipelines that need nothing more for a data set."""
    return [name for name in registry.names(registry.PIPELINES) if not missing_parts(name, dataset, resolved)]


def _proposer(table: Mapping[str, Any], dataset: str, resolved: Resolved) -> Iterator[Missing]:
    """List what the proposer still needs: packages, and of kind "file" its file of boxes."""
    proposer = table.get("proposer")
    if not isinstance(proposer, Mapping):
        return
    kind = proposer.get("kind")
    for package, extra in costs()["packages"].get(kind, {}).items():
        if find_spec(package) is None:
            yield f"the package {package}", pip_install(extra), False
    name = str(proposer.get("file", BOXES)).replace("{dataset}", dataset or "DATASET")
    if kind == "file" and find_file(name, resolved) is None:
        how = f"put the file of boxes into {resolved.home / 'weights'}, or --set proposer.kind=yolo makes them here"
        yield name, how, False


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
                "what it does": costs()["what"].get(name),
                "weights": _weights({key: value for key, value in table.items() if key != "on"}),
                "licence": card.get("licence"),
                "saw test images": card.get("saw_test_images"),
                "trainable": "yes" if registry.has(name, "tasks") else "",
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
    from bench.runs.lock import state_of
    from bench.runs.record import read_record

    rows: list[dict[str, object]] = []
    for path in sorted(Path(resolved.settings.results).glob("runs/*/*/*/run.json")):
        row: dict[str, object] = {"run": str(path.parent), "status": "unreadable", "acc@0.5": None, "finished": None}
        try:
            record = read_record(path.parent)
            accuracy = f"{100 * record.metrics.accuracy:.2f}" if record.metrics else None
            row |= {"status": state_of(path.parent, record.status), "acc@0.5": accuracy, "finished": record.finished}
        except RunError:
            pass
        rows.append(row)
    return rows
