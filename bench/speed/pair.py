"""Measure the ratio of two pipelines' speeds in turn, on a machine that may slow down.

Both are loaded, each at its own best batch. In every round each goes over the same images once, cold; who starts
alternates (a b, b a, ...). A round gives one ratio: reported are median, quartiles, lowest and highest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets.split import Split
from bench.evaluation.identity import hash_of, now
from bench.evaluation.progress import message
from bench.settings import Resolved
from bench.speed.check import SAMPLE, against_accuracy
from bench.speed.conditions import open_gpu, record_conditions
from bench.speed.record import PairRecord, Ratio, Rules, Side, write
from bench.speed.resident import CAP_MB, make_resident
from bench.speed.scenarios import search, spread, timed, warm_up
from bench.speed.subject import Subject, open_subject

ROUNDS = 12  # even, so that each starts as often as the other


def measure_pair(
    names: tuple[str, str],
    split: Split,
    resolved: Resolved,
    flags: Mapping[str, Any] | None = None,
    rules: Rules | None = None,
    cap_mb: float = CAP_MB,
    rounds: int = ROUNDS,
    on: str | None = None,
) -> tuple[PairRecord, Path]:
    """Measure two pipelines in turn; returns the record and its file (among the runs of the second).

    `flags` are options of both that win over bench.toml. All rounds together last for each at least as long as the
    repeats of the rules. Raises what `measure` raises.
    """
    rules, started = rules or Rules(), now()
    images = cache(lambda: make_resident(split, cap_mb))
    sides = tuple(open_subject(name, split, resolved, flags, images, on) for name in names)
    gpu, _ = open_gpu(sides[0].opened.context.device)
    stop = record_conditions(gpu)
    # 1. Each at its own best batch; a turn has the same images for both.
    sizes, rates = zip(*(_ready(side, rules) for side in sides), strict=True)
    scenes = _turn(max(rates), max(sizes), rules, rounds)
    message(f"{names[0]} and {names[1]} in turn: {rounds} rounds of {scenes} images")
    speeds: tuple[list[float], list[float]] = ([], [])
    expressions = 0
    # 2. Rounds, whose order alternates.
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            seconds, expressions = _go(sides[which], sizes[which], scenes)
            speeds[which].append(expressions / seconds)
    conditions, noisy = stop()
    done = [_side(*each, split) for each in zip(sides, sizes, speeds, strict=True)]
    record = PairRecord(
        first=done[0],
        second=done[1],
        ratio=ratio_of(*speeds),
        images_per_turn=scenes,
        expressions_per_turn=expressions,
        started=started,
        finished=now(),
        **sides[0].made_by(),
        rules=rules,
        full=rules.full and rounds >= ROUNDS and not split.partial,
        conditions=conditions,
        noisy=tuple(noisy),
        valid=all(side.check.passed for side in done),
    )
    if gpu:
        gpu.close()
    return record, write(record, Path(resolved.settings.results), "pair")


def ratio_of(first: list[float], second: list[float]) -> Ratio:
    """Divide the second's speed by the first's, round by round."""
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    quarter, median, three = (float(q) for q in np.percentile(ratios, (25, 50, 75)))
    return Ratio(median=median, low=min(ratios), high=max(ratios), quartiles=(quarter, three), rounds=tuple(ratios))


def _ready(subject: Subject, rules: Rules) -> tuple[int, float]:
    """Warm a pipeline up; return its best batch and the images a second of that."""
    message(f"{subject.opened.name}: looking for the best batch")
    warm_up(lambda n: subject.ground_batch(n, 1), rules)
    size, tried = search(subject, rules)
    warm_up(lambda n: subject.ground_batch(n * size, size), rules)
    return size, max(each["images_per_s"] or 0.0 for each in tried)


def _turn(fastest: float, largest: int, rules: Rules, rounds: int) -> int:
    """Count the images of a turn: whole batches of the larger size, enough for the faster one to last."""
    seconds = rules.min_seconds * rules.repeats / rounds
    batches = math.ceil(rules.min_batches * rules.repeats / rounds)
    return largest * max(batches, math.ceil(seconds * fastest / largest))


def _go(subject: Subject, size: int, scenes: int) -> tuple[float, int]:
    """Run one turn over the scenes 0 to `scenes`, around the resident ones; return seconds and expressions."""
    last = scenes % size

    def step(number: int) -> tuple[int, int]:
        return subject.ground_batch(number * size, last if last and number == scenes // size else size)

    seconds, _, _, expressions = timed(step, subject.wait, 0.0, math.ceil(scenes / size))
    return seconds, expressions


def _side(subject: Subject, size: int, speeds: list[float], split: Split) -> Side:
    subject.answer_at_least(SAMPLE, size)
    subject.empty_caches()
    opened = subject.opened
    identity = subject.identity(split)
    return Side(
        name=subject.opened.name,
        identity=identity,
        settings_hash=hash_of(identity),
        batch_size=size,
        expressions_per_s=spread(speeds),
        check=against_accuracy(opened, subject.resident, subject.answered, identity.dtype),
    )
