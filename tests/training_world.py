"""A world for trainings: a few scenes of shapes, and jobs on them. Users import its fixtures in their conftest.py.

Killed anywhere and started again, a training has to end in the same bits as one that was left alone: `outcome` is all
that a training leaves, `killed` stops one at a given call.
"""

import json
from functools import cache

import pytest
import torch

from bench.datasets.shapes import ShapesPictures, make_scene
from bench.evaluation.validation import on_split
from bench.training.task import TrainingJob
from pipelines.weights import read_safetensors

TIMES = {"seconds", "rows_per_second", "waiting"}


class DrawnOnce(ShapesPictures):
    """Every image is drawn once: that takes longer than a step here."""

    @cache  # noqa: B019 - there is one source, for as long as the tests run
    def load(self, scene):
        return super().load(scene)


PICTURES = DrawnOnce(2026)
SCENES = tuple(make_scene(2026, "train", i) for i in range(4))  # 25 expressions
VALIDATION = tuple(make_scene(2026, "val", i) for i in range(2))


@pytest.fixture(scope="session")
def scenes():
    """What is trained on: 4 scenes, 25 expressions."""
    return SCENES


@pytest.fixture(scope="session")
def pictures():
    """The source of their images."""
    return PICTURES


@pytest.fixture
def make_job(context, tmp_path):
    """make_job(name, table, out="out", ...): what `bench train` hands to a task of the pipeline `name`."""

    def make(name, table, out="out", *, fresh=False, seed=0, scenes=SCENES, pictures=PICTURES, validate=None, **fields):
        return TrainingJob(
            scenes=scenes,
            pictures=pictures,
            validation=VALIDATION,
            validation_pictures=PICTURES,
            recipe=table,
            out=tmp_path / out,
            context=context(name=name, dataset="shapes", seed=seed),
            validate=validate or on_split(VALIDATION, PICTURES),
            split_name="shapes-train",
            validation_name="shapes-val",
            fingerprint="f" * 64,
            fresh=fresh,
            **fields,
        )

    return make


def same(a, b):
    """Whether two nested tables of tensors and plain values are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


class KilledError(BaseException):
    """No `except Exception` may soften it."""


def killed(patch, owner, name, call, after=False):
    """Make the given call (from 1) of owner.name raise, before or after its work."""
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


def lines_of(job, name="small"):
    """The lines of training.jsonl."""
    return [json.loads(line) for line in (job.out / f"{name}.run/training.jsonl").read_text().splitlines()]


def outcome(job, name="small"):
    """All that a training leaves, but for how long it took."""
    state = torch.load(job.out / f"{name}.run/last.pt", weights_only=True)
    del state["seconds"]
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in lines_of(job, name)]
    return state, read_safetensors(job.out / f"{name}.safetensors"), lines


def without_times(notes):
    return {key: value for key, value in notes.items() if key != "seconds"}


def stopped_and_resumed(make, train, kills, name="small"):
    """Train `make("killed")` with each kill, then to the end; assert the outcome of `make("whole")`.

    `make(out)` gives a job, `train(job)` trains it. Returns the step from which each new start resumed.
    """
    whole = make("whole")
    wanted = (train(whole), outcome(whole, name))
    mine, resumed = make("killed"), []
    for place in kills:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
            killed(patch, *place)
            train(mine)
        last = mine.out / f"{name}.run/last.pt"
        resumed.append(torch.load(last, weights_only=True)["step"] if last.is_file() else 0)
    trained = train(mine)
    for what, ours, theirs in zip(("last.pt", "weights", "lines"), outcome(mine, name), wanted[1], strict=True):
        assert same(ours, theirs), what
    assert without_times(trained.notes) == without_times(wanted[0].notes) and trained.score == wanted[0].score
    return resumed
