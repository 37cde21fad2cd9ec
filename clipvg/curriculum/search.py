"""SSA and MSA as pure searches: which rows to keep, given what training on them is worth (spec clipvg.md 4.2 to 4.4).

Nothing here trains. A `Choice` says "of this source the rows that this measurer finds this reliable", a selection is a
tuple of choices, and the caller's `Performance` says what a network trained on a selection reaches; None stands for a
selection whose last choice keeps no row. Thresholds are counted in whole steps, so that 0.1 + 0.2 is 0.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """percent(H, h): the rows of `source` whose reliability under `measurer` is at least `threshold`."""

    source: str
    measurer: str
    threshold: float


Selection = tuple[Choice, ...]
Performance = Callable[[Selection], float | None]


@dataclass(frozen=True, slots=True)
class Grid:
    """The thresholds there are: from `low` to `high` in steps of `step`, the search beginning at `start`."""

    start: float = 0.5
    step: float = 0.1
    low: float = 0.0
    high: float = 0.9

    def near(self, threshold: float) -> list[float]:
        """The neighbours of a threshold within the grid, the lower one, which keeps more rows, first."""
        both = (self._moved(threshold, -1), self._moved(threshold, 1))
        return [h for h in both if self.low - 1e-9 <= h <= self.high + 1e-9]

    def _moved(self, threshold: float, steps: int) -> float:
        return round(self.start + (round((threshold - self.start) / self.step) + steps) * self.step, 9)


@dataclass(frozen=True, slots=True)
class Trial:
    """A selection and what it was worth; None: it kept no row of the source in question."""

    choice: Choice
    performance: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """What was decided about one source, with the evidence in the order in which it was asked for.

    `chosen` is None where every measurer's rows are none at the starting threshold: the source is skipped.
    """

    source: str
    measurers: tuple[Trial, ...]
    thresholds: tuple[Trial, ...]
    chosen: Choice | None


def climb(performance: Callable[[float], float | None], grid: Grid) -> list[tuple[float, float | None]]:
    """Greedy hill climb over thresholds, from `grid.start` (spec 4.3): every threshold tried, in order.

    It stops where neither neighbour is better. On a plateau it stays; between two neighbours that are equally better it
    takes the lower one. A threshold without rows is never better.
    """
    known: dict[float, float | None] = {}

    def value(h: float) -> float:
        if h not in known:
            known[h] = performance(h)
        found = known[h]
        return float("-inf") if found is None else found

    here = grid.start
    if value(here) == float("-inf"):
        return list(known.items())
    while True:
        better = [h for h in grid.near(here) if value(h) > value(here)]
        if not better:
            return list(known.items())
        here = max(better, key=value)  # the first of equals: the lower one


def best_of(tried: Sequence[Trial]) -> Trial | None:
    """The trial worth most, of equals the first; None where nothing kept a row."""
    held = [trial for trial in tried if trial.performance is not None]
    return max(held, key=lambda trial: trial.performance or 0.0) if held else None


def summit(tried: Sequence[tuple[float, float | None]]) -> float | None:
    """Where a climb ended: its best threshold, of equals the one it came to first; None where it could not begin."""
    held = [(h, p) for h, p in tried if p is not None]
    return max(held, key=lambda pair: pair[1])[0] if held else None


def single_source(source: str, performance: Performance, grid: Grid) -> Round:
    """SSA (spec 4.3): the source's own measurer, and the threshold of the performance-reliability maximum."""
    return _thresholds(Choice(source, source, grid.start), (), (), performance, grid)


def multi_source(order: Sequence[str], performance: Performance, grid: Grid) -> list[Round]:
    """MSA (spec 4.4): for each source in `order`, of rising complexity, the measurer at the starting threshold, then
    the threshold; what is chosen is accumulated. Of measurers worth the same the source's own comes first.
    """
    rounds: list[Round] = []
    held: Selection = ()
    for source in order:
        measurers = [source, *(other for other in order if other != source)]
        trials = []
        for measurer in measurers:
            choice = Choice(source, measurer, grid.start)
            trials.append(Trial(choice, performance((*held, choice))))
        best = best_of(trials)
        if best is None:
            rounds.append(Round(source, tuple(trials), (), None))
            continue
        rounds.append(_thresholds(best.choice, held, tuple(trials), performance, grid))
        chosen = rounds[-1].chosen
        held = (*held, chosen) if chosen is not None else held
    return rounds


def chosen_of(rounds: Sequence[Round]) -> Selection:
    """What all rounds chose."""
    return tuple(one.chosen for one in rounds if one.chosen is not None)


def _thresholds(
    first: Choice, held: Selection, measurers: tuple[Trial, ...], performance: Performance, grid: Grid
) -> Round:
    def at(threshold: float) -> Choice:
        return Choice(first.source, first.measurer, threshold)

    tried = climb(lambda h: performance((*held, at(h))), grid)
    best = summit(tried)
    trials = tuple(Trial(at(h), p) for h, p in tried)
    return Round(first.source, measurers, trials, None if best is None else at(best))
