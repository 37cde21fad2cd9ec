"""What a curriculum says it will cost."""

import pytest

from bench.training.config import TrainConfig
from clipvg.curriculum.plan import CurriculumOptions, make_plan, rows_in_training
from clipvg.curriculum.pools import pool_of

EVERY = ("attribute", "location", "relation", "ordinal", "comparison")


@pytest.fixture
def pools(source):
    return [pool_of(source(name, EVERY)) for name in ("a", "b", "c")]


@pytest.fixture
def configs():
    return {"scorer": TrainConfig(epochs=4), "trial": TrainConfig(epochs=2), "last": TrainConfig(epochs=10)}


def test_three_sources_cost_what_the_paper_s_do(pools, configs):
    """n scorers, and for each source n at the start and at least two neighbours: spec 4.4's 18 to 24 and the last."""
    plan = make_plan(pools, configs, CurriculumOptions(), ())
    trainings = [step for step in plan.steps if step.trains]
    assert sum(step.least for step in trainings) == 3 + 3 * (3 + 2) + 1
    assert sum(step.most for step in trainings) == 3 + 3 * (2 + 10) + 1
    assert {step.what: step.rows for step in plan.steps} == {
        "scorer of a": 100,
        "scorer of b": 100,
        "scorer of c": 100,
        "reliability of all rows": 75,
        "trials of a": 50,
        "trials of b": 100,
        "trials of c": 150,
        "last training": 750,
    }
    assert plan.seconds is None and "time: unknown" in plan.lines()[-1]


def test_one_source_has_no_scorers_to_try(pools, configs):
    plan = make_plan(pools[:1], configs, CurriculumOptions(), ())
    assert [(s.least, s.most) for s in plan.steps if s.what == "trials of a"] == [(3, 10)]


def test_a_short_grid_and_a_share_of_rows(pools, configs):
    options = CurriculumOptions(low=0.5, high=0.6, proxy_rows=0.2, scorers={"a": "x"})
    plan = make_plan(pools[:1], configs, options, ())
    assert [step.what for step in plan.steps] == ["reliability of all rows", "trials of a", "last training"]
    assert (plan.steps[1].least, plan.steps[1].most, plan.steps[1].rows) == (2, 2, 10)


def test_time_is_told_from_what_is_done(pools, configs):
    records = [
        {"kind": "train", "seconds": 10.0, "result": {"notes": {"steps": 100, "effective_batch": 8}, "rows": 25}},
        {"kind": "score", "seconds": 0.5, "result": {"rows": {"a": [0.5, None], "b": [0.1, None]}}},
    ]
    plan = make_plan(pools, configs, CurriculumOptions(), records)
    assert (plan.trained, plan.scored, plan.done) == (80.0, 4.0, 2)
    least = (300 + 5 * (50 + 100 + 150) + 750) / 80 + 3 * 75 / 4
    assert plan.seconds is not None and plan.seconds[0] == pytest.approx(least)
    assert "2 nodes are done" in plan.lines()[-2] and "hours" in plan.lines()[-1]


def test_steps_count_instead_of_epochs():
    assert rows_in_training(TrainConfig(epochs=3), 50) == 150
    assert rows_in_training(TrainConfig(steps=7, reference_batch=8), 50) == 56
