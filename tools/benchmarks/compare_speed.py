"""Measure how long `bench compare` takes for two runs of RefCOCO val's size, and the ranks of 30 such runs.

    python -m tools.benchmarks.compare_speed

10,834 expressions on 1,500 images, six cuts of strata, 10,000 draws, one core. Targets: under 1 s for the statistics
(reading the outcomes included), about a second for the rank ranges of 30 runs. The whole command is a process of its
own, in which torch must not be imported. Leaves with 1 when a target is missed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.comparison.compare import compare
from bench.comparison.ranks import rank_ranges
from bench.grounding import Expression, Scene

sys.path[:0] = [str(Path(__file__).parents[2] / "tests")]

from worlds_of_runs import make_run  # noqa: E402

from tools.benchmarks.score_speed import EXPRESSIONS, IMAGES, PROGRAM  # noqa: E402

DRAWS, RUNS, REPEATS = 10_000, 30, 3
STATISTICS_S, RANKS_S = 1.0, 1.5
TEXTS = ("left man", "the woman in the red shirt", "a very long way to say which of all the dogs it is", "the cup here")


def split_of_that_size() -> tuple[Scene, ...]:
    scenes, done = [], 0
    for image in range(IMAGES):
        share = EXPRESSIONS * (image + 1) // IMAGES - done
        expressions = tuple(
            Expression(
                str(done + k),
                TEXTS[(done + k) % 4],
                (0.0, 0.0, 40.0, 40.0),
                kind=f"kind {k % 5}",
                category=("person", "dog")[k % 2],
                same_category=1 + k % 4,
            )
            for k in range(share)
        )
        scenes.append(Scene(str(image), f"{image}.jpg", (60, 300)[image % 2], 300, expressions))
        done += share
    return tuple(scenes)


def fastest(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def command(words: list[str], out: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of one `bench` process."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.execve(sys.executable, [sys.executable, "-c", PROGRAM, *words], os.environ)
    _, status, used = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"bench {' '.join(words)} failed:\n{out.read_text()}")
    return time.perf_counter() - began, used.ru_maxrss / (1024 * (1024 if sys.platform == "darwin" else 1))


def main() -> None:
    chance = np.random.default_rng(0)
    scenes = split_of_that_size()
    of = np.repeat(np.arange(IMAGES), [len(scene.expressions) for scene in scenes])
    hard = chance.normal(size=IMAGES)[of] + chance.normal(size=EXPRESSIONS)
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        folders = [
            make_run(home, name, scenes, (hard + chance.normal(size=EXPRESSIONS) + ease > 0).astype(int).tolist())
            for name, ease in (("one", 0.8), ("two", 0.85))
        ]
        statistics = fastest(lambda: compare(folders, DRAWS))
        (pair,) = compare(folders, DRAWS).pairs
        whole = [command(["compare", *map(str, folders)], home / "out.txt") for _ in range(REPEATS)]
    hits = hard[:, None] + chance.normal(size=(EXPRESSIONS, RUNS)) + np.linspace(0.5, 1.1, RUNS) > 0
    sums = np.stack([np.bincount(of, column, IMAGES) for column in hits.T], axis=1)
    ranks = fastest(lambda: rank_ranges(sums, np.bincount(of), DRAWS))
    what = f"two runs, {len(pair.strata)} strata, {len(pair.flips):,} flips"
    print(f"{what}: {statistics:.2f} s (target {STATISTICS_S:g} s)")
    memory = max(megabytes for _, megabytes in whole)
    print(f"the whole command: {min(whole)[0]:.2f} to {max(whole)[0]:.2f} s, {memory:.0f} MB, no torch")
    print(f"rank ranges of {RUNS} runs: {ranks:.2f} s (target {RANKS_S:g} s)")
    sys.exit(1 if statistics >= STATISTICS_S or ranks >= RANKS_S else 0)


if __name__ == "__main__":
    main()
