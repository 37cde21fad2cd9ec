"""SSA and MSA as pure searches: which rows to keep, given the score of a training on them.

After Xiao et al., CLIP-VG, IEEE TMM 2023; the authors published no code of it.
Nothing is trained here. A `Choice` is the rows of one source that one scorer finds this reliable, a selection is a
tuple of choices, and the caller's `Performance` is the score of a network trained on a selection; None for a selection
whose last choice keeps no row. Thresholds are counted in whole steps, so that 0.1 + 0.2 is 0.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field

from bench.settings import Table


@dataclass(frozen=True, slots=True)
class Choice:
    """percent(H, h): the rows of `source` whose reliability under `scorer` is at least `threshold`."""

    source: str
    scorer: str
    threshold: float


Selection = tuple[Choice, ...]
Performance = Callable[[Selection], float | None]


class Grid(Table):
    """The thresholds that a search may try."""

    start: float = Field(0.5, ge=0, le=1, description="the threshold at which a search starts")
    step: float = Field(0.1, gt=0, le=0.5)
    low: float = Field(0.0, ge=0, le=1)
    high: float = Field(0.9, ge=0, le=1)

    def near(self, threshold: float) -> list[float]:
        """Return the neighbours of a threshold; the lower one, which keeps more rows, first."""
        place = round((threshold - self.start) / self.step)
        both = [round(self.start + (place + move) * self.step, 9) for move in (-1, 1)]
        return [h for h in both if self.low - 1e-9 <= h <= self.high + 1e-9]


@dataclass(frozen=True, slots=True)
class Trial:
    """A choice and the score of a training with it; None where it keeps no row."""

    choice: Choice
    performance: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """The decision about one source, with its trials in the order in which they were made.

    `chosen` is None where no scorer keeps a row at the starting threshold: the source is skipped.
    """

    source: str
    scorers: tuple[Trial, ...]
    thresholds: tuple[Trial, ...]
    chosen: Choice | None


def climb(performance: Callable[[float], float | None], grid: Grid) -> list[tuple[float, float | None]]:
    """Climb greedily over thresholds from `grid.start`; return every threshold tried, in order.

    It stops where neither neighbour is better. On a plateau it stays; of two neighbours that are equally better it
    takes the lower one. A threshold without rows is never better.
    """
    tried: dict[float, float | None] = {}

    def value(h: float) -> float:
        if h not in tried:
            tried[h] = performance(h)
        known = tried[h]
        return float("-inf") if known is None else known

    here = grid.start
    if value(here) == float("-inf"):
        return list(tried.items())
    while better := [h for h in grid.near(here) if value(h) > value(here)]:
        here = max(better, key=value)  # the first of equals: the lower one
    return list(tried.items())


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the best trial, of equals the first; None where none keeps a row."""
    scored = [trial for trial in trials if trial.performance is not None]
    return max(scored, key=lambda trial: trial.performance or 0.0) if scored else None


def single_source(source: str, performance: Performance, grid: Grid) -> Round:
    """SSA: choose the threshold of the source's own scorer."""
    return _thresholds(Choice(source, source, grid.start), (), (), performance, grid)


def multi_source(order: Sequence[str], performance: Performance, grid: Grid) -> list[Round]:
    """MSA: choose for each source a scorer at the starting threshold, then the threshold.

    Sources come in `order`, of rising complexity; choices accumulate. Of equally good scorers the source's own wins.
    """
    rounds: list[Round] = []
    for source in order:
        before = chosen_of(rounds)
        choices = [Choice(source, m, grid.start) for m in (source, *(other for other in order if other != source))]
        trials = tuple(Trial(choice, performance((*before, choice))) for choice in choices)
        best = best_of(trials)
        if best is None:
            rounds.append(Round(source, trials, (), None))
        else:
            rounds.append(_thresholds(best.choice, before, trials, performance, grid))
    return rounds


def chosen_of(rounds: Sequence[Round]) -> Selection:
    """Return the choices of all rounds."""
    return tuple(one.chosen for one in rounds if one.chosen is not None)


def _thresholds(
    first: Choice, before: Selection, scorers: tuple[Trial, ...], performance: Performance, grid: Grid
) -> Round:
    """Climb over the thresholds of one scorer; the best one is chosen."""

    def at(threshold: float) -> Choice:
        return Choice(first.source, first.scorer, threshold)

    trials = tuple(Trial(at(h), p) for h, p in climb(lambda h: performance((*before, at(h))), grid))
    best = best_of(trials)
    return Round(first.source, scorers, trials, None if best is None else best.choice)
