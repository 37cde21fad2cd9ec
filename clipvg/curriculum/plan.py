"""What a curriculum will do and cost, said before it begins (spec clipvg.md 4.4).

How many trials a search takes depends on what they find: a climb tries two neighbours at least, every threshold of the
grid at most. Time is told from the trainings that are done, in rows seen a second; before the first one it is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clipvg.curriculum.options import CurriculumOptions
from clipvg.curriculum.rows import Pool
from clipvg.training.recipe import ClipVGRecipe


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of node: how many there are, and how many rows one of them sees, epochs counted."""

    what: str
    least: int
    most: int
    rows: int
    trains: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """Every kind of node; `trained` and `scored` are rows a second, 0 where nobody knows yet; `done` counts nodes."""

    steps: tuple[Step, ...]
    trained: float
    scored: float
    done: int

    @property
    def seconds(self) -> tuple[float, float] | None:
        """From the least to the most, with everything that is done already; None while a rate is unknown."""
        if not (self.trained and self.scored):
            return None
        each = [step.rows / (self.trained if step.trains else self.scored) for step in self.steps]
        least = sum(step.least * cost for step, cost in zip(self.steps, each, strict=True))
        return least, sum(step.most * cost for step, cost in zip(self.steps, each, strict=True))

    def table(self) -> list[dict[str, Any]]:
        """The steps as plain JSON."""
        return [asdict(step) for step in self.steps]

    def lines(self) -> list[str]:
        """The plan in words, a line a step."""
        said = [f"{'':<34} {'how many':>10} {'rows seen by each':>18}"]
        for step in self.steps:
            many = str(step.least) if step.least == step.most else f"{step.least} to {step.most}"
            said.append(f"{step.what:<34} {many:>10} {step.rows:>18,}")
        trainings = [sum(getattr(s, end) for s in self.steps if s.trains) for end in ("least", "most")]
        seen = [sum(getattr(s, end) * s.rows for s in self.steps if s.trains) for end in ("least", "most")]
        said.append(
            f"{trainings[0]} to {trainings[1]} trainings that see {seen[0]:,} to {seen[1]:,} rows in all, the same "
            f"selection never twice; {self.done} nodes are done"
        )
        if self.seconds is None:
            said.append("time: unknown until the first training and the first scoring are done")
        else:
            low, high = (seconds / 3600 for seconds in self.seconds)
            said.append(
                f"time: {low:.1f} to {high:.1f} hours for all of it, at {self.trained:,.0f} rows/s in training and "
                f"{self.scored:,.0f} in scoring, as in the nodes that are done"
            )
        return said


def make_plan(
    kind: str,
    pools: Sequence[Pool],
    recipes: Mapping[str, ClipVGRecipe],
    options: CurriculumOptions,
    records: Sequence[Mapping[str, Any]],
) -> Plan:
    """The plan of a curriculum over `pools` in their order. `recipes` are those of "measurer", "trial" and "last".

    A trial is counted with every row of its source and of those before it: with the most that it could see.
    """
    grid = options.grid
    thresholds = 1 + _between(grid.low, grid.start, grid.step) + _between(grid.start, grid.high, grid.step)
    rows = [len(pool.rows) - len(pool.held_out) for pool in pools]
    steps = []
    for pool, count in zip(pools, rows, strict=True):
        if pool.name not in options.measurers:
            steps.append(Step(f"measurer of {pool.name}", 1, 1, seen(recipes["measurer"], count)))
    every = sum(len(pool.rows) for pool in pools)
    steps.append(Step("reliability of all rows", len(pools), len(pools), every, trains=False))
    for number, pool in enumerate(pools, 1):
        there = round(sum(rows[:number]) * options.proxy_rows)
        others = len(pools) - 1 if kind == "multi" else 0
        beside = min(2, thresholds - 1)
        least, most = 1 + others + beside, thresholds + others
        steps.append(Step(f"trials of {pool.name}", least, most, seen(recipes["trial"], there)))
    steps.append(Step("last training", 1, 1, seen(recipes["last"], sum(rows))))
    return Plan(tuple(steps), *_rates(records), len(records))


def seen(recipe: ClipVGRecipe, rows: int) -> int:
    """Rows that a training of that recipe sees, every epoch counted."""
    return recipe.steps * recipe.reference_batch if recipe.steps else recipe.epochs * rows


def _between(low: float, high: float, step: float) -> int:
    """Whole steps from one to the other."""
    return int((high - low) / step + 1e-6)


def _rates(records: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Rows a second, in training and in scoring, over the nodes that are done."""
    sums = {"train": [0.0, 0.0], "score": [0.0, 0.0]}
    for record in records:
        found, into = record["found"], sums.get(record.get("kind", ""))
        if into is None:
            continue
        into[0] += _rows_seen(found)
        into[1] += record.get("seconds", 0.0)
    (trained, training), (scored, scoring) = sums["train"], sums["score"]
    return trained / training if training else 0.0, scored / scoring if scoring else 0.0


def _rows_seen(found: Mapping[str, Any]) -> float:
    notes = found.get("notes", {})
    if "steps" in notes:
        return float(notes["steps"] * notes["effective_batch"])
    return float(len(found["rows"])) if isinstance(found.get("rows"), Mapping) else 0.0
