"""Killing a training anywhere and resuming it: for any task; what is left has to be the same bits."""

import json

import pytest
import torch

from bench.training import trainer
from bench.training.log import TrainingLog
from bench.training.step import OptimisationStep
from bench.training.trainer import Trainer
from pipelines.weights import read_safetensors

TIMES = {"seconds", "rows_per_second", "waiting"}
# (owner, name, call from 1, whether the kill comes after the call), and the step that is resumed after, for 2 epochs of
# 4 steps with save_every = 3.
PLACES = {
    "before the first step": ((OptimisationStep, "step", 1), 0),
    "before anything is saved": ((OptimisationStep, "step", 3), 0),
    "within an epoch": ((OptimisationStep, "step", 6), 4),
    "after a step that nobody saved": ((OptimisationStep, "step", 8, True), 6),
    "before the second step file": ((trainer, "save", 2), 3),
    "after the second step file": ((trainer, "save", 2, True), 4),
    "before a validation": ((Trainer, "_validate", 2), 6),
    "after a validation": ((Trainer, "_validate", 2, True), 6),
    "while curves are drawn": ((TrainingLog, "draw", 2), 6),
    "at the end": ((Trainer, "_finish", 1), 8),
    "before the weights have a name": ((trainer, "write_atomically", 1), 8),
}


class KilledError(BaseException):
    """No `except Exception` may catch it."""


def kill(patch, owner, name, call, after=False):
    """Raise in the given call (from 1) of owner.name, before it or after."""
    real, calls = getattr(owner, name), iter(range(1, 10_000))

    def counted(*arguments, **options):
        now = next(calls) == call
        if now and not after:
            raise KilledError
        out = real(*arguments, **options)
        if now:
            raise KilledError
        return out

    patch.setattr(owner, name, counted)


def killed_at(train, folder, places):
    """Run `train()` with each kill in turn, then to the end; return the steps that were resumed after."""
    resumed = []
    for place in places:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
            kill(patch, *place)
            train()
        held = next(folder.glob("*.run/last.pt"), None)
        resumed.append(torch.load(held, weights_only=True)["step"] if held else 0)
    train()
    return resumed


def outcome(folder):
    """Return all that a training left under `folder`, but for how long it took: step file, weights, log lines."""
    (run,) = folder.glob("*.run")
    state = torch.load(run / "last.pt", weights_only=True)
    del state["seconds"]
    lines = [json.loads(line) for line in (run / "training.jsonl").read_text().splitlines()]
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    return {"last.pt": state, "weights": read_safetensors(folder / f"{run.stem}.safetensors"), "lines": lines}


def differences(mine, theirs, where=""):
    """List where two outcomes differ by as much as a bit."""
    if isinstance(mine, torch.Tensor):
        return [] if torch.equal(mine, theirs) else [where]
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = sorted({*mine, *theirs}, key=str)
        return [d for key in keys for d in differences(mine.get(key), theirs.get(key), f"{where}/{key}")]
    if isinstance(mine, list | tuple) and len(mine) == len(theirs):
        pairs = enumerate(zip(mine, theirs, strict=True))
        return [d for number, pair in pairs for d in differences(*pair, f"{where}/{number}")]
    return [] if mine == theirs else [where]
