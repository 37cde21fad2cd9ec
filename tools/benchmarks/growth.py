"""Measure how commands about stored runs grow: processor seconds and peak memory, each as a process of its own.

    python -m tools.benchmarks.growth                     # RefCOCO val's 10,834 expressions, 30 runs in one table
    python -m tools.benchmarks.growth --expressions 10000 100000 400000 --runs 30 100 300
    python -m tools.benchmarks.growth --against PYTHON    # and the same with another version's python, in alternation

`boxes` imports predictions made elsewhere, `score` scores a stored run with 20 proposals an image again, `compare`
compares two runs, `report` makes their page without images, `leaderboard` ranks runs of 10,000 expressions each. The
data are made up, with this version. Fails where a command imports torch, or where both versions store other files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.datasets.fingerprint import fingerprint
from bench.datasets.prepared import Header, index_path, write_index
from bench.datasets.split import Counts
from bench.grounding import Expression, Prediction, Scene
from bench.runs.packed import STEMS, packed_name, stored_bytes
from bench.runs.predictions import SceneAnswers
from bench.runs.record import RECORD, read_record
from bench.runs.store import store_rows, write_packed

EXPRESSIONS, RUNS, OF_RUNS, PROPOSALS = 10_834, 30, 10_000, 20
COMMANDS = ("boxes", "score", "compare", "report", "leaderboard")
WORDS = "man woman left right red blue shirt dog cup in front of the with a hat".split()  # noqa: SIM905
PROGRAM = (
    "import sys\nfrom bench.cli.main import main\n"
    "try:\n    main()\nfinally:\n    sys.exit(9) if 'torch' in sys.modules else None"
)


class Used(NamedTuple):
    """What one process used."""

    seconds: float
    megabytes: float


def run(python: str, words: Sequence[object], home: Path) -> Used:
    """Run `bench` in a process of its own on one thread, with its output in `home`/out.txt."""
    out, err = home / "out.txt", home / "err.txt"
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        changed = {"BENCH_HOME": str(home), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        os.execve(python, [python, "-P", "-c", PROGRAM, *map(str, words)], os.environ | changed)
    _, status, used = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"bench {' '.join(map(str, words))} failed:\n{err.read_text()}")
    kilobytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return Used(used.ru_utime + used.ru_stime, kilobytes / 1024)


def measure(what: str, count: int, pythons: Sequence[str], words: Sequence[object], home: Path, repeats: int) -> None:
    """Print the medians of a command by each python, run in alternation; {n} in its words is the python's number."""
    used: list[list[Used]] = [[] for _ in pythons]
    for _ in range(repeats):
        for number, python in enumerate(pythons):
            used[number].append(run(python, [str(word).replace("{n}", str(number)) for word in words], home))
    cells = []
    for times in used:
        seconds, megabytes = statistics.median(t.seconds for t in times), max(t.megabytes for t in times)
        cells.append(f"{seconds:7.2f} s {1e6 * seconds / count:8.1f} us each {megabytes:6.0f} MB")
    ratios = [old.seconds / new.seconds for new, old in zip(used[0], used[-1], strict=True)]
    ratio = f" | ratio {statistics.median(ratios):.2f}" if len(pythons) > 1 else ""
    print(f"{what:>11} {count:7,} | {' | '.join(cells)}{ratio}", flush=True)


def make_scenes(count: int, rng: np.random.Generator) -> tuple[Scene, ...]:
    """Make `count` expressions on images of seven, with kinds and categories."""
    corners = rng.uniform(0, (400, 300), (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(90, (240, 180), (count, 2))]).round(2).tolist()
    texts = [" ".join(rng.choice(WORDS, n)) for n in rng.integers(1, 13, 9_973)]
    expressions = [
        Expression(str(n), texts[n % 9_973], tuple(box), None, f"kind {n % 5}", ("person", "dog")[n % 2], 1 + n % 5)
        for n, box in enumerate(boxes)
    ]
    return tuple(
        Scene(str(n), f"COCO_train2014_{n:012}.jpg", 640, 480, tuple(expressions[at : at + 7]))
        for n, at in enumerate(range(0, count, 7))
    )


def make_boxes(home: Path, scenes: Sequence[Scene], shift: float, rng: np.random.Generator) -> Path:
    """Write a file of predictions: every box moved by about `shift` pixels."""
    expressions = [e for scene in scenes for e in scene.expressions]
    boxes = np.array([e.box for e in expressions]) + rng.normal(0, shift, (len(expressions), 4))
    path = home / f"shift-{shift}.json"
    path.write_text(json.dumps(dict(zip((e.id for e in expressions), boxes.round(4).tolist(), strict=True))))
    return path


