"""One optimiser step: the gradient of all its samples however they are cut, and what stops it."""

import gc
import math
import re

import pytest
import torch
from operators import Operators
from small_grounder import SmallTask
from training_world import Stepping

from bench.errors import DeviceError
from bench.training.gradient_check import gradient_check
from bench.training.step import NotFiniteError, frozen_modules, spread
from bench.training.task import ParameterGroup


@pytest.fixture
def stepping(job):
    return lambda task=SmallTask, **changes: Stepping(task(job(**{"reference_batch": 16, "batch": 16, **changes})))


def farthest(mine, theirs):
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


@pytest.mark.parametrize("batch", [8, 4, 2])
def test_a_step_is_the_same_however_it_is_cut(stepping, batch):
    whole, cut = stepping(), stepping(batch=batch)
    wanted, values = whole.step(1), cut.step(1)  # the second step has 9 rows: the parts are of unlike length
    assert len(cut.batches(1)) == -(-9 // batch) and values == pytest.approx(wanted, abs=1e-6)
    assert farthest(cut.gradients(), whole.gradients()) < 1e-5
    assert max(float(g.abs().max()) for g in whole.gradients().values()) > 1e-2
    assert values["loss"] == pytest.approx(5 * values["l1"] + 2 * values["giou"], rel=1e-5)


class Random(SmallTask):
    """With losses that draw at random, and dropout."""

    def losses(self, batch, rng):
        terms = super().losses(batch, rng)
        noise = torch.rand(len(batch.ids), generator=rng)
        return terms | {"l1": torch.nn.functional.dropout(terms["l1"] * noise, 0.3)}


def test_randomness_is_a_function_of_seed_and_step(stepping):
    runs = [stepping(Random, batch=8) for _ in range(2)]
    torch.rand(7)  # what was drawn before is of no account
    first = [run.step(1)["loss"] for run in runs]
    assert first[0] == first[1] and farthest(*[run.weights() for run in runs]) == 0
    batches = runs[0].batches()
    assert runs[0].step(2, batches)["loss"] != runs[1].step(3, batches)["loss"]


class HalfFrozen(SmallTask):
    """Trains the head alone."""

    def parameter_groups(self):
        return [ParameterGroup({n: p for n, p in self.model.named_parameters() if n.startswith("box.")})]


def test_what_is_in_no_group_is_frozen(stepping):
    mine = stepping(HalfFrozen)
    before = {name: p.detach().clone() for name, p in mine.task.model.named_parameters()}
    mine.step()
    moved = {name for name, p in mine.task.model.named_parameters() if not torch.equal(before[name], p)}
    assert moved == set(mine.steps.trained) and all(name.startswith("box.") for name in moved)
    assert not mine.task.model.image.training and mine.task.model.box.training
    assert frozen_modules(mine.task.model) == [mine.task.model.image, mine.task.model.words]


def test_bfloat16_runs_on_a_cpu(stepping):
    rounded, exact = stepping(dtype="bfloat16"), stepping()
    values = rounded.step()["loss"]
    assert values == pytest.approx(exact.step()["loss"], rel=0.05) and values != exact.step()["loss"]
    assert all(p.dtype == torch.float32 for p in rounded.steps.trained.values())
    assert exact.task.config.precision("cuda") == "bfloat16"


def test_the_gradient_is_clipped_and_the_rate_is_the_optimisers(stepping):
    def norm(run):
        return math.sqrt(sum(float(g.square().sum()) for g in run.gradients().values()))

    loose, tight = stepping(), stepping(clip_norm=0.05, warm_up=4)
    loose.step()
    assert tight.step(1)["learning_rate"] == pytest.approx(0.0005) == tight.steps.optimiser.param_groups[0]["lr"]
    assert norm(loose) > 0.2 and norm(tight) == pytest.approx(0.05, rel=1e-3)


def test_a_loss_that_is_not_finite_changes_nothing(stepping):
    mine = stepping(batch=4)
    mine.step()
    before, moments = mine.weights(), mine.steps.optimiser.state_dict()["state"][0]["exp_avg"].clone()
    batches = mine.batches(1)
    batches[1][1].targets[0, 2] = float("nan")
    with pytest.raises(NotFiniteError, match="loss nan, l1 nan") as stopped:
        mine.step(1, batches)
    assert stopped.value.rows == [batches[1][0].rows[0]] and farthest(before, mine.weights()) == 0
    assert torch.equal(moments, mine.steps.optimiser.state_dict()["state"][0]["exp_avg"])
    mine.step(1)  # the gradients of the bad step are gone
    assert all(torch.isfinite(w).all() for w in mine.weights().values())


@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_a_gradient_that_is_not_finite_changes_nothing_either(stepping, clip_norm):
    mine = stepping(clip_norm=clip_norm)
    before = mine.weights()
    mine.task.model.image.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NotFiniteError, match="gradient") as stopped:
        mine.step()
    assert farthest(before, mine.weights()) == 0 and len(stopped.value.rows) == 16


