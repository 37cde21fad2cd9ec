"""Which parameters of a CLIP are trained, and how fast: by the layer they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.errors import SettingsError
from bench.training.optimiser import decay_split, layer_decay
from bench.training.task import ParameterGroup
from pipelines.two_stage.tuning.lora import adapt
from pipelines.two_stage.tuning.recipe import ClipTraining

# A block of a tower, by its number; and what comes before the first one.
BLOCK = re.compile(r"\.(?:resblocks|blocks|layers?|stages)\.(\d+)\.|\.layer(\d)\.")
BEFORE = re.compile(r"(?!.*attn_?pool).*(embedding|conv\d|bn\d|ln_pre|patch_embed|pos_embed|cls_token|stem)")


def levels(names: list[str]) -> dict[str, int]:
    """Count the layers above each parameter in its tower: 0 = the last block and what follows it."""
    depth = {}
    for name in names:
        block = BLOCK.search(name)
        number = next((int(each) for each in block.groups() if each), 0) if block else None
        depth[name] = number if number is not None else -1 if BEFORE.match(name) else None
    towers = {name: name.startswith("visual.") for name in names}
    last = {
        tower: max((d for n, d in depth.items() if d is not None and towers[n] == tower), default=0)
        for tower in (True, False)
    }
    return {name: 0 if d is None else last[towers[name]] - d for name, d in depth.items()}


def parameter_groups(model: Any, config: ClipTraining) -> list[ParameterGroup]:
    """Return what a recipe trains of a CLIP; adapters are put into it. Batch norm stays as it is.

    Raises SettingsError for what the model does not have.
    """
    # 1. Two kinds of training have parameters of their own.
    if config.train == "lora":
        return decay_split(adapt(model, config.model, config.lora_rank, config.lora_alpha, config.lora_dropout))
    if config.train == "projection":
        return decay_split(projections(model, config.model))
    # 2. All others train layers, the deeper the slower.
    frozen = {
        f"{owner}.{name}"
        for owner, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    named = {name: p for name, p in model.named_parameters() if name not in frozen}
    above = levels(list(named))

    def chosen(name: str) -> bool:
        if name.startswith("logit_"):
            return True
        image = name.startswith("visual.")
        return {"image": image, "text": not image, "last": above[name] == 0}.get(config.train, True)

    layers = [
        {name: p for name, p in named.items() if above[name] == level and chosen(name)}
        for level in reversed(range(max(above.values()) + 1))
    ]
    return layer_decay(layers, config.layer_decay)


def projections(model: Any, name: str) -> Mapping[str, nn.Parameter]:
    """Return the two matrices at the ends of a CLIP's towers. Raises SettingsError where these are no matrices."""
    text = getattr(model, "text", model)
    ends = {
        "visual.proj": getattr(model.visual, "proj", None),
        f"{'text.' if text is not model else ''}text_projection": getattr(text, "text_projection", None),
    }
    if not all(isinstance(end, nn.Parameter) for end in ends.values()):
        raise SettingsError(
            f"{name}: train = projection needs a matrix at the end of both towers, as open_clip's ViTs have; "
            "train = last would do"
        )
    return ends  # type: ignore[return-value]


class Unprojected:
    """A CLIP without its two projections, for as long as the block lasts."""

    def __init__(self, model: Any) -> None:
        self.places = [(model.visual, "proj"), (getattr(model, "text", model), "text_projection")]

    def __enter__(self) -> None:
        self.kept = [getattr(owner, name) for owner, name in self.places]
        for owner, name in self.places:
            setattr(owner, name, None)

    def __exit__(self, *_: object) -> None:
        for (owner, name), matrix in zip(self.places, self.kept, strict=True):
            setattr(owner, name, matrix)


def projected(features: Tensor, model: Any, image: bool) -> Tensor:
    """Project features of a tower (..., W) to unit vectors (..., D)."""
    end = model.visual.proj if image else getattr(model, "text", model).text_projection
    out: Tensor = nn.functional.normalize(features @ end, dim=-1)
    return out
