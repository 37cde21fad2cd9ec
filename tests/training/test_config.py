"""How many samples make a step, whatever the number of processes; and the learning rate over a training."""

import math

import pytest
import torch

from bench.errors import UsageError
from bench.training.config import TrainConfig, batch_plan
from bench.training.optimiser import decay_split, layer_decay, learning_rate, make_optimiser
from bench.training.task import ParameterGroup


@pytest.mark.parametrize(
    ("processes", "batch", "accumulate"), [(1, 64, 5), (2, 40, 4), (4, 40, 2), (5, 64, 1), (8, 40, 1), (16, 20, 1)]
)
def test_the_effective_batch_does_not_depend_on_the_processes(processes, batch, accumulate):
    plan = batch_plan(TrainConfig(batch=64, reference_batch=320, learning_rate=2.5e-4), processes)
    assert (plan.batch, plan.accumulate, plan.effective) == (batch, accumulate, 320)
    assert plan.learning_rate == 2.5e-4 and "effective batch 320" in str(plan)


def test_a_reference_that_cannot_be_shared_is_refused_with_the_nearest_numbers():
    with pytest.raises(UsageError, match=r"320 cannot be shared by 3 processes: set reference_batch=318 or 321, or"):
        batch_plan(TrainConfig(batch=64, reference_batch=320), 3)
    assert batch_plan(TrainConfig(batch=64, reference_batch=318), 3).effective == 318
    with pytest.raises(UsageError, match=r"set reference_batch=3, or start 1 or 2 processes"):
        batch_plan(TrainConfig(batch=64, reference_batch=2), 3)


@pytest.mark.parametrize(
    ("adapt", "processes", "rate"), [("scale", 1, 64 / 320), ("scale", 8, 512 / 320), ("off", 1, 1.0), ("off", 8, 1.0)]
)
def test_other_adaptations_keep_the_batch(adapt, processes, rate):
    plan = batch_plan(TrainConfig(batch=64, reference_batch=320, learning_rate=1.0, adapt=adapt), processes)
    assert (plan.batch, plan.accumulate, plan.effective) == (64, 1, processes * 64)
    assert plan.learning_rate == pytest.approx(rate)


def rates(schedule="cosine", warm_up=0, **changes):
    config = TrainConfig(schedule=schedule, **changes)
    return [learning_rate(1.0, config, config.schedule, step, 8, step // 2, 4, warm_up) for step in range(8)]


def test_schedules():
    by_epoch = [0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (0, 0, 1, 1, 2, 2, 3, 3)]
    by_step = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates() == pytest.approx(by_epoch) and rates(schedule_by="step") == pytest.approx(by_step)
    assert rates("epoch") == rates() and rates("step") == rates(schedule_by="step")  # the old spelling
    assert rates("constant") == [1.0] * 8
    assert rates("linear") == pytest.approx([(8 - step) / 8 for step in range(8)])
    assert rates("drop", drop_at=0.5) == [1.0] * 4 + [0.1] * 4
    assert rates("constant", warm_up=4)[:5] == [0.25, 0.5, 0.75, 1, 1]
    ratios = [a / b for a, b in zip(rates(schedule_by="step", warm_up=4), by_step, strict=True)]
    assert ratios == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_groups_have_their_share_of_the_rate_and_their_decay():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    named = dict(model.named_parameters())
    config = TrainConfig(learning_rate=0.1, weight_decay=0.5, reference_batch=64)
    groups = [
        ParameterGroup({"0.weight": named["0.weight"]}, 0.1, 0.0, "linear"),
        *decay_split({"1.weight": named["1.weight"]}),
    ]
    first, second = make_optimiser(groups, config, batch_plan(config, 1)).param_groups
    assert (first["lr"], first["weight_decay"], first["schedule"]) == (pytest.approx(0.01), 0.0, "linear")
    assert (second["lr"], second["weight_decay"], second["schedule"]) == (0.1, 0.5, "cosine")
    layers = [{k: p for k, p in named.items() if k.startswith(layer)} for layer in "01"]
    assert [(g.lr_scale, g.weight_decay, *g.parameters) for g in layer_decay(layers, 0.5)] == [
        (1.0, None, "1.weight"), (1.0, 0.0, "1.bias"), (0.5, None, "0.weight"), (0.5, 0.0, "0.bias"),
    ]  # fmt: skip
