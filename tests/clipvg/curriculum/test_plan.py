"""What a curriculum costs, as its plan says."""

import pytest

from bench.training.config import TrainConfig
from clipvg.curriculum.plan import make_plan, plan_lines, rows_in_training
from clipvg.curriculum.pools import pool_of
from clipvg.curriculum.search import CurriculumOptions

EVERY = ("attribute", "location", "relation", "ordinal", "comparison")
CONFIGS = {"scorer": TrainConfig(epochs=4), "trial": TrainConfig(epochs=2), "last": TrainConfig(epochs=10)}


@pytest.fixture
def plan(source):
    """plan(names, **options): the steps for sources with 25 rows each, by what they are."""

    def make(names, **options):
        steps = make_plan([pool_of(source(name, EVERY)) for name in names], CONFIGS, CurriculumOptions(**options))
        return {step["what"]: step for step in steps}

    return make


def test_three_sources_cost_what_the_paper_s_do(plan):
    """n scorers, and for each source n at the start and at least two neighbours, and the last: the paper's 18 to 24."""
    steps = plan("abc")
    trainings = [step for step in steps.values() if step["trains"]]
    assert sum(step["least"] for step in trainings) == 3 + 3 * (3 + 2) + 1
    assert sum(step["most"] for step in trainings) == 3 + 3 * (2 + 10) + 1
    expected = {f"scorer of {name}": 100 for name in "abc"} | {"reliability of all rows": 75, "trials of a": 50}
    expected |= {"trials of b": 100, "trials of c": 150, "last training": 750}
    assert {what: step["rows"] for what, step in steps.items()} == expected
    assert "time: unknown" in plan_lines(list(steps.values()), ())[-1]


def test_one_source_has_no_scorers_to_try(plan):
    trials = plan("a")["trials of a"]
    assert (trials["least"], trials["most"]) == (3, 10)


def test_a_short_grid_a_share_of_rows_and_a_given_scorer(plan):
    steps = plan("a", low=0.5, high=0.6, proxy_rows=0.2, scorers={"a": "x"})
    assert list(steps) == ["reliability of all rows", "trials of a", "last training"]
    assert [steps["trials of a"][key] for key in ("least", "most", "rows")] == [2, 2, 10]


def test_time_comes_from_finished_nodes(plan):
    records = [
        {"kind": "train", "seconds": 360.0, "result": {"notes": {"steps": 1, "effective_batch": 8}, "rows": 25}},
        {"kind": "score", "seconds": 0.5, "result": {"rows": {"a": [0.5, None], "b": [0.1, None]}}},
    ]
    *_, done, time = plan_lines(list(plan("abc").values()), records)
    rate = 8 / 360
    hours = [((300 + n * 300 + 750) / rate + 3 * 75 / 4) / 3600 for n in (5, 12)]
    assert f"time: {hours[0]:.1f} to {hours[1]:.1f} hours" in time
    assert "at 0 rows/s in training and 4 in scoring" in time
    assert "2 nodes are done" in done


def test_steps_count_instead_of_epochs():
    assert rows_in_training(TrainConfig(epochs=3), 50) == 150
    assert rows_in_training(TrainConfig(steps=7, reference_batch=8), 50) == 56
