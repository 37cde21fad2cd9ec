"""The trainer: what a training writes, what it resumes from, when it stops."""

import logging
import math

import pytest
import torch
from small_grounder import Expressions, SmallTask
from training_world import lines_of

from bench.errors import DataError, RunError, UsageError
from bench.training import trainer
from bench.training.step import OptimisationStep
from bench.training.trainer import train
from pipelines.weights import read_safetensors
from tools.benchmarks.kills import killed_at, to_bytes


def ran(job):
    """The training, its weights' tensors and its lines."""
    made = train(SmallTask(job))
    return made, read_safetensors(made.path)[0], lines_of(job.out)


def step_file(job):
    return torch.load(job.out / "small.run/last.pt", weights_only=True)


@pytest.mark.slow
def test_what_a_training_leaves(job, caplog):
    caplog.set_level(logging.INFO, "bench.train")
    mine = job()
    made, tensors, written = ran(mine)
    assert made.path == mine.out / "small.safetensors" and tensors.keys() == SmallTask(mine).model.state_dict().keys()
    names = {path.name for path in (mine.out / "small.run").iterdir()}
    assert names == {"last.pt", "best.safetensors", "training.jsonl", "curves.svg"}
    assert (mine.out / "small.run/curves.svg").read_text().startswith("<svg")
    steps = [line for line in written if "loss" in line]
    assert [(line["step"], line["epoch"]) for line in steps] == [(n, 1 + (n > 4)) for n in range(1, 9)]
    assert {"l1", "giou", "learning_rate", "spread", "rows_per_second", "waiting", "seconds"} <= steps[0].keys()
    assert all(0 <= line["waiting"] <= 1 and math.isfinite(line["loss"]) for line in steps)
    scores = [line for line in written if "loss" not in line]
    assert [(line["step"], line["epoch"], line["n"]) for line in scores] == [(4, 1, 6), (8, 2, 6)]
    assert made.notes["chosen_on"] == "shapes-val" and made.notes["best"]["epoch"] in (1, 2)
    assert made.notes["best"]["accuracy"] == max(line["accuracy"] for line in scores)
    assert (made.notes["steps"], made.notes["effective_batch"]) == (8, 8)
    assert made.recipe["learning_rate"] == 1e-3 and set(made.score) >= {"accuracy", "mean_iou", "n"}
    best = scores[made.notes["best"]["epoch"] - 1]
    assert made.score["mean_iou"] == pytest.approx(best["mean_iou"], abs=1e-3)  # the file's, in float16
    for text in ("epoch 2 of 2, step 8 of 8", "on shapes-val (best", f"weights in {made.path}"):
        assert text in caplog.text


