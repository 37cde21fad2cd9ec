"""The curriculum's searches against paths worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipvg.curriculum.search import (
    Choice,
    CurriculumOptions,
    Selection,
    best_of,
    chosen_of,
    climb,
    multi_source,
    single_source,
)

GRID = CurriculumOptions()


def summit(tried: list[tuple[float, float | None]]) -> float | None:
    """The best threshold of a climb."""
    best = best_of([(Choice("", "", h), p) for h, p in tried])
    return best and best.threshold


RISING, FALLING = ({h / 10: sign * h for h in range(10)} for sign in (1.0, -1.0))


@pytest.mark.parametrize(
    ("values", "order", "end"),
    [pytest.param({0.4: 1, 0.5: 2, 0.6: 1.5}, [0.5, 0.4, 0.6], 0.5, id="a peak at the start"),
     pytest.param({0.2: 3, 0.3: 5, 0.4: 4, 0.5: 3, 0.6: 2}, [0.5, 0.4, 0.6, 0.3, 0.2], 0.3, id="down while better"),
     pytest.param({0.4: 3.5, 0.5: 3, 0.6: 4, 0.7: 3.9}, [0.5, 0.4, 0.6, 0.7], 0.6, id="the better of two better"),
     pytest.param({0.3: 1, 0.4: 4, 0.5: 3, 0.6: 4}, [0.5, 0.4, 0.6, 0.3], 0.4, id="of equally better the lower"),
     pytest.param({0.4: 2, 0.5: 2, 0.6: 2}, [0.5, 0.4, 0.6], 0.5, id="a plateau"),
     pytest.param({0.3: 4, 0.4: 4, 0.5: 3, 0.6: 1, 0.2: 9}, [0.5, 0.4, 0.6, 0.3], 0.4, id="a plateau on the way"),
     pytest.param(RISING, [0.5, 0.4, 0.6, 0.7, 0.8, 0.9], 0.9, id="the upper edge"),
     pytest.param(FALLING, [0.5, 0.4, 0.6, 0.3, 0.2, 0.1, 0.0], 0.0, id="the lower edge"),
     pytest.param({0.4: 1, 0.5: 2, 0.6: None}, [0.5, 0.4, 0.6], 0.5, id="no rows are never better"),
     pytest.param({0.5: None}, [0.5], None, id="no rows at the start"),
     pytest.param({0.4: -3, 0.5: -2, 0.6: None}, [0.5, 0.4, 0.6], 0.5, id="worse than nothing is something")],
)  # fmt: skip
def test_a_climb_tries_each_threshold_once(values, order, end) -> None:
    requested: list[float] = []

    def performance(h: float) -> float | None:
        requested.append(h)
        return values[h]

    tried = climb(performance, GRID)
    assert requested == order == [h for h, _ in tried] and summit(tried) == end


def test_another_grid_has_exact_steps() -> None:
    values = {0.3: 0.0, 0.35: 0.5, 0.4: 1.0, 0.45: 0.5}
    tried = climb(lambda h: values[h], CurriculumOptions(start=0.4, step=0.05, low=0.3, high=0.45))
    assert ([h for h, _ in tried], summit(tried)) == ([0.4, 0.35, 0.45], 0.4)


@pytest.mark.slow
@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=10, max_size=10))
def test_where_it_ends_no_neighbour_is_better(values: list[int | None]) -> None:
    table = {h / 10: values[h] for h in range(10)}
    tried = climb(lambda h: table[h], GRID)
    best = summit(tried)
    if table[0.5] is None:
        assert best is None and len(tried) == 1
        return
    assert best is not None and table[best] is not None
    assert all((table[h] is None) or table[h] <= table[best] for h in GRID.near(best))  # type: ignore[operator]
    assert len(tried) == len(dict(tried)) <= 10


class Performances:
    """The score of each selection, by a function of it; `requested` are the selections so far."""

    def __init__(self, score) -> None:
        self.score, self.requested = score, []

    def __call__(self, selection: Selection) -> float | None:
        self.requested.append(selection)
        return self.score(selection)


def test_ssa_is_a_climb_over_the_sources_own_scorer() -> None:
    performance = Performances(lambda s: {0.4: 60.0, 0.5: 61.0, 0.6: 63.0, 0.7: 62.0}[s[0].threshold])
    source, scorers, thresholds = single_source("template", performance, GRID)
    assert (source, scorers, best_of(thresholds)) == ("template", (), Choice("template", "template", 0.6))
    assert performance.requested == [(Choice("template", "template", h),) for h in (0.5, 0.4, 0.6, 0.7)]


def worked_by_hand(selection: Selection) -> float | None:
    """What two sources are worth."""
    easy = {("t", 0.4): 50.0, ("t", 0.5): 52.0, ("t", 0.6): 51.0, ("c", 0.5): 49.0}
    hard = {("t", 0.4): 57.0, ("t", 0.5): 55.0, ("t", 0.6): 54.0, ("t", 0.3): 56.0, ("c", 0.5): 53.0}
    last = selection[-1]
    return (easy if last.source == "t" else hard)[last.scorer, last.threshold]


def test_msa_selects_a_scorer_then_a_threshold_and_accumulates() -> None:
    performance = Performances(worked_by_hand)
    rounds = multi_source(["t", "c"], performance, GRID)
    first, second = Choice("t", "t", 0.5), Choice("c", "t", 0.4)
    assert chosen_of(rounds) == (first, second), "the caption source is kept by the other source's scorer"
    assert [choice.scorer for choice, _ in rounds[0][1]] == ["t", "c"]
    assert [choice.scorer for choice, _ in rounds[1][1]] == ["c", "t"], "its own comes first"
    assert [choice.threshold for choice, _ in rounds[1][2]] == [0.5, 0.4, 0.6, 0.3]
    assert all(selection[:-1] == () for selection in performance.requested[:5])
    assert all(selection[:-1] == (first,) for selection in performance.requested[5:])


def unless(condition):
    """1 for every selection, no rows for those whose last choice is so."""
    return Performances(lambda selection: None if condition(selection[-1]) else 1.0)


def test_a_source_without_rows_at_the_start_is_skipped_and_the_next_goes_on() -> None:
    performance = unless(lambda choice: choice.source == "b")
    rounds = multi_source(["a", "b", "c"], performance, GRID)
    assert [(source, bool(thresholds)) for source, _, thresholds in rounds] == [("a", True), ("b", False), ("c", True)]
    assert chosen_of(rounds) == (Choice("a", "a", 0.5), Choice("c", "c", 0.5)), "of equal scorers the source's own"
    assert not any(choice.source == "b" for selection in performance.requested for choice in selection[:-1])


def test_a_scorer_without_rows_leaves_the_others() -> None:
    rounds = multi_source(["a", "b"], unless(lambda choice: choice.scorer == choice.source), GRID)
    assert chosen_of(rounds) == (Choice("a", "b", 0.5), Choice("b", "a", 0.5))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_number_of_different_trainings_is_the_papers(count: int) -> None:
    """n scorers are tried for each source, and a climb adds at least two thresholds."""
    performance = Performances(lambda selection: 1.0)
    multi_source([f"s{n}" for n in range(count)], performance, GRID)
    assert len(set(performance.requested)) == count * (count + 2)
