"""The curriculum's searches against paths worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipvg.curriculum.search import (
    Choice,
    Grid,
    Selection,
    Trial,
    best_of,
    chosen_of,
    climb,
    multi_source,
    single_source,
)

GRID = Grid()


def summit(tried: list[tuple[float, float | None]]) -> float | None:
    """The best threshold of a climb."""
    best = best_of([Trial(Choice("", "", h), p) for h, p in tried])
    return best and best.choice.threshold


def path(values: dict[float, float | None], grid: Grid = GRID) -> tuple[list[float], float | None]:
    """Thresholds in the order they were asked for, and where the climb ended."""
    asked: list[float] = []

    def performance(h: float) -> float | None:
        asked.append(h)
        return values[h]

    tried = climb(performance, grid)
    assert asked == [h for h, _ in tried], "each is asked for once, and reported in that order"
    return asked, summit(tried)


def test_a_peak_at_the_start_takes_three() -> None:
    assert path({0.4: 1, 0.5: 2, 0.6: 1.5}) == ([0.5, 0.4, 0.6], 0.5)


def test_it_goes_down_as_long_as_that_is_better() -> None:
    values = {0.2: 3.0, 0.3: 5.0, 0.4: 4.0, 0.5: 3.0, 0.6: 2.0}
    assert path(values) == ([0.5, 0.4, 0.6, 0.3, 0.2], 0.3)


def test_it_takes_the_better_of_two_better_neighbours() -> None:
    values = {0.3: 0.0, 0.4: 3.5, 0.5: 3.0, 0.6: 4.0, 0.7: 3.9}
    assert path(values) == ([0.5, 0.4, 0.6, 0.7], 0.6)


def test_of_two_equally_better_neighbours_the_lower_one() -> None:
    values = {0.3: 1.0, 0.4: 4.0, 0.5: 3.0, 0.6: 4.0}
    assert path(values) == ([0.5, 0.4, 0.6, 0.3], 0.4)


def test_on_a_plateau_it_stays() -> None:
    assert path({0.4: 2, 0.5: 2, 0.6: 2}) == ([0.5, 0.4, 0.6], 0.5)


def test_a_plateau_on_the_way_stops_it() -> None:
    values = {0.3: 4.0, 0.4: 4.0, 0.5: 3.0, 0.6: 1.0, 0.2: 9.0}
    assert path(values) == ([0.5, 0.4, 0.6, 0.3], 0.4), "0.2 is better, but lies behind a plateau"


def test_a_maximum_at_the_upper_edge() -> None:
    rising = {h / 10: float(h) for h in range(10)}
    assert path(rising) == ([0.5, 0.4, 0.6, 0.7, 0.8, 0.9], 0.9)


def test_a_maximum_at_the_lower_edge() -> None:
    falling = {h / 10: -float(h) for h in range(10)}
    assert path(falling) == ([0.5, 0.4, 0.6, 0.3, 0.2, 0.1, 0.0], 0.0)


def test_thresholds_without_rows_are_never_better() -> None:
    assert path({0.4: 1.0, 0.5: 2.0, 0.6: None}) == ([0.5, 0.4, 0.6], 0.5)
    assert path({0.5: None}) == ([0.5], None), "nothing to begin with"


def test_worse_than_nothing_is_still_something() -> None:
    assert path({0.4: -3.0, 0.5: -2.0, 0.6: None}) == ([0.5, 0.4, 0.6], 0.5)


def test_another_grid_has_exact_steps() -> None:
    values = dict.fromkeys([0.3, 0.35, 0.4, 0.45], 0.0) | {0.4: 1.0, 0.35: 0.5, 0.45: 0.5}
    assert path(values, Grid(start=0.4, step=0.05, low=0.3, high=0.45)) == ([0.4, 0.35, 0.45], 0.4)


@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=10, max_size=10))
def test_where_it_ends_no_neighbour_is_better(values: list[int | None]) -> None:
    known = {h / 10: values[h] for h in range(10)}
    tried = climb(lambda h: known[h], GRID)
    best = summit(tried)
    if known[0.5] is None:
        assert best is None and len(tried) == 1
        return
    assert best is not None and known[best] is not None
    assert all((known[h] is None) or known[h] <= known[best] for h in GRID.near(best))  # type: ignore[operator]
    assert len(tried) == len(dict(tried)) <= 10


def test_ssa_is_a_climb_over_the_sources_own_scorer() -> None:
    asked: list[Selection] = []

    def performance(selection: Selection) -> float:
        asked.append(selection)
        return {0.4: 60.0, 0.5: 61.0, 0.6: 63.0, 0.7: 62.0}[selection[0].threshold]

    found = single_source("template", performance, GRID)
    assert found.chosen == Choice("template", "template", 0.6)
    assert found.scorers == ()
    assert asked == [(Choice("template", "template", h),) for h in (0.5, 0.4, 0.6, 0.7)]


def table(selection: Selection) -> float | None:
    """What two sources are worth; worked through by hand below."""
    easy = {("t", 0.4): 50.0, ("t", 0.5): 52.0, ("t", 0.6): 51.0, ("c", 0.5): 49.0}
    hard = {("t", 0.4): 57.0, ("t", 0.5): 55.0, ("t", 0.6): 54.0, ("t", 0.3): 56.0, ("c", 0.5): 53.0}
    last = selection[-1]
    return (easy if last.source == "t" else hard)[last.scorer, last.threshold]


def test_msa_selects_a_scorer_then_a_threshold_and_accumulates() -> None:
    asked: list[Selection] = []

    def performance(selection: Selection) -> float | None:
        asked.append(selection)
        return table(selection)

    rounds = multi_source(["t", "c"], performance, GRID)
    first, second = Choice("t", "t", 0.5), Choice("c", "t", 0.4)
    assert chosen_of(rounds) == (first, second), "the caption source is kept by the other source's scorer"
    assert [t.choice.scorer for t in rounds[0].scorers] == ["t", "c"]
    assert [t.choice.scorer for t in rounds[1].scorers] == ["c", "t"], "its own comes first"
    assert [t.choice.threshold for t in rounds[1].thresholds] == [0.5, 0.4, 0.6, 0.3]
    assert all(selection[:-1] == () for selection in asked[:5])
    assert all(selection[:-1] == (first,) for selection in asked[5:])


def test_of_equal_scorers_the_sources_own() -> None:
    rounds = multi_source(["a", "b"], lambda _: 1.0, GRID)
    assert chosen_of(rounds) == (Choice("a", "a", 0.5), Choice("b", "b", 0.5))


def test_a_source_without_rows_at_the_start_is_skipped_and_the_next_goes_on() -> None:
    seen: list[Selection] = []

    def performance(selection: Selection) -> float | None:
        seen.append(selection)
        return None if selection[-1].source == "b" else 1.0

    rounds = multi_source(["a", "b", "c"], performance, GRID)
    assert [one.chosen is None for one in rounds] == [False, True, False]
    assert rounds[1].thresholds == ()
    assert chosen_of(rounds) == (Choice("a", "a", 0.5), Choice("c", "c", 0.5))
    assert not any(choice.source == "b" for selection in seen for choice in selection[:-1])


def test_a_scorer_without_rows_leaves_the_others() -> None:
    def performance(selection: Selection) -> float | None:
        return None if selection[-1].scorer == selection[-1].source else 1.0

    rounds = multi_source(["a", "b"], performance, GRID)
    assert chosen_of(rounds) == (Choice("a", "b", 0.5), Choice("b", "a", 0.5))


def test_one_source_needs_no_other() -> None:
    rounds = multi_source(["a"], lambda selection: selection[-1].threshold, GRID)
    assert chosen_of(rounds) == (Choice("a", "a", 0.9),)


@pytest.mark.parametrize("count", [2, 3])
def test_the_number_of_different_trainings_is_what_the_spec_says(count: int) -> None:
    """n scorers are tried for each source, and a climb adds at least two thresholds: spec 4.4's cost."""
    asked: set[Selection] = set()

    def performance(selection: Selection) -> float:
        asked.add(selection)
        return 1.0

    multi_source([f"s{n}" for n in range(count)], performance, GRID)
    assert len(asked) == count * (count + 2)