def test_a_step_is_not_waited_for(stepping):
    mine = stepping(batch=4, clip_norm=0.1)
    mine.step()
    batches = mine.batches(1)
    with Operators() as operators:
        taken = mine.steps.step(1, batches)
    assert operators.waiting == [] and operators.launched.total() > 20
    assert taken.number == 1 and taken.read().keys() == {"loss", "l1", "giou", "learning_rate", "spread"}


def test_a_step_after_one_that_is_not_finite_starts_from_the_same_weights(stepping):
    """The next step is on its way before the values of the bad one are read."""
    bad, good = stepping(), stepping()
    for each in (bad, good):
        each.step()
    batches = bad.batches(1)
    batches[0][1].targets[0, 2] = float("nan")
    taken = bad.steps.step(1, batches)
    assert farthest(bad.weights(), good.weights()) == 0
    assert bad.step(2) == good.step(2) and farthest(bad.weights(), good.weights()) == 0
    with pytest.raises(NotFiniteError):
        taken.read()


class Tight(SmallTask):
    """With room for so many rows."""

    room = 0

    def losses(self, batch, rng):
        if len(batch.ids) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB\nlines of statistics")
        return super().losses(batch, rng)


@pytest.mark.parametrize(("room", "fits"), [(15, 8), (1, 1)])
def test_out_of_memory_names_what_fits(stepping, monkeypatch, room, fits):
    monkeypatch.setattr(gc, "collect", int)  # slow beside other tests' objects
    monkeypatch.setattr(Tight, "room", room)
    mine = stepping(Tight)
    before = mine.weights()
    with pytest.raises(DeviceError) as refused:
        mine.step()
    message = str(refused.value)
    assert f"out of memory with batch = 16 (CUDA out of memory. Tried to allocate 2.00 GiB). {fits} rows fit" in message
    assert f"--set batch={fits} " in message and 'adapt = "accumulate"' in message
    assert farthest(before, mine.weights()) == 0
    stepping(Tight, batch=int(re.search(r"batch=(\d+)", message)[1])).step()  # what it says is true


def test_not_even_one_row_fits_and_other_errors(stepping, monkeypatch):
    monkeypatch.setattr(gc, "collect", int)
    for batch in (2, 1):
        with pytest.raises(DeviceError, match=r"a single row \(CUDA out of memory"):
            stepping(Tight, batch=batch).step()
    mine = stepping()
    monkeypatch.setattr(mine.task.model, "fuse", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        mine.step()


def test_all_tensors_of_a_batch_move_together(job):
    task = SmallTask(job())
    batch = task.collate([task.dataset().sample(0, row) for row in range(3)])
    moved = batch._each(lambda tensor: tensor.double())  # as `to` and `pin_memory` do
    assert {moved.pixels.dtype, moved.ids.dtype, moved.targets.dtype} == {torch.float64}
    assert batch.to(torch.device("cpu")).ids.dtype == torch.int64


def test_spread():
    boxes = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.5, 0.6]])
    assert float(spread(boxes, boxes)) == pytest.approx(1) and spread(boxes[:1].expand(2, 4), boxes) == 0
    assert spread(boxes / 2, boxes) == pytest.approx(0.5) and spread(boxes[:1], boxes[:1]) == 1
    assert math.isfinite(spread(boxes, boxes[:1].expand(2, 4)))


def test_the_gradient_check_is_a_step_over_all_samples(job):
    numbers = gradient_check(SmallTask(job()))
    mine = Stepping(SmallTask(job(reference_batch=25, batch=25)))
    values = mine.step()
    for name in ("loss", "l1", "giou"):
        assert numbers[name] == pytest.approx(values[name], rel=1e-5)
    norms = {name: float(g.norm()) for name, g in mine.gradients().items()}
    assert numbers["gradient_norms"] == pytest.approx(norms, rel=1e-4) and numbers["rows"] == 25
    assert len(numbers["boxes_cxcywh"]) == 25
