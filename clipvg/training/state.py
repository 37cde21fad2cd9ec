"""The step file: everything a training needs to go on as if it had never been stopped.

Data order, augmentation and dropout are functions of the step, so weights and the optimiser's moments are all there is.
The file appears whole or not at all; a full disk or a kill leaves the one before.
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

from bench.errors import RunError
from bench.runs.files import write_atomically
from pipelines.weights import first_line

FORMAT = 1


@dataclass
class State:
    """`step` is the number of steps done, `seconds` what they took in all sessions, `average` the moving average of the
    weights where there is one.
    """

    identity: dict[str, str]
    step: int = 0
    trained: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def save(path: Path, state: State) -> None:
    """Raises RunError when it cannot be written; then the file before it is still there."""
    file = io.BytesIO()
    torch.save({"format": FORMAT, **vars(state)}, file)
    write_atomically(path, file.getvalue())


def load(path: Path, identity: Mapping[str, str]) -> State | None:
    """What was saved; None where nothing was. Raises RunError for another training's file, or a broken one."""
    if not path.is_file():
        return None
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        if held.pop("format") != FORMAT:
            raise ValueError("written by another version")
        state = State(**held)
    except Exception as error:  # weights_only raises several kinds for broken and for hostile files
        raise RunError(f"{path}: no step file to go on from ({first_line(error)}); --fresh begins anew") from None
    other = [f"{key}: {state.identity.get(key)} there, {identity[key]} now" for key in identity
             if state.identity.get(key) != identity[key]]  # fmt: skip
    if other:
        raise RunError(
            f"{path}: a training of {state.step:,} steps with other settings ({'; '.join(other)}); "
            "--fresh begins anew, --out names another folder"
        )
    return state


def follow(average: dict[str, Tensor], trained: Mapping[str, nn.Parameter], decay: float) -> None:
    """Moves the average of the weights a step on."""
    with torch.no_grad():
        for name, parameter in trained.items():
            average[name].lerp_(parameter, 1 - decay)


@contextmanager
def averaged(trained: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> Iterator[None]:
    """The average in the place of the weights, for as long as they are looked at; nothing where there is none."""
    with torch.no_grad():
        before = {name: trained[name].clone() for name in average}
        for name, tensor in average.items():
            trained[name].copy_(tensor)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in before.items():
                trained[name].copy_(tensor)
