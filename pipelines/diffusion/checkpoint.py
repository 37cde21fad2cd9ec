"""The head's file: what was trained, its sizes, and the network below it by the hashes of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import SettingsError, WeightsError, first_line
from bench.grounding import PipelineContext
from pipelines import weights
from pipelines.diffusion.network import DiffusionConfig, DiffusionHead
from pipelines.on_canvas import FusesTokens
from pipelines.start import open_start

FORMAT = "grounding-bench/diffusion/1"
HOW = "`bench train --pipeline diffusion` makes one"


class Loaded(NamedTuple):
    """A head with the pipeline whose tokens it takes, the kind of that, and the file `path`."""

    head: DiffusionHead
    source: Any
    kind: str
    path: Path = Path()


def open_source(table: Mapping[str, Any], context: PipelineContext) -> tuple[Any, str]:
    """Open the pipeline whose tokens the head takes, and name its kind. Raises SettingsError, WeightsError."""
    source: Any = open_start(table, context, "network")
    if not isinstance(source, FusesTokens):
        raise SettingsError(
            f"bench.toml [pipelines.{context.name}.network]: {table['kind']} gives no tokens; clipvg and transvg do"
        )
    return source, str(table["kind"])


def open_head(name: str, network: Mapping[str, Any], context: PipelineContext) -> Loaded:
    """Open a head by name with the network that it was trained on. Raises SettingsError, WeightsError."""
    # 1. The file.
    path = weights.find(name, context, HOW)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: expected a .safetensors file; {HOW}")
    state, metadata = weights.read_safetensors(path)
    try:
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        config = DiffusionConfig.model_validate(metadata["config"])
        kind, hashes = str(metadata["network"]["kind"]), sorted(metadata["network"]["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its metadata is not that of a diffusion head ({first_line(error)})") from None
    # 2. The network below it: other tokens mean nothing to the head.
    source, own = open_source(network, context)
    if own != kind or sorted(source.card.sha256.values()) != hashes:
        raise WeightsError(
            f"{path}: trained on the tokens of {kind} with the weights {', '.join(h[:12] for h in hashes)}, but "
            f"[pipelines.{context.name}.network] names {own} with "
            f"{', '.join(h[:12] for h in sorted(source.card.sha256.values()))}; name the network it was trained on"
        )
    # 3. The head.
    head = DiffusionHead(config)
    weights.load_strictly(head, state, str(path))
    return Loaded(head.eval().requires_grad_(False), source, kind, path)


def save(path: Path, loaded: Loaded, recipe: Mapping[str, Any]) -> None:
    """Write the head in float16; it appears whole or not at all. Raises RunError."""
    metadata = {
        "format": FORMAT,
        "config": loaded.head.config.model_dump(mode="json"),
        "network": {"kind": loaded.kind, "sha256": sorted(loaded.source.card.sha256.values())},
        "recipe": dict(recipe),
    }
    weights.write_safetensors(path, loaded.head.state_dict(), metadata)
