"""One optimiser step: the gradient of all its rows however they are cut, the rate, and what stops it."""

import gc
import math
import re

import pytest
import torch
from accelerate import Accelerator

from bench.errors import DeviceError
from clipvg.model.network import POSITIONS, ClipVG
from clipvg.training.feeding import Words, on_device
from clipvg.training.objective import Objective
from clipvg.training.order import Order, micros
from clipvg.training.recipe import ClipVGRecipe, pace_of
from clipvg.training.stepping import NotFiniteError, Stepper, precision, spread
from pipelines.clip.encoder import empty_model

CPU = torch.device("cpu")


class Training:
    """A network that begins with the same weights each time, and steps over the rows of the scenes."""

    def __init__(self, recipe, rows):
        torch.manual_seed(0)
        self.network = ClipVG(recipe.network.config("tiny-clip"), empty_model("tiny-clip"))
        self.objective = Objective(self.network, recipe)
        self.rows, self.recipe = rows, recipe
        self.words = Words(self.network, [rows.expression(n)[1].text for n in range(len(rows))], CPU)
        pace = pace_of(recipe, 1)
        self.order = Order(len(rows), pace.effective, 0)
        self.stepper = Stepper(Accelerator(cpu=True), self.objective, recipe, pace, total=8, epochs=recipe.epochs)

    def passes(self, number=0):
        found = micros(self.order, number, number + 1, self.recipe.batch, 0, 1)
        return [(m, on_device(self.rows.read(m), self.rows, 8, self.words)) for m in found]

    def step(self, number=0, passes=None):
        return self.stepper.step(number, 0, 0, passes or self.passes(number))

    def gradients(self):
        return {name: p.grad.clone() for name, p in self.objective.trained().items()}

    def weights(self):
        return {name: p.detach().clone() for name, p in self.objective.trained().items()}


@pytest.fixture
def training(recipe, rows):
    return lambda **changes: Training(recipe(reference_batch=16, **changes), rows())


def farthest(mine, theirs):
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


@pytest.mark.parametrize("batch", [16, 8, 4, 2])
def test_a_step_is_the_same_however_it_is_cut(training, batch):
    whole, cut = training(batch=16), training(batch=batch)
    wanted, found = whole.step(1), cut.step(1)  # the second step has 9 rows: the parts are of unlike length
    assert len(cut.passes(1)) == -(-9 // batch)
    assert found == pytest.approx(wanted, abs=1e-6)
    assert farthest(cut.gradients(), whole.gradients()) < 1e-6
    assert max(float(g.abs().max()) for g in whole.gradients().values()) > 1e-2


def test_the_values_of_a_step_are_means_over_its_rows(training):
    mine = training(batch=16, l1=2.0, giou=3.0, auxiliary="patches", auxiliary_weight=0.5)
    with torch.no_grad():
        terms = mine.objective.train()(mine.passes()[0][1])
    found = mine.step()
    for name in ("loss", "l1", "giou", "auxiliary"):
        assert found[name] == pytest.approx(getattr(terms, name).mean().item(), rel=1e-5)
    assert found["loss"] == pytest.approx(2 * found["l1"] + 3 * found["giou"] + 0.5 * found["auxiliary"], rel=1e-5)
    assert found["auxiliary"] > 0


def test_dropout_is_a_function_of_seed_and_step(training, recipe):
    network = recipe().network.model_dump() | {"dropout": 0.3}
    runs = [training(network=network, batch=8) for _ in range(2)]
    torch.rand(7)  # what was drawn before is of no account
    first = [run.step(1)["loss"] for run in runs]
    assert first[0] == first[1] and farthest(*[run.weights() for run in runs]) == 0
    passes = runs[0].passes()
    assert runs[0].step(2, passes)["loss"] != runs[1].step(3, passes)["loss"]


def test_only_what_is_trained_has_gradients_and_moments(training):
    for positions in (True, False):
        mine = training(train_positions=positions)
        frozen = {n: p for n, p in mine.network.named_parameters() if n.startswith("clip.") and n != POSITIONS}
        before = {name: p.detach().clone() for name, p in frozen.items()}
        mine.step()
        assert not any(p.requires_grad or p.grad is not None for p in frozen.values())
        assert all(torch.equal(before[name], p) for name, p in frozen.items())
        assert (POSITIONS in mine.objective.trained()) == positions
        held = mine.stepper.optimiser.state_dict()
        assert len(held["state"]) == len(mine.objective.trained()) == len(held["param_groups"][0]["params"])
        assert all(p.grad is not None for p in mine.objective.trained().values())
        assert not mine.network.clip.training and mine.network.vl_transformer.training


def test_the_optimiser_is_the_papers(training):
    optimiser = training().stepper.optimiser
    (group,) = optimiser.param_groups
    assert isinstance(optimiser, torch.optim.AdamW)
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 1e-4)


def test_recomputing_gives_the_same_gradients(training):
    plain, again = training(recompute=False), training(recompute=True)
    plain.step(), again.step()
    assert again.network.recompute and farthest(plain.gradients(), again.gradients()) < 1e-7
    assert plain.gradients()[POSITIONS].abs().max() > 0


def test_bfloat16_runs_on_a_cpu(training):
    rounded, exact = training(dtype="bfloat16"), training()
    assert (precision(rounded.recipe, CPU), precision(exact.recipe, CPU)) == ("bfloat16", "float32")
    assert precision(exact.recipe, torch.device("cuda")) == "bfloat16"
    found = rounded.step()["loss"]
    assert found == pytest.approx(exact.step()["loss"], rel=0.02) and found != exact.step()["loss"]
    assert all(p.dtype == torch.float32 for p in rounded.objective.trained().values())


