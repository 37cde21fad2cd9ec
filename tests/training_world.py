"""A world for trainings: a few scenes of shapes, and jobs on them. Users import its fixtures in their conftest.py.

Killed anywhere and started again, a training has to end in the same bits as one left alone: `stopped_and_resumed`.
"""

import json
import os
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from typer.testing import CliRunner

from bench.cli.main import app
from bench.datasets.shapes import ShapesImages, make_scene
from bench.errors import UsageError
from bench.evaluation.validation import on_split
from bench.training.config import batch_plan
from bench.training.sampler import MicroBatches, StepSampler, micro_batches
from bench.training.step import OptimisationStep
from bench.training.task import TrainingJob
from bench.training.trainer import Trainer, train
from tools.benchmarks.kills import killed_at, training_outcome

LIMIT_S = 600  # on a machine full of other work; a few seconds are enough


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
            scenes=scenes, images=images, validation=VALIDATION, validation_images=IMAGES, recipe=table,
            out=tmp_path / out, context=context(name=name, dataset="shapes", seed=seed),
            validate=validate or on_split(VALIDATION, IMAGES), split_name="shapes-train", validation_name="shapes-val",
            fingerprint="f" * 64, fresh=fresh, **fields,
        )  # fmt: skip

    return make


def lines_of(folder):
    """The lines of training.jsonl of the one training under a folder."""
    (path,) = folder.glob("*.run/training.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


class Stepping:
    """A task and its steps; the rows of each as the trainer draws them, or as in evaluation."""

    def __init__(self, task, augment=True):
        self.task = task
        self.data = MicroBatches(task, task.dataset(augment))
        self.plan = batch_plan(task.config, 1)
        self.sampler = StepSampler(len(self.data.dataset), self.plan.effective, 0)
        self.steps = OptimisationStep(Accelerator(cpu=True), task, self.plan, self.sampler, 8, self.data.draw)

    def batches(self, number=0):
        micros = micro_batches(self.sampler, number, number + 1, self.plan.batch, 0, 1)
        return [(micro, self.data.draw(micro)) for micro in micros]

    def step(self, number=0, batches=None):
        return self.steps.step(number, batches or self.batches(number)).read()

    def gradients(self):
        return {name: p.grad.clone() for name, p in self.steps.trained.items()}

    def weights(self):
        return {name: p.detach().clone() for name, p in self.steps.trained.items()}


def without_times(notes):
    return {key: value for key, value in notes.items() if key != "seconds"}


def stopped_and_resumed(make, places):
    """Kill the training of `make("killed")` at each place in turn; at its end it leaves what `make("whole")` leaves.

    A place is (owner, name, call[, after]), see `killed_at`; `make(out)` gives a new task. Returns the step of the step
    file at each kill.
    """
    whole = train(make("whole"))
    steps = []
    for place in places:
        task = make("killed")
        owner, name, call, *after = place
        assert killed_at(owner, name, call, lambda task=task: train(task), *after), (
            f"{name} was not called {call} times"
        )
        path = next(task.job.out.glob("*.run/last.pt"), None)
        steps.append(torch.load(path, weights_only=True)["step"] if path else 0)
    trained = train(make("killed"))
    assert training_outcome(trained.path.parent) == training_outcome(whole.path.parent)
    assert without_times(trained.notes) == without_times(whole.notes) and trained.score == whole.score
    return steps


def run_training(processes, words):
    """Run `bench train` with these words in so many processes on a CPU, as torchrun starts them; one in this one."""
    words = [*words, "--device", "cpu", "--json"]
    if processes == 1:
        result = CliRunner().invoke(app, ["train", *words])
        return subprocess.CompletedProcess(words, result.exit_code, result.stdout, result.stderr)
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [sys.executable, "-m", *launcher, "bench.cli.main", "train", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=env)


def check_alike(two, one, steps, rtol=1e-4, noisy=()):
    """Check that the training under `two` is that under `one`, but for the order of sums; return their score lines."""
    states = [torch.load(next(out.glob("*.run/last.pt")), weights_only=True) for out in (two, one)]
    assert states[0]["identity"] == states[1]["identity"] and states[0]["step"] == states[1]["step"] == steps
    # Adam hides a gradient of the wrong size from the weights; its moments do not.
    mine, theirs = (state["optimiser"]["state"] for state in states)
    for number, moments in theirs.items():
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(mine[number][name], moments[name], rtol=rtol, atol=1e-6)
    for kind in ("trained", "average"):
        for name, weight in states[1][kind].items():
            torch.testing.assert_close(
                states[0][kind][name], weight, rtol=0, atol=1e-4 if name.endswith(noisy) else 1e-5
            )
    losses = [[line["loss"] for line in lines_of(out) if "loss" in line] for out in (two, one)]
    assert len(losses[0]) == steps and losses[0] == pytest.approx(losses[1], rel=1e-4)
    records = [json.loads(next(out.glob("*.json")).read_text()) for out in (two, one)]
    assert [record["processes"] for record in records] == [2, 1]
    assert len({record["training"]["effective_batch"] for record in records}) == 1
    return [[line for line in lines_of(out) if "accuracy" in line] for out in (two, one)]


def check_one_process(task, tmp_path):
    """Two processes are refused by name, as scope "batch" has to."""
    two = SimpleNamespace(num_processes=2, process_index=0, is_main_process=True, device=torch.device("cpu"))
    with pytest.raises(UsageError, match=r"compares the samples of a whole batch.*start one process"):
        Trainer(task, two, tmp_path)
