"""The CLIP under CLIP-VG: open_clip's, frozen but for the position embedding of its image tower."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.errors import UnknownName, WeightsError
from bench.grounding import PipelineContext
from pipelines.two_stage.clip.encoder import ClipOptions, empty_model, open_model

TRAINED = "visual.positional_embedding"


@dataclass(frozen=True, slots=True)
class FrozenClip:
    """A CLIP, float32. `values` is a hash of its weights, `sha256` that of the file they came from."""

    model: Any
    options: ClipOptions
    values: str
    sha256: Mapping[str, str]


def open_frozen(options: ClipOptions, context: PipelineContext) -> FrozenClip:
    """The CLIP that `options` name, in float32. Raises WeightsError, UnknownName."""
    model, sha256 = open_model(options, replace(context, dtype="float32"))
    checked(model, options.model)
    return FrozenClip(model.eval().requires_grad_(False), options, values_hash(model.state_dict()), sha256)


def causal_mask(length: int) -> Tensor:
    """What CLIP's text tower adds to its attention (length, length): a word looks at none after it."""
    return torch.full((length, length), -torch.inf).triu(1)


def empty_clip(name: str) -> Any:
    """The architecture on "meta", its weights yet to be given. Raises UnknownName, WeightsError."""
    import open_clip

    if name not in open_clip.list_models():
        raise UnknownName("open_clip model", name, open_clip.list_models())
    model = empty_model(name, device="meta")
    checked(model, name)
    return model.eval().requires_grad_(False)


def checked(model: Any, name: str) -> None:
    """Raises WeightsError when a CLIP has not OpenAI's kind of towers: residual blocks after a class token."""
    visual = getattr(model, "visual", None)
    if not all(hasattr(visual, part) for part in ("conv1", "class_embedding", "ln_pre", "transformer")) or not all(
        hasattr(model, part) for part in ("token_embedding", "text_projection", "attn_mask")
    ):
        raise WeightsError(f"CLIP-VG needs a CLIP of two plain transformers, such as ViT-B-16; {name} is none")


def values_hash(state: Mapping[str, Tensor]) -> str:
    """A hash of a CLIP's weights, rounded to float16: the same whatever file and number type they came from.

    Without the one tensor that CLIP-VG trains.
    """
    out = hashlib.sha256()
    for key in sorted(state):
        if key != TRAINED:
            out.update(f"{key} {tuple(state[key].shape)};".encode())
            out.update(state[key].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return out.hexdigest()