def schedule(training, **changes):
    return training(epochs=4, learning_rate=1.0, batch=16, **changes).stepper.learning_rate


def test_the_cosine_moves_by_epoch_as_in_the_paper(training):
    rate = schedule(training)
    assert [rate(step, step // 2) for step in range(8)] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (0, 0, 1, 1, 2, 2, 3, 3)]
    )


def test_the_cosine_moves_by_step(training):
    rate = schedule(training, schedule="step")
    assert [rate(step, step // 2) for step in range(8)] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    )
    assert rate(8, 4) == pytest.approx(0)


def test_the_warm_up_is_a_line_under_the_cosine(training):
    rate = schedule(training, warm_up=4, schedule="step")
    cosine = schedule(training, schedule="step")
    assert [rate(n, 0) / cosine(n, 0) for n in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_the_rate_is_the_optimisers(training):
    mine = training(warm_up=4, learning_rate=0.01)
    assert mine.step(1)["learning_rate"] == pytest.approx(0.005) == mine.stepper.optimiser.param_groups[0]["lr"]


def test_the_gradient_is_clipped(training):
    def norm(run):
        return math.sqrt(sum(float(g.square().sum()) for g in run.gradients().values()))

    loose, tight = training(clip_norm=0.0), training(clip_norm=0.05)
    loose.step(), tight.step()
    assert norm(loose) > 0.2 and norm(tight) == pytest.approx(0.05, rel=1e-3)


def test_a_loss_that_is_not_finite_changes_nothing(training):
    mine = training(batch=4)
    mine.step()
    before, moments = mine.weights(), mine.stepper.optimiser.state_dict()["state"][0]["exp_avg"].clone()
    passes = mine.passes(1)
    passes[1][1].targets[0, 2] = float("nan")
    with pytest.raises(NotFiniteError, match="loss nan, l1 nan") as stopped:
        mine.step(1, passes)
    assert math.isnan(stopped.value.terms["loss"]) and stopped.value.terms["auxiliary"] == 0
    assert farthest(before, mine.weights()) == 0
    assert torch.equal(moments, mine.stepper.optimiser.state_dict()["state"][0]["exp_avg"])
    mine.step(1)  # the gradients of the bad step are gone
    assert all(torch.isfinite(w).all() for w in mine.weights().values())


@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_a_gradient_that_is_not_finite_changes_nothing_either(training, clip_norm):
    mine = training(clip_norm=clip_norm)
    before = mine.weights()
    mine.network.text_proj.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NotFiniteError, match="gradient"):
        mine.step()
    assert farthest(before, mine.weights()) == 0


class Small(Objective):
    """An objective with room for so many rows."""

    room = 0

    def forward(self, batch):
        if len(batch.targets) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB\nlines of statistics")
        return super().forward(batch)


@pytest.mark.parametrize(("room", "fits"), [(15, 8), (1, 1)])
def test_out_of_memory_names_what_fits(training, monkeypatch, room, fits):
    monkeypatch.setattr(gc, "collect", int)  # slow beside other tests' objects
    mine = training(batch=16)
    monkeypatch.setattr(Small, "room", room)
    mine.objective.__class__ = Small
    before = mine.weights()
    with pytest.raises(DeviceError) as refused:
        mine.step()
    said = str(refused.value)
    assert f"out of memory with batch = 16 (CUDA out of memory. Tried to allocate 2.00 GiB). {fits} rows fit" in said
    assert f"--set batch={fits} " in said and 'adapt = "accumulate"' in said and "recompute" in said
    assert farthest(before, mine.weights()) == 0
    again = training(batch=int(re.search(r"batch=(\d+)", said)[1]))  # what it says is true
    again.objective.__class__ = Small
    again.step()


def test_not_even_one_row_fits(training, monkeypatch):
    monkeypatch.setattr(gc, "collect", int)
    for batch in (2, 1):
        mine = training(batch=batch)
        monkeypatch.setattr(Small, "room", 0)
        mine.objective.__class__ = Small
        with pytest.raises(DeviceError, match=r"a single row \(CUDA out of memory.*recompute = true"):
            mine.step()


def test_another_error_is_left_as_it_is(training, monkeypatch):
    mine = training()
    monkeypatch.setattr(mine.network, "box", lambda x: (_ for _ in ()).throw(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        mine.step()


def test_spread():
    boxes = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.5, 0.6]])
    assert spread(boxes, boxes) == pytest.approx(1)
    assert spread(boxes[:1].expand(2, 4), boxes) == 0
    assert spread(boxes / 2, boxes) == pytest.approx(0.5)
    assert spread(boxes[:1], boxes[:1]) == 1
    assert math.isfinite(spread(boxes, boxes[:1].expand(2, 4)))


def test_the_default_recipe_is_the_papers():
    recipe = ClipVGRecipe()
    assert (recipe.epochs, recipe.learning_rate, recipe.weight_decay, recipe.l1, recipe.giou) == (
        110,
        2.5e-4,
        1e-4,
        1,
        1,
    )
    assert (recipe.warm_up, recipe.clip_norm, recipe.ema, recipe.auxiliary, recipe.schedule) == (
        0,
        0,
        0,
        "off",
        "epoch",
    )
    assert (recipe.reference_batch, recipe.augment.crop, recipe.preprocessing) == (320, "official", "official")