def importing(path: Path, results: object) -> list[object]:
    return ["score", "--predictions", path, "--split", "refcoco-val", "--results", results]


def stored(results: Path) -> dict[str, Path]:
    """Find the runs of one folder of results, name -> folder."""
    return {read_record(path.parent).name: path.parent for path in results.glob(f"runs/*/*/*/{RECORD}")}


def add_proposals(folder: Path, rng: np.random.Generator) -> None:
    """Give every image of a stored run its proposals."""
    lines = [json.loads(line) for line in stored_bytes(folder, "predictions").splitlines()]
    corners = rng.uniform(0, 240, (len(lines), PROPOSALS, 2))
    proposals = np.concatenate([corners, corners + rng.uniform(20, 240, corners.shape)], axis=2).round(6).tolist()
    rows = [
        SceneAnswers(line["scene"], tuple(Prediction(p["id"], p["box"], 0.5) for p in line["predictions"]), tuple(own))
        for line, own in zip(lines, proposals, strict=True)
    ]
    store_rows(folder, rows)
    write_packed(folder, read_record(folder))


def add_runs(template: Path, results: Path, numbers: range, rng: np.random.Generator) -> None:
    """Store runs that differ from a template in their name and hits."""
    record = read_record(template)
    lines = [json.loads(line) for line in stored_bytes(template, "outcomes").splitlines()]
    hard = rng.normal(size=sum(len(line["ids"]) for line in lines))
    for number in numbers:
        hits = iter((hard + rng.normal(size=len(hard)) > 0.01 * number - 1).astype(int).tolist())
        rows = [line | {"hit": [next(hits) for _ in line["hit"]]} for line in lines]
        right = sum(sum(row["hit"]) for row in rows)
        numbers = {"hits": right, "accuracy": right / record.metrics.n, "ci95": None, "strata": {}}
        answers = packed_name("predictions")
        changed = {"name": f"run-{number}", "metrics": record.metrics.model_copy(update=numbers), "git": {}}
        changed |= {"files": {answers: record.files[answers]}}
        folder = results / "runs" / changed["name"] / "refcoco-val" / "1"
        folder.mkdir(parents=True)
        shutil.copy(template / answers, folder)
        content = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        (folder / "outcomes.jsonl").write_text(content)
        write_packed(folder, record.model_copy(update=changed))


def prepare(home: Path, count: int) -> tuple[Scene, ...]:
    """Write the index of a split of that size."""
    scenes = make_scenes(count, np.random.default_rng(0))
    header = Header("refcoco", "val", "made up", Counts(count, None, len(scenes)), fingerprint(scenes))
    write_index(index_path(home, "refcoco", "val"), header, scenes)
    return scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(COMMANDS)}; all unless named")
    parser.add_argument("--expressions", type=int, nargs="+", default=[EXPRESSIONS])
    parser.add_argument("--runs", type=int, nargs="+", default=[RUNS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", metavar="PYTHON", help="the python of an environment with another version")
    options = parser.parse_args()
    commands = options.commands or COMMANDS
    pythons = [sys.executable, *([options.against] if options.against else [])]
    rng = np.random.default_rng(1)

    def time(what: str, count: int, words: Sequence[object], home: Path) -> None:
        if what in commands:
            measure(what, count, pythons, words, home, options.repeats)

    for count in options.expressions if {*commands} - {"leaderboard"} else ():
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            scenes = prepare(home, count)
            one, two = (make_boxes(home, scenes, shift, rng) for shift in (15, 18))
            time("boxes", count, importing(one, home / "r{n}"), home)
            for path in (one, two):
                run(pythons[0], importing(path, home / "r0"), home)
            for name, other in stored(home / "r1").items():
                mine = stored(home / "r0")[name]
                if any(stored_bytes(mine, stem) != stored_bytes(other, stem) for stem in STEMS[:2]):
                    sys.exit(f"{mine} and {other}: the two versions stored other files")
            runs = stored(home / "r0")
            time("compare", count, ["compare", *runs.values()], home)
            time("report", count, ["report", *runs.values(), "-s", "refcoco-val", "-o", home / "page.html"], home)
            add_proposals(runs[one.stem], rng)
            time("score", count, ["score", runs[one.stem], "--json"], home)
    if "leaderboard" in commands:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            run(pythons[0], importing(make_boxes(home, prepare(home, OF_RUNS), 15, rng), home / "template"), home)
            (template,) = stored(home / "template").values()
            made = 0
            for count in sorted(options.runs):
                add_runs(template, home / "r", range(made, count), rng)
                made = count
                time("leaderboard", count, ["leaderboard", "--results", home / "r"], home)


if __name__ == "__main__":
    main()
