"""A world for trainings: a few scenes of shapes, and jobs on them. Users import its fixtures in their conftest.py.

Killed anywhere and started again, a training has to end in the same bits as one that was left alone: `outcome` is all
that a training leaves, `killed` stops one at a given call, `stopped_and_resumed` compares the two.
"""

import json
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from bench.datasets.shapes import ShapesImages, make_scene
from bench.errors import UsageError
from bench.evaluation.validation import on_split
from bench.training.task import TrainingJob
from bench.training.trainer import Trainer, train
from pipelines.weights import read_safetensors

TIMES = {"seconds", "rows_per_second", "waiting"}


class DrawnOnce(ShapesImages):
    """Every image is drawn once: that takes longer than a step here."""

    @cache  # noqa: B019 - there is one source, for as long as the tests run
    def load(self, scene):
        return super().load(scene)


IMAGES = DrawnOnce(2026)
SCENES = tuple(make_scene(2026, "train", i) for i in range(4))  # 25 expressions
VALIDATION = tuple(make_scene(2026, "val", i) for i in range(2))


@pytest.fixture(scope="session")
def scenes():
    """What is trained on: 4 scenes, 25 expressions."""
    return SCENES


@pytest.fixture(scope="session")
def images():
    """The source of their images."""
    return IMAGES


@pytest.fixture
def make_job(context, tmp_path):
    """make_job(name, table, out="out", ...): what `bench train` hands to a task of the pipeline `name`."""

    def make(name, table, out="out", *, fresh=False, seed=0, scenes=SCENES, images=IMAGES, validate=None, **fields):
        return TrainingJob(
            scenes=scenes,
            images=images,
            validation=VALIDATION,
            validation_images=IMAGES,
            recipe=table,
            out=tmp_path / out,
            context=context(name=name, dataset="shapes", seed=seed),
            validate=validate or on_split(VALIDATION, IMAGES),
            split_name="shapes-train",
            validation_name="shapes-val",
            fingerprint="f" * 64,
            fresh=fresh,
            **fields,
        )

    return make


def differences(mine, theirs, where=""):
    """List where two nested tables of tensors and plain values differ by as much as a bit."""
    if isinstance(mine, torch.Tensor):
        equal = isinstance(theirs, torch.Tensor) and mine.dtype == theirs.dtype and torch.equal(mine, theirs)
        return [] if equal else [where]
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = sorted({*mine, *theirs}, key=str)
        return [d for key in keys for d in differences(mine.get(key), theirs.get(key), f"{where}/{key}")]
    if isinstance(mine, list | tuple) and isinstance(theirs, list | tuple) and len(mine) == len(theirs):
        pairs = enumerate(zip(mine, theirs, strict=True))
        return [d for number, pair in pairs for d in differences(*pair, f"{where}/{number}")]
    return [] if mine == theirs else [where]


def same(mine, theirs):
    """Whether two nested tables are equal to the last bit."""
    return not differences(mine, theirs)


class KilledError(BaseException):
    """No `except Exception` may catch it."""


def killed(patch, owner, name, call, after=False):
    """Make the given call (from 1) of owner.name raise, before or after its work."""
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


def lines_of(folder):
    """The lines of training.jsonl of the one training under a folder."""
    (path,) = folder.glob("*.run/training.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcome(folder):
    """All that a training left under a folder, but for how long it took: step file, weights, lines of the log."""
    (run,) = folder.glob("*.run")
    state = torch.load(run / "last.pt", weights_only=True)
    del state["seconds"]
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in lines_of(folder)]
    return {"last.pt": state, "weights": read_safetensors(folder / f"{run.stem}.safetensors"), "lines": lines}


def killed_at(make, places):
    """Train `make("killed")` with a kill at each place in turn, then to the end.

    Returns what the last training returned, and the steps that the others resumed after. `make(out)` gives a new task.
    """
    resumed = []
    for place in places:
        task = make("killed")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
            killed(patch, *place)
            train(task)
        last = next(task.job.out.glob("*.run/last.pt"), None)
        resumed.append(torch.load(last, weights_only=True)["step"] if last else 0)
    return train(make("killed")), resumed


def stopped_and_resumed(make, places):
    """As `killed_at`; asserts the outcome of `make("whole")`, left alone. Returns the steps resumed after."""
    whole = make("whole")
    wanted = train(whole)
    trained, resumed = killed_at(make, places)
    assert not differences(outcome(trained.path.parent), outcome(wanted.path.parent))
    assert without_times(trained.notes) == without_times(wanted.notes) and trained.score == wanted.score
    return resumed


def without_times(notes):
    return {key: value for key, value in notes.items() if key != "seconds"}


def check_one_process(task, tmp_path):
    """Two processes are refused by name, as scope "batch" has to."""
    two = SimpleNamespace(num_processes=2, process_index=0, is_main_process=True, device=torch.device("cpu"))
    with pytest.raises(UsageError, match=r"compares the samples of a whole batch.*start one process"):
        Trainer(task, two, tmp_path)