@pytest.mark.slow
def test_it_learns(job):
    _, _, written = ran(job(epochs=30, learning_rate=3e-3, validate_every=30, log_every=8))
    losses = [line["loss"] for line in written if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    assert [line["epoch"] for line in written if "accuracy" in line] == [30]


@pytest.mark.slow
def test_the_seed_decides(job):
    first, again, other = (ran(job(n, fields={"seed": s}))[1] for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert to_bytes(first) == to_bytes(again) and to_bytes(first) != to_bytes(other)


@pytest.mark.slow
def test_a_finished_training_computes_nothing_again(job, monkeypatch):
    mine = job()
    made, tensors, written = ran(mine)
    before = (mine.out / "small.run/last.pt").read_bytes()
    monkeypatch.setattr(OptimisationStep, "step", lambda *_: pytest.fail("a step was taken"))
    monkeypatch.setattr(trainer, "batches_ahead", lambda *_: pytest.fail("a row was drawn"))
    again, same_tensors, same_lines = ran(mine)
    assert again.score == made.score and again.notes == made.notes and same_lines == written
    assert (mine.out / "small.run/last.pt").read_bytes() == before and to_bytes(tensors) == to_bytes(same_tensors)


@pytest.mark.slow
def test_another_config_is_refused_until_it_is_to_start_anew(job):
    train(SmallTask(job(epochs=1)))
    with pytest.raises(RunError, match="4 steps with other settings") as refused:
        train(SmallTask(job(epochs=1, learning_rate=2e-3)))
    assert "learning_rate: 0.001 there, 0.002 now" in str(refused.value) and "epochs" not in str(refused.value)
    with pytest.raises(RunError, match="rows in a step: 8 there, 16 now"):
        train(SmallTask(job(epochs=1, reference_batch=16)))
    with pytest.raises(RunError, match="seed: 0 there, 1 now"):
        train(SmallTask(job(epochs=1, fields={"seed": 1})))
    free = {"log_every": 3, "workers": 1, "save_every": 7, "validate_every": 2, "early_stop": 5, "collapse_window": 11}
    train(SmallTask(job(epochs=1, batch=2, **free)))  # none of it changes the weights
    made = train(SmallTask(job(epochs=1, learning_rate=2e-3, fields={"fresh": True})))
    assert made.recipe["learning_rate"] == 2e-3


@pytest.mark.slow
def test_a_fresh_start_never_resumes_the_old_one(job):
    """Stopped before its first step file, a fresh training must not resume the old one."""
    old = ran(job(epochs=1, save_every=99))[1]
    fresh = job(epochs=1, save_every=99, learning_rate=2e-3, fields={"fresh": True})
    assert killed_at(OptimisationStep, "step", 2, lambda: train(SmallTask(fresh)))
    made, tensors, _ = ran(job(epochs=1, save_every=99, learning_rate=2e-3))
    assert made.notes["steps"] == 4 and to_bytes(old) != to_bytes(tensors)


@pytest.mark.slow
def test_a_length_in_steps_ends_within_an_epoch(job):
    made, _, written = ran(job(steps=6, save_every=99))
    assert made.notes["steps"] == 6 == written[-1]["step"] == step_file(job())["step"]
    assert train(SmallTask(job(steps=6, save_every=99))).notes["steps"] == 6


def scored(*accuracies):
    """A validation with these accuracies one after the other, then 0.5."""
    left = iter(accuracies)
    return {"validate": lambda *_, **__: {"accuracy": next(left, 0.5), "mean_iou": 0.1, "n": 6.0}}


@pytest.mark.slow
def test_the_best_weights_are_kept_not_the_last(job):
    mine = job(epochs=3, fields=scored(0.2, 0.6, 0.4))
    made, tensors, _ = ran(mine)
    assert made.notes["best"] == {"accuracy": 0.6, "epoch": 2, "step": 8}
    last = step_file(mine)["trained"]
    assert not all(torch.equal(tensors[key], last[key].half().float()) for key in tensors)
    assert to_bytes(tensors) == to_bytes(read_safetensors(mine.out / "small.run/best.safetensors")[0])


@pytest.mark.slow
@pytest.mark.parametrize(("every", "patience", "accuracies", "steps"), [
    (1, 2, (0.5, 0.6, 0.4, 0.3, 0.2), 16),
    (1, 2, (0.5, 0.6, 0.4, 0.7, 0.6, 0.5), 24),
    (2, 1, (0.5, 0.4), 16),  # an epoch that was not validated is not one without a better one
    (1, 0, (0.5,) * 6, 24),
])  # fmt: skip
def test_early_stop(job, every, patience, accuracies, steps):
    changes = {"epochs": 6, "early_stop": patience, "validate_every": every, "save_every": 99}
    made = train(SmallTask(job(**changes, fields=scored(*accuracies))))
    assert made.notes["steps"] == steps and made.notes["best"]["accuracy"] == max(accuracies)
    assert train(SmallTask(job(**changes, fields=scored(*accuracies)))).notes["steps"] == steps  # and it stays stopped


@pytest.mark.slow
def test_the_average_of_the_weights_is_what_is_scored_and_kept(job):
    plain, averaged = job("plain", epochs=1), job("averaged", epochs=1, ema=0.5)
    weights, kept = ran(plain)[1], ran(averaged)[1]
    first, second = step_file(plain), step_file(averaged)
    assert to_bytes(first["trained"]) == to_bytes(second["trained"]) and not first["average"]
    key = "box.2.weight"
    assert torch.equal(kept[key], second["average"][key].half().float()) and not torch.equal(kept[key], weights[key])


def test_a_loss_that_is_not_finite_names_its_samples(job, monkeypatch):
    task = SmallTask(job(save_every=1))
    real = Expressions.sample

    def poisoned(self, epoch, index):
        image, ids, target = real(self, epoch, index)
        return image, ids, target * (float("nan") if index == 7 else 1)

    monkeypatch.setattr(Expressions, "sample", poisoned)
    with pytest.raises(RunError, match=r"not finite at step \d+ .*last good weights") as stopped:
        train(task)
    assert f"Samples to blame: {task.dataset().name(7)} (all in" in str(stopped.value)
    assert (task.job.out / "small.run/not-finite.0.json").is_file()


def test_a_line_is_written_a_step_later_or_before_anything_else_is(job, monkeypatch):
    lines, real = [], OptimisationStep.step

    def counted(self, number, batches):
        lines.append([line["step"] for line in lines_of(mine.out) if "loss" in line])
        return real(self, number, batches)

    mine = job(epochs=1, save_every=3)
    monkeypatch.setattr(OptimisationStep, "step", counted)
    monkeypatch.setattr(trainer, "save", lambda path, state: lines.append(state.step))
    train(SmallTask(mine))
    assert lines == [[], [], [1], 3, [1, 2, 3], 4]  # before each of four steps, and at each step file
    assert [line["step"] for line in lines_of(mine.out) if "loss" in line] == [1, 2, 3, 4]


@pytest.mark.parametrize(("save_every", "resumes_after"), [(1, 2), (3, 0), (99, 0)])
def test_no_step_file_is_written_after_a_loss_that_is_not_finite(job, monkeypatch, save_every, resumes_after):
    mine = job(epochs=1, save_every=save_every)
    task, real = SmallTask(mine), SmallTask.losses

    def poisoned(self, batch, rng):
        steps.append(len(batch.ids))
        terms = real(self, batch, rng)
        return terms | {"l1": terms["l1"] * (float("nan") if len(steps) == 5 else 1)}  # the third step's

    steps = []
    monkeypatch.setattr(SmallTask, "losses", poisoned)
    with pytest.raises(RunError, match="not finite at step 3 "):
        train(task)
    path = mine.out / "small.run/last.pt"
    assert (step_file(mine)["step"] if path.exists() else 0) == resumes_after
    assert all(torch.isfinite(p).all() for p in task.model.parameters())


class WholeBatch(SmallTask):
    """A loss that is one number for all samples."""

    loss_scope = "batch"

    def losses(self, batch, rng):
        return {name: term.mean() for name, term in super().losses(batch, rng).items() if name in self.loss_weights}


def test_a_task_whose_samples_have_no_images_to_group_by_says_so(job):
    with pytest.raises(UsageError, match='group = "image": its samples are not grouped by image; leave group out'):
        train(SmallTask(job(group="image")))


@pytest.mark.slow
def test_a_broken_row_and_a_loss_of_the_whole_batch_are_refused(job, monkeypatch):
    with pytest.raises(UsageError, match=r"gradients of parts do not add up.*batch=8"):
        train(WholeBatch(job()))
    train(WholeBatch(job(batch=8, epochs=1)))  # in one pass
    monkeypatch.setattr(Expressions, "sample", lambda *_: (_ for _ in ()).throw(DataError("x.png: bad")))
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^x.png: bad$"):
            train(SmallTask(job(str(workers), workers=workers)))


def test_ctrl_c_says_how_to_resume(job, monkeypatch, caplog):
    real, calls = OptimisationStep.step, iter(range(9))

    def interrupted(self, *arguments):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(OptimisationStep, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(SmallTask(job()))
    assert "stopped after step 3; the same command resumes it: " in caplog.text
