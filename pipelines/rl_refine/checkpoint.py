"""Policies on disk: a .safetensors of ours, whose metadata has the sizes and the hash of the CLIP it learned on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import WeightsError, first_line
from bench.grounding import PipelineContext
from bench.hashing import sha256_file
from pipelines import weights
from pipelines.rl_refine.network import Policy, PolicyConfig

FORMAT = "grounding-bench/rl-refine/1"
HOW = "no policy is published: `bench train --pipeline rl-refine` makes one"


def open_policy(name: str, clip: Mapping[str, str], context: PipelineContext) -> tuple[Policy, str]:
    """Open a policy, float32, in eval mode, for the CLIP of these files and hashes -> it, and its file's hash.

    Raises WeightsError.
    """
    path = weights.find(name, context, HOW)
    state, metadata = weights.read_safetensors(path)
    try:
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        policy, own = Policy(PolicyConfig.model_validate(metadata["config"])), dict(metadata["clip"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its metadata is not that of a policy ({first_line(error)})") from None
    if [*own.values()] != [*clip.values()]:
        raise WeightsError(
            f"{path}: the policy learned on the CLIP {', '.join(own)}, not on this {', '.join(clip)}; name that file "
            "as clip.pretrained"
        )
    weights.load_strictly(policy, state, str(path))
    return policy.eval().requires_grad_(False), sha256_file(path)


def save(path: Path, policy: Policy, clip: Mapping[str, str], recipe: Mapping[str, Any]) -> None:
    """Write a policy (float16) with the hash of its CLIP; the file appears whole or not at all. Raises RunError."""
    config = policy.config.model_dump(mode="json")
    metadata = {"format": FORMAT, "config": config, "clip": dict(clip), "recipe": dict(recipe)}
    weights.write_safetensors(path, policy.state_dict(), metadata)
