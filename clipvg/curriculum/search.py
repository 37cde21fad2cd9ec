"""SSA and MSA: search which rows to keep, given the score of a training on them.

After Xiao et al., CLIP-VG, IEEE TMM 2023, section III-C; the authors published no code of it. These are pure functions,
and nothing is trained here. A `Choice` is the rows of one source that one scorer finds this reliable, a selection is a
tuple of choices, and the caller's `Performance` is the score of a network trained on a selection; None for a selection
whose last choice keeps no row. Thresholds are counted in whole steps, so that 0.1 + 0.2 is 0.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from bench.old_names import CRITERIA
from bench.settings import Table


class CurriculumOptions(Table):
    """[train.NAME.curriculum]; as in the paper, labelled val decides and inner trainings are as long as the last."""

    start: float = Field(0.5, ge=0, le=1, description="the threshold at which a search starts")
    step: float = Field(0.1, gt=0, le=0.5)
    low: float = Field(0.0, ge=0, le=1)
    high: float = Field(0.9, ge=0, le=1)
    criterion: Annotated[
        Literal["labelled", "pseudo", "agreement"], BeforeValidator(lambda name: CRITERIA.get(name, name))
    ] = Field(
        "labelled",
        description="the score of a trial: Acc@0.5 on labelled val, as in the paper; or, without any label, on images "
        "that no training uses: against their pseudo-boxes (pseudo), or against the boxes that the scorers predict "
        "for their phrases (agreement)",
    )
    held_out: float = Field(0.05, gt=0, lt=1, description="share of the images set aside, where no label decides")
    proxy: dict[str, Any] = Field(default_factory=dict, description="laid over the config of trials: { epochs = 10 }")
    proxy_rows: float = Field(1.0, gt=0, le=1, description="share of a selection's rows that a trial trains on")
    scorer: dict[str, Any] = Field(default_factory=dict, description="laid over the config of scorers")
    scorers: dict[str, str] = Field(default_factory=dict, description="source -> weights of a finished scorer")

    @model_validator(mode="after")
    def _start_within(self) -> CurriculumOptions:
        if not self.low <= self.start <= self.high:
            raise ValueError(f"start = {self.start:g} should lie between low = {self.low:g} and high = {self.high:g}")
        return self

    def near(self, threshold: float) -> list[float]:
        """Return the neighbours of a threshold; the lower one, which keeps more rows, first."""
        place = round((threshold - self.start) / self.step)
        both = [round(self.start + (place + move) * self.step, 9) for move in (-1, 1)]
        return [h for h in both if self.low - 1e-9 <= h <= self.high + 1e-9]


@dataclass(frozen=True, slots=True)
class Choice:
    """The rows of `source` whose reliability under `scorer` is at least `threshold`: the paper's percent(H, h)."""

    source: str
    scorer: str
    threshold: float


Selection = tuple[Choice, ...]
Performance = Callable[[Selection], float | None]
Trial = tuple[Choice, float | None]  # a choice and the score of a training with it; None where it keeps no row


# The decision about one source: its name, the trials of scorers and those of thresholds, in the order they were made.
# The best threshold is chosen; a source has none where no scorer keeps a row at the start, and is skipped.
Round = tuple[str, tuple[Trial, ...], tuple[Trial, ...]]


def single_source(source: str, performance: Performance, options: CurriculumOptions) -> Round:
    """SSA: choose the threshold of the source's own scorer."""
    return _choose_threshold(Choice(source, source, options.start), (), (), performance, options)


def multi_source(order: Sequence[str], performance: Performance, options: CurriculumOptions) -> list[Round]:
    """MSA: choose for each source a scorer at the starting threshold, then the threshold.

    Sources come in `order`, of rising complexity; choices accumulate. Of equally good scorers the source's own wins.
    """
    rounds: list[Round] = []
    for source in order:
        # 1. Every scorer at the starting threshold, its own first, on top of the choices made so far.
        before = chosen_of(rounds)
        scorers = (source, *(other for other in order if other != source))
        choices = [Choice(source, scorer, options.start) for scorer in scorers]
        trials = tuple((choice, performance((*before, choice))) for choice in choices)
        # 2. The best one's threshold; a source of which no scorer keeps a row is skipped.
        best = best_of(trials)
        if best is None:
            rounds.append((source, trials, ()))
        else:
            rounds.append(_choose_threshold(best, before, trials, performance, options))
    return rounds


def _choose_threshold(
    first: Choice, before: Selection, scorers: tuple[Trial, ...], performance: Performance, options: CurriculumOptions
) -> Round:
    """Climb over the thresholds of one scorer; the best one is chosen."""

    def at(threshold: float) -> Choice:
        return Choice(first.source, first.scorer, threshold)

    tried = climb(lambda h: performance((*before, at(h))), options)
    trials = tuple((at(threshold), score) for threshold, score in tried)
    return first.source, scorers, trials


def climb(performance: Callable[[float], float | None], options: CurriculumOptions) -> list[tuple[float, float | None]]:
    """Climb greedily over thresholds from `options.start`; return every threshold tried, in order.

    It stops where neither neighbour is better. On a plateau it stays; of two neighbours that are equally better it
    takes the lower one. A threshold without rows is never better.
    """
    tried: dict[float, float | None] = {}

    def value(h: float) -> float:
        if h not in tried:
            tried[h] = performance(h)
        score = tried[h]
        return float("-inf") if score is None else score

    here = options.start
    if value(here) == float("-inf"):
        return list(tried.items())
    while better := [h for h in options.near(here) if value(h) > value(here)]:
        here = max(better, key=value)  # the first of equals: the lower one
    return list(tried.items())


def best_of(trials: Sequence[Trial]) -> Choice | None:
    """Return the choice of the best trial, of equals the first; None where none keeps a row."""
    scored = [(choice, score) for choice, score in trials if score is not None]
    return max(scored, key=lambda trial: trial[1])[0] if scored else None


def chosen_of(rounds: Sequence[Round]) -> Selection:
    """Return the choices of all rounds."""
    return tuple(best for _, _, thresholds in rounds if (best := best_of(thresholds)))
