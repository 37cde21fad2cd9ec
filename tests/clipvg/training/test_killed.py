"""Stopped anywhere and started again, a training ends in the same bits as one that was left alone."""

import json

import pytest
import torch

from clipvg.training import history, stepping, trainer
from clipvg.training.trainer import Training, train
from pipelines.weights import read_safetensors

TIMES = {"seconds", "rows_per_second", "waiting"}
# Everything at once that could carry something over from one step to the next.
WHOLE = {"epochs": 3, "ema": 0.8, "save_every": 3, "warm_up": 3, "clip_norm": 1.0, "auxiliary": "patches"}


class KilledError(BaseException):
    """No `except Exception` may soften it."""


def kill(patch, owner, name, call, after=False):
    """Raises in the given call (from 1) of owner.name, before it or after."""
    real, calls = getattr(owner, name), iter(range(1, 1000))

    def counted(*arguments, **options):
        now = next(calls) == call
        if now and not after:
            raise KilledError
        out = real(*arguments, **options)
        if now:
            raise KilledError
        return out

    patch.setattr(owner, name, counted)


def outcome(job):
    """All that a training leaves, but for how long it took."""
    folder = job.out / "small.run"
    held = torch.load(folder / "last.pt", weights_only=True)
    del held["seconds"]
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    return held, read_safetensors(job.out / "small.safetensors"), lines


@pytest.fixture(scope="module")
def undisturbed():
    """The outcome of the training that nobody stopped, by its recipe."""
    return {}


@pytest.fixture
def compared(job, table, same, undisturbed):
    """compared(kills, **recipe): trains with each kill, then to the end; says where it went on each time."""

    def make(kills, **changes):
        network = table()["network"] | {"dropout": 0.2}
        recipe = WHOLE | {"network": network} | changes
        key = json.dumps(recipe)
        if key not in undisturbed:
            whole = job("whole", **recipe)
            notes = train(whole)["network"].notes
            undisturbed[key] = (*outcome(whole), notes)
        mine, went_on = job("killed", **recipe), []
        for place in kills:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
                kill(patch, *place)
                train(mine)
            held = mine.out / "small.run/last.pt"
            went_on.append(torch.load(held, weights_only=True)["step"] if held.is_file() else 0)
        notes = train(mine)["network"].notes
        found = (*outcome(mine), notes)
        for name, ours, theirs in zip(("last.pt", "weights", "lines"), found, undisturbed[key], strict=False):
            assert same(ours, theirs), name
        assert {k: v for k, v in notes.items() if k != "seconds"} == {
            k: v for k, v in undisturbed[key][3].items() if k != "seconds"
        }
        return went_on

    return make


@pytest.mark.parametrize(
    ("place", "goes_on_after"),
    [
        ((stepping.Stepper, "step", 1), 0),
        ((stepping.Stepper, "step", 3), 0),  # nothing is saved yet
        ((stepping.Stepper, "step", 6), 4),  # in the middle of an epoch, after the file of its end
        ((stepping.Stepper, "step", 8, True), 6),  # the step is taken, the weights are changed, nobody knows
        ((trainer, "save", 2), 3),  # the second file is not written
        ((trainer, "save", 2, True), 4),
        ((Training, "_validate", 2), 6),
        ((Training, "_validate", 2, True), 6),  # the best weights may be those of a step that comes again
        ((trainer, "save_own", 1, True), 3),
        ((history.History, "draw", 3), 9),
        ((Training, "_finish", 1), 12),
        ((trainer, "write_atomically", 1), 12),  # the end is reached, and the weights have no name yet
    ],
)
def test_stopped_once(compared, place, goes_on_after):
    assert compared([place]) == [goes_on_after]


def test_stopped_again_and_again(compared):
    kills = [(stepping.Stepper, "step", n, after) for n, after in ((2, False), (5, True), (1, True), (4, False))]
    kills += [(Training, "_validate", 1, True), (trainer, "save", 1), (Training, "_finish", 1)]
    assert compared(kills)[-1] == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": 2, "epochs": 2},
        {"cache_features": True, "train_positions": False, "schedule": "step"},
        {"augment": {"crop": "official", "flip_share": 0.5, "blur_share": 0.5}, "preprocessing": "official"},
        {"dtype": "bfloat16", "recompute": True, "epochs": 2},
        {"start": "clip", "epochs": 2},
    ],
)
def test_stopped_whatever_the_recipe(compared, changes):
    compared([(stepping.Stepper, "step", 6), (stepping.Stepper, "step", 2)], **changes)


def test_what_is_written_after_a_stop_replaces_what_was_written_before(job):
    """Lines of steps that are taken again are not there twice."""
    mine = job(save_every=99)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        kill(patch, stepping.Stepper, "step", 8)
        train(mine)
    path = mine.out / "small.run/training.jsonl"
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 4, 5, 6, 7]
    train(mine)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_half_written_files_of_a_kill_are_cleared_away(job):
    mine = job(epochs=1)
    folder = mine.out / "small.run"
    folder.mkdir(parents=True)
    (folder / ".last.pt.123.tmp").write_bytes(b"half")
    train(mine)
    assert not list(folder.glob(".*"))
