"""Measure the time and memory that `bench score` takes for a split of RefCOCO val's size, as a process of its own.

    python -m tools.benchmarks.score_speed

10,834 expressions on 1,500 images, 20 proposals each, 10,000 draws: boxes made elsewhere are imported, then a stored
run is scored again. Target: under 2 s and under 300 MB for each, with torch not imported. Leaves with 1 when missed.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from bench.datasets.fingerprint import fingerprint
from bench.datasets.prepared import Header, index_path, write_index
from bench.datasets.split import Counts
from bench.grounding import Box, Expression, Prediction, Scene
from bench.runs.predictions import SceneAnswers
from bench.runs.record import read_record
from bench.runs.store import store_rows, write_packed

EXPRESSIONS, IMAGES, PROPOSALS = 10_834, 1_500, 20
SECONDS, MEGABYTES, REPEATS = 2.0, 300.0, 3
WORDS = "man woman left right red blue shirt dog cup in front of the with a hat".split()  # noqa: SIM905
PROGRAM = (
    "import sys\nfrom bench.cli.main import main\n"
    "try:\n    main()\nfinally:\n    sys.exit(9) if 'torch' in sys.modules else None"
)


def a_box(chance: random.Random) -> Box:
    x, y = chance.uniform(0, 400), chance.uniform(0, 300)
    return (round(x, 2), round(y, 2), round(x + chance.uniform(20, 240), 2), round(y + chance.uniform(20, 180), 2))


def near(chance: random.Random, box: Box) -> Box:
    x1, y1, x2, y2 = (round(v + chance.gauss(0, 25), 4) for v in box)
    return (x1, y1, x2, y2)


def made_up(chance: random.Random) -> tuple[Scene, ...]:
    scenes, done = [], 0
    for n in range(IMAGES):
        share = EXPRESSIONS * (n + 1) // IMAGES - done
        expressions = [(" ".join(chance.choices(WORDS, k=chance.randint(1, 12))), a_box(chance)) for _ in range(share)]
        numbered = tuple(Expression(str(done + k), text, box) for k, (text, box) in enumerate(expressions))
        scenes.append(Scene(str(n), f"COCO_train2014_{n:012}.jpg", 640, 480, numbered))
        done += share
    return tuple(scenes)


def measured(words: list[str], home: Path) -> tuple[float, float, float, str]:
    """Seconds on the wall, seconds of processor and peak megabytes of one `bench` process, and its last line."""
    out = home / "out.txt"
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(home / "err.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.execve(sys.executable, [sys.executable, "-c", PROGRAM, *words], os.environ | {"BENCH_HOME": str(home)})
    _, status, used = os.wait4(pid, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"bench {' '.join(words)} failed:\n{(home / 'err.txt').read_text()}")
    kilobytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return seconds, used.ru_utime + used.ru_stime, kilobytes / 1024, out.read_text().splitlines()[-1]


def main() -> None:
    chance = random.Random(0)
    scenes = made_up(chance)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        header = Header("refcoco", "val", "made up", Counts(EXPRESSIONS, None, IMAGES), fingerprint(scenes))
        write_index(index_path(home, "refcoco", "val"), header, scenes)
        boxes = {e.id: near(chance, e.box) for scene in scenes for e in scene.expressions}
        (home / "boxes.json").write_text(json.dumps(boxes))
        importing = [
            "score",
            "--predictions",
            f"{home}/boxes.json",
            "--split",
            "refcoco-val",
            "--results",
            f"{home}/r",
            "--json",
        ]
        (run,) = json.loads(measured(importing, home)[3])["rows"]
        lines = [
            SceneAnswers(
                scene.id,
                tuple(Prediction(e.id, boxes[e.id], 0.5) for e in scene.expressions),
                tuple(a_box(chance) for _ in range(PROPOSALS)),
            )
            for scene in scenes
        ]
        stored = Path(run["run_dir"])
        again = ["score", run["run_dir"], "--json"]
        missed = report("boxes made elsewhere", importing, home)
        store_rows(stored, lines)
        write_packed(stored, read_record(stored))
        missed |= report("stored run with proposals", again, home)
    sys.exit(1 if missed else 0)


def report(what: str, words: list[str], home: Path) -> bool:
    """Prints the best and the worst of a few runs; whether the best misses the target."""
    runs = [measured(words, home) for _ in range(REPEATS)]
    seconds, processor = sorted(r[0] for r in runs), min(r[1] for r in runs)
    memory = max(r[2] for r in runs)
    (row,) = json.loads(runs[0][3])["rows"]
    missed = seconds[0] >= SECONDS or memory >= MEGABYTES
    print(
        f"{what}: {seconds[0]:.2f} to {seconds[-1]:.2f} s (processor {processor:.2f} s), {memory:.0f} MB "
        f"(n {row['n']:,}, Acc@0.5 {row['acc@0.5']:.4f}, ceiling {row['oracle@0.5']}); "
        f"target {SECONDS:g} s, {MEGABYTES:g} MB: {'MISSED' if missed else 'met'}"
    )
    return missed


if __name__ == "__main__":
    main()
