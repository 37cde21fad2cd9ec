"""Time the passes, after MLPerf's scenarios: `single` (SingleStream) and `offline` (Offline), and what goes before.

    warm-up     until both a number of seconds and a number of batches are over
    search      the batch is doubled until it is no faster by 5 %, or memory is too small
    offline     the best batch, again and again: images and expressions per second, cold or with one cache warm
    single      one image with one expression a call: milliseconds
    stages      a pass of its own, with the clock's times

The device is waited for at the two ends of a timed region only (of each call in `single`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any

import numpy as np

from bench.errors import DeviceError
from bench.grounding import LoadedScene, Prediction
from bench.memory import free, out_of_memory
from bench.speed.record import COLD, Rate, Rules, Single, Spread
from bench.speed.subject import Subject

GAIN = 1.05  # a doubled batch must be faster by this much
SHARE = 0.1  # of the rules: how long the stage split and each step of the search are measured
STEP_BATCHES = 3  # of the search, at least


def warm_up(step: Callable[[int], object], rules: Rules) -> None:
    """Call `step(number)` until the rules' warm-up is over."""
    start = time.perf_counter()
    for number in count():
        if number >= rules.warmup_batches and time.perf_counter() - start >= rules.warmup_seconds:
            return
        step(number)


def timed(
    step: Callable[[int], tuple[int, int]], wait: Callable[[], None], seconds: float, batches: int
) -> tuple[float, int, int, int]:
    """Call `step(number)` until both minima are met; return seconds, batches, images, expressions."""
    images = expressions = done = 0
    wait()
    start = time.perf_counter()
    while done < batches or time.perf_counter() - start < seconds:
        new_images, new_expressions = step(done)
        images, expressions, done = images + new_images, expressions + new_expressions, done + 1
    wait()
    return time.perf_counter() - start, done, images, expressions


def search(subject: Subject, rules: Rules) -> tuple[int, tuple[dict[str, Any], ...]]:
    """Search the fastest batch, cold; return it and the sizes tried; `rules.batch_size` leaves only itself to try.

    Raises DeviceError where the first size is too much.
    """
    tried: list[dict[str, Any]] = []
    size, best = min(rules.batch_size or 1, len(subject.resident.loaded)), (0.0, 0)
    while True:
        rate, note = _rate(subject, size, rules)
        if rate is None:
            tried.append({"batch_size": size, "images_per_s": None, "note": note})
            break
        tried.append({"batch_size": size, "images_per_s": rate, "note": ""})
        enough = rules.batch_size or rate < best[0] * GAIN
        best = max(best, (rate, size))
        if enough or size == len(subject.resident.loaded):
            break
        size = min(2 * size, len(subject.resident.loaded))
    if not best[1]:
        raise DeviceError(
            f"pipeline {subject.opened.name!r} runs out of memory in a batch of {size} ({tried[-1]['note']}); use "
            "--dtype float16 or bfloat16, a smaller model, or --device cpu"
        )
    return best[1], tuple(tried)


def _rate(subject: Subject, size: int, rules: Rules) -> tuple[float | None, str]:
    note = ""
    try:
        subject.ground_batch(0, size)  # a size is often slow the first time: kernels are chosen, graphs compiled
        seconds, _, images, _ = timed(
            lambda n: subject.ground_batch(n * size, size),
            subject.wait,
            SHARE * rules.min_seconds,
            min(STEP_BATCHES, rules.min_batches),
        )
    except Exception as error:
        if not out_of_memory(error):
            raise
        note = f"out of memory: {str(error).partition(chr(10))[0]}"
    if note:  # outside the except: while the exception lives, its frames hold the tensors that must be freed
        free()
        return None, note
    return images / seconds, ""


def offline(
    subject: Subject,
    size: int,
    rules: Rules,
    warm: Collection[str] = (),
    around: Callable[[Callable[[], None]], None] = lambda measure: measure(),
) -> Rate:
    """Measure the best batch over and over, `repeats` times; caches in `warm` are filled before and kept.

    `around` gets what measures all repeats, so that memory and energy are counted over just that.
    """

    def step(number: int) -> tuple[int, int]:
        return subject.ground_batch(number * size, size, warm)

    if warm:
        for start in range(0, len(subject.resident.loaded), size):
            subject.ground_batch(start, size, warm)
    warm_up(step, rules)
    laps: list[tuple[float, int, int, int]] = []

    def measure() -> None:
        laps.extend(timed(step, subject.wait, rules.min_seconds, rules.min_batches) for _ in range(rules.repeats))

    around(measure)
    return Rate(
        cache=" and ".join(f"{name} warm" for name in sorted(warm)) or COLD,
        batch_size=size,
        images_per_s=spread([images / seconds for seconds, _, images, _ in laps]),
        expressions_per_s=spread([expressions / seconds for seconds, _, _, expressions in laps]),
        batches=sum(batches for _, batches, _, _ in laps),
        images=sum(images for _, _, images, _ in laps),
        expressions=sum(expressions for *_, expressions in laps),
        seconds=round(sum(seconds for seconds, *_ in laps), 3),
    )


def single(subject: Subject, rules: Rules) -> tuple[Single, dict[str, Prediction]]:
    """Time one image and expression a call; return that and the last answer to each expression."""
    pairs = [LoadedScene(scene.id, scene.image, (query,)) for scene, query in subject.resident.pairs()]
    answers: dict[str, Prediction] = {}
    numbers = count()

    def call(_: int) -> float:
        number = next(numbers)
        subject.wait()
        start = time.perf_counter()
        answer = subject.ground_one(pairs[number % len(pairs)], number)
        subject.wait()
        took = time.perf_counter() - start
        answers[answer.id] = answer
        return 1000 * took

    warm_up(call, rules)
    repeats: list[list[float]] = []
    for _ in range(rules.repeats):
        calls: list[float] = []
        start = time.perf_counter()
        while len(calls) < rules.min_batches or time.perf_counter() - start < rules.min_seconds:
            calls.append(call(0))
        repeats.append(calls)
    every = np.array([ms for calls in repeats for ms in calls])
    p50, p90, p99 = (float(np.percentile(every, q)) for q in (50, 90, 99))
    medians = spread([statistics.median(calls) for calls in repeats])
    return Single(p50_ms=p50, p90_ms=p90, p99_ms=p99, calls=len(every), median_ms=medians), answers


def stages(subject: Subject, size: int, rules: Rules) -> dict[str, float]:
    """Measure milliseconds an image in each stage, cold, and in none ("outside stages")."""
    subject.ground_batch(0, size)
    subject.opened.clock.take(wait=True)
    batches = max(1, round(SHARE * rules.min_batches))
    seconds, _, images, _ = timed(
        lambda n: subject.ground_batch(n * size, size), subject.wait, SHARE * rules.min_seconds, batches
    )
    seconds_of = subject.opened.clock.take(wait=True)
    seconds_of["outside stages"] = max(0.0, seconds - sum(seconds_of.values()))
    return {name: round(1000 * value / images, 6) for name, value in seconds_of.items()}


def spread(values: Sequence[float]) -> Spread:
    """Return median, lowest and highest."""
    return Spread(median=statistics.median(values), low=min(values), high=max(values))
