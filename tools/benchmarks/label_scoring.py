"""Measure how long scoring pseudo-labels takes against an evaluation of as many expressions: tiny-clipvg on shapes.

    python -m tools.benchmarks.label_scoring [--rows 10000] [--rounds 10]

Labels are the truth of shapes-train, written as JSONL. Both ways do all that their verbs do: read the annotations, open
the weights, ask, compare, and write down what came of it. They take turns, a slice of the images each round and the
other one first in the next, so that a machine that slows down slows down both. On a machine that others use too, the
seconds of processor say more than those on the wall; both are printed. Target, on the wall: at most 1.5 times as long.
Leaves with 1 when missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.datasets.load import load_split
from bench.datasets.split import Split
from bench.evaluation.loop import evaluate
from bench.grounding import Scene
from bench.labelling.scoring import score_labels
from bench.settings import PROJECT, Resolved, load_settings

SCORER = PROJECT / "clipvg" / "weights" / "tiny-clipvg.safetensors"
TARGET = 1.5
SPLIT = "shapes-train"
Timed = tuple[float, float, float]
PER_SCENE = 5.4  # expressions, and a little less: enough scenes are drawn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0, help="0 = as torch has them")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        flags = {"data.shapes.train": int(options.rows / PER_SCENE) + 1, "run.device": "cpu", "results": folder}
        resolved = load_settings(None, flags)
        scenes = load_split(SPLIT, resolved).scenes
        size = len(scenes) // options.rounds
        scored: list[Timed] = []
        evaluated: list[Timed] = []
        rows = 0
        for number in range(options.rounds):
            part = slice(number * size, (number + 1) * size)
            rows += sum(len(scene.expressions) for scene in scenes[part])
            labels = written(Path(folder) / f"labels{number}.jsonl", scenes[part])
            ways = [
                lambda labels=labels: scored.append(scoring(labels, resolved)),
                lambda part=part: evaluated.append(evaluation(part, resolved)),
            ]
            for way in ways[:: 1 if number % 2 else -1]:
                way()
            (mean, mine, _), (same, its, _) = scored[-1], evaluated[-1]
            print(
                f"round {number + 1}: scoring {mine:.1f} s, evaluation {its:.1f} s, ratio {mine / its:.2f}", flush=True
            )
            if abs(mean - same) > 1e-3:
                sys.exit(f"mean reliability {mean:.4f} and mean IoU {same:.4f} should be the same number")
    ratios = [mine / its for (_, mine, _), (_, its, _) in zip(scored, evaluated, strict=True)]
    mine, its = (sum(seconds for _, seconds, _ in way) for way in (scored, evaluated))
    busy, theirs = (sum(seconds for _, _, seconds in way) for way in (scored, evaluated))
    print(
        f"{rows:,} rows, {torch.get_num_threads()} threads: scoring {rows / mine:.0f} rows/s, evaluation "
        f"{rows / its:.0f} expressions/s; ratio {mine / its:.2f} (median of rounds {statistics.median(ratios):.2f}, "
        f"{min(ratios):.2f} to {max(ratios):.2f}), "
        f"of processor time {busy / theirs:.2f} ({busy:.1f} and {theirs:.1f} s); "
        f"target {TARGET}: {'MISSED' if mine / its > TARGET else 'met'}"
    )
    sys.exit(mine / its > TARGET)


def written(path: Path, scenes: Sequence[Scene]) -> Path:
    """The scenes' expressions as a file of labels, boxes to a hundredth of a pixel."""
    rows = [
        {"image": s.file, "text": e.text, "box_xyxy": [round(v, 2) for v in e.box], "id": e.id}
        for s in scenes
        for e in s.expressions
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scoring(labels: Path, resolved: Resolved) -> Timed:
    """Mean reliability, and the seconds it took on the wall and of processor."""
    began, busy = time.perf_counter(), time.process_time()
    record = score_labels([str(SCORER)], [labels], SPLIT, labels.with_suffix(""), resolved)
    return record["pairs"][0]["mean"], time.perf_counter() - began, time.process_time() - busy


def evaluation(part: slice, resolved: Resolved) -> Timed:
    """Mean IoU, and the seconds it took on the wall and of processor."""
    began, busy = time.perf_counter(), time.process_time()
    whole = load_split(SPLIT, resolved)
    split = Split(whole.name, whole.title, whole.scenes[part], whole.images, partial=True)
    record = evaluate("clipvg", split, resolved, {"weights": str(SCORER)}, fresh=True).record
    assert record is not None and record.metrics is not None
    return record.metrics.mean_iou, time.perf_counter() - began, time.process_time() - busy


if __name__ == "__main__":
    main()
