"""The step file: everything a training needs to go on as if it had never been stopped.

Data order, augmentation and dropout are functions of the step, so weights, buffers and the optimiser's moments are all
there is. The file appears whole or not at all; a full disk or a kill leaves the one before.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import RunError, first_line
from bench.runs.files import write_atomically

FORMAT = 3


@dataclass
class State:
    """`step` counts the steps done, `seconds` is their time in all sessions, `average` the EMA of the weights where
    there is one, `buffers` what forward passes change (running means)."""

    identity: dict[str, str]
    step: int = 0
    trained: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def save(path: Path, state: State) -> None:
    """Write the step file. Raises RunError when it cannot be written; then the file before it is still there."""
    file = io.BytesIO()
    torch.save({"format": FORMAT, **vars(state)}, file)
    write_atomically(path, file.getvalue())


def load(path: Path, identity: Mapping[str, str]) -> State | None:
    """Return what was saved, None where nothing was. Raises RunError for another training's file, or a broken one."""
    if not path.is_file():
        return None
    try:
        table = torch.load(path, map_location="cpu", weights_only=True)
        if table.pop("format") != FORMAT:
            raise ValueError("written by another version")
        state = State(**table)
    except Exception as error:  # weights_only raises several kinds for broken and for hostile files
        raise RunError(f"{path}: no step file to resume from ({first_line(error)}); --fresh starts anew") from None
    other = [f"{key}: {state.identity.get(key)} there, {identity[key]} now" for key in identity
             if state.identity.get(key) != identity[key]]  # fmt: skip
    if other:
        raise RunError(
            f"{path}: a training of {state.step:,} steps with other settings ({'; '.join(other)}); "
            "--fresh starts anew, --out names another folder"
        )
    return state


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's persistent buffers by name."""
    parameters = dict(model.named_parameters())
    return {name: tensor for name, tensor in model.state_dict().items() if name not in parameters}


@torch.no_grad()
def update_ema(average: dict[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """Move the average of the weights one step on."""
    for name, tensor in weights.items():
        average[name].lerp_(tensor, 1 - decay)


@contextmanager
def ema_weights(weights: Mapping[str, nn.Parameter | Tensor], average: Mapping[str, Tensor]) -> Iterator[None]:
    """Put the average in the place of the weights inside the block; does nothing where there is none."""
    with torch.no_grad():
        before = {name: weights[name].clone() for name in average}
        for name, tensor in average.items():
            weights[name].copy_(tensor)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in before.items():
                weights[name].copy_(tensor)
