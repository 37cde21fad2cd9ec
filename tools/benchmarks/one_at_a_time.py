"""Measure how much faster a pipeline is with scenes than with one expression at a time, the same models, one process.

    python -m tools.benchmarks.one_at_a_time [--pipeline yolo-clip] [--split shapes-val] [--images 100] [--batch 8]

The two ways take turns over the same images, decoded beforehand, so that a machine that slows down slows down both;
"one at a time" asks with a batch of one scene with one expression and with the text cache emptied, as a loop over a
data set's rows does. The boxes must be the same.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time

from bench.datasets.load import load_split
from bench.evaluation.opening import open_pipeline
from bench.grounding import LoadedScene
from bench.settings import load_settings
from pipelines.two_stage.clip.encoder import ClipEncoder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pipeline", default="yolo-clip")
    parser.add_argument("--split", default="shapes-val")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    resolved = load_settings()
    split = load_split(options.split, resolved).limited(options.images)
    pipeline = open_pipeline(options.pipeline, split, resolved)
    scenes = [LoadedScene(s.id, split.images.load(s), tuple(e.query for e in s.expressions)) for s in split.scenes]
    encoders = [thing for thing in gc.get_objects() if type(thing) is ClipEncoder]

    def together(batch: list[LoadedScene]) -> dict[str, object]:
        return {p.id: p.box for p in pipeline.ground(batch)}

    def one_at_a_time(batch: list[LoadedScene]) -> dict[str, object]:
        boxes = {}
        for scene in batch:
            for query in scene.queries:
                for encoder in encoders:
                    encoder.forget_texts()
                boxes |= together([LoadedScene(scene.id, scene.image, (query,))])
        return boxes

    together(scenes[: options.batch]), one_at_a_time(scenes[:2])  # warm up
    ratios, seconds, same, total = [], [0.0, 0.0], 0, 0
    for start in range(0, len(scenes), options.batch):
        batch = scenes[start : start + options.batch]
        began = time.perf_counter()
        fast = together(batch)
        middle = time.perf_counter()
        slow = one_at_a_time(batch)
        end = time.perf_counter()
        seconds[0] += middle - began
        seconds[1] += end - middle
        ratios.append((end - middle) / (middle - began))
        total += len(fast)
        same += sum(max(abs(a - b) for a, b in zip(fast[k], slow[k], strict=True)) < 0.01 for k in fast)
    print(
        f"{options.pipeline} on {options.split}: {len(scenes)} images, {total} expressions, same boxes {same}/{total}"
    )
    print(f"scenes, batch {options.batch}: {total / seconds[0]:.1f} expressions/s")
    print(f"one expression at a time: {total / seconds[1]:.1f} expressions/s")
    print(f"ratio, batch by batch: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
