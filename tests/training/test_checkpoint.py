"""The step file: whole or not at all, of this training or refused, and never a way to run what somebody put there."""

import os

import pytest
import torch

from bench.errors import RunError
from bench.training.checkpoint import FORMAT, State, ema_weights, load, save, update_ema
from tools.benchmarks.kills import to_bytes

IDENTITY = {"rows": "abc", "seed": "0", "learning_rate": "0.001"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.pt"


def state(step=5, **changes):
    weight = torch.full((3,), float(step))
    optimiser = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": weight}}, "param_groups": [{"lr": 0.1}]}
    fields = {"trained": {"w": weight}, "optimiser": optimiser, "best": {"accuracy": 0.5, "epoch": 1}, "seconds": 2.5}
    return State(IDENTITY, step, **(fields | changes))


def test_what_was_saved_is_what_is_loaded(path):
    assert load(path, IDENTITY) is None
    save(path, state())
    assert to_bytes(vars(load(path, IDENTITY))) == to_bytes(vars(state()))
    save(path, state(6, average={"w": torch.ones(3)}))
    assert load(path, IDENTITY).step == 6 and list(path.parent.iterdir()) == [path]


def test_another_training_is_refused_by_what_differs(path):
    save(path, state())
    with pytest.raises(RunError, match="5 steps with other settings") as refused:
        load(path, IDENTITY | {"seed": "1", "learning_rate": "0.002"})
    message = str(refused.value)
    assert "seed: 0 there, 1 now" in message and "learning_rate: 0.001 there, 0.002 now" in message
    assert "rows:" not in message and "--fresh" in message and "--out" in message


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def broken(kind, path):
    if kind == "hostile":
        torch.save({"format": FORMAT, "step": Hostile(path.with_name("executed"))}, path)
    elif kind == "cut short":
        save(path, state())
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "another format":
        torch.save({"format": 99, **vars(state())}, path)
    elif kind == "no table":
        torch.save([1, 2], path)
    elif kind == "other fields":
        torch.save({"format": FORMAT, "identity": {}, "epoch": 3}, path)
    elif kind == "empty":
        path.touch()
    else:
        path.write_bytes(b"not a file of torch at all")


@pytest.mark.parametrize(
    "kind", ["hostile", "cut short", "another format", "no table", "other fields", "empty", "other bytes"]
)
def test_a_file_that_is_none_is_refused(path, kind):
    broken(kind, path)
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"last\.pt: no step file to resume from.*--fresh starts anew"):
        load(path, IDENTITY)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]  # nothing done, nothing executed


def test_the_average_moves_and_stands_in():
    trained = {"w": torch.nn.Parameter(torch.ones(2)), "b": torch.nn.Parameter(torch.zeros(1))}
    average = {"w": torch.zeros(2), "b": torch.zeros(1)}
    for _ in range(3):
        update_ema(average, trained, 0.5)
    assert average["w"].tolist() == [0.875] * 2
    with ema_weights(trained, average):
        assert trained["w"].tolist() == [0.875] * 2
    assert trained["w"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="x"), ema_weights(trained, average):
        raise ValueError("x")
    assert trained["w"].tolist() == [1, 1]
    with ema_weights(trained, {}):
        assert trained["w"].tolist() == [1, 1]
