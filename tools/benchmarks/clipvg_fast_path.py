"""Measure CLIP-VG's fast path against its plain one: full size, random weights, the same boxes, one process.

    python -m tools.benchmarks.clipvg_fast_path [--arch ViT-B/16] [--images 8] [--expressions 7] [--reads]

The two ways take turns over the same images, so that a machine that slows down slows down both. Texts are new in
every batch and the cache of texts is emptied before it, so that nothing is kept from one batch to the next; with
`--reads` it is kept, as in a run in which expressions come again. Weights are filled by the plain reference's formula:
the numbers do not matter to the speed, but boxes that differ can be compared.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.grounding import LoadedScene, Query
from clipvg.pipeline import ClipVGPipeline, clipvg
from tools.benchmarks.shared import SIZES, make_context

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import plain_clipvg

COLOURS = ("red", "blue", "black", "white", "green", "yellow", "brown")
THINGS = ("man", "woman in a coat", "dog", "chair", "car behind the bus", "cup", "pizza slice", "horse")
PLACES = ("", " on the left", " at the right side", " in the middle", " nearest to us", " next to the tall one")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="ViT-B/16", choices=plain_clipvg.OFFICIAL)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--expressions", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0, help="0 = as torch has them")
    parser.add_argument("--reads", action="store_true", help="keep the cache of texts between batches")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = plain_clipvg.write_official(
            Path(folder) / "checkpoint.pth", plain_clipvg.official_state(plain_clipvg.OFFICIAL[options.arch])
        )
        fast, plain = (pipeline(path, options, fast=way) for way in (True, False))
    scenes = made(options.images, options.expressions)
    timed(fast, scenes[:1], options), timed(plain, scenes[:1], options)  # warm up
    ratios, seconds, farthest, total = [], [0.0, 0.0], 0.0, 0
    for start in range(0, len(scenes), options.batch):
        batch = scenes[start : start + options.batch]
        (ours, mine), (theirs, its) = timed(fast, batch, options), timed(plain, batch, options)
        seconds[0] += mine
        seconds[1] += its
        ratios.append(its / mine)
        total += len(ours)
        farthest = max(farthest, *(np.abs(np.subtract(ours[key], theirs[key])).max() for key in ours))
    print(f"{options.arch} {options.dtype} on {options.device}, {torch.get_num_threads()} threads:", end=" ")
    print(f"{len(scenes)} images, {total} expressions, boxes differ by at most {farthest:.2g} pixels")
    print(f"fast: {total / seconds[0]:.2f} expressions/s; plain: {total / seconds[1]:.2f} expressions/s")
    print(f"ratio, batch by batch: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def pipeline(path: Path, options: argparse.Namespace, fast: bool) -> ClipVGPipeline:
    context = make_context(path.parent, options.device, options.dtype, weights=str(path), fast=fast)
    return clipvg(context)


def made(images: int, expressions: int) -> list[LoadedScene]:
    """Images of noise, each with texts of its own."""
    rng = np.random.default_rng(0)
    texts = itertools.cycle(f"the {c} {t}{p}" for p, t, c in itertools.product(PLACES, THINGS, COLOURS))
    out = []
    for number in range(images):
        width, height = SIZES[number % len(SIZES)]
        queries = tuple(Query(f"{number}:{n}", next(texts)) for n in range(expressions))
        out.append(LoadedScene(str(number), rng.integers(0, 256, (height, width, 3), np.uint8), queries))
    return out


def timed(way: ClipVGPipeline, batch: list[LoadedScene], options: argparse.Namespace) -> tuple[dict[str, Any], float]:
    """The boxes by query, and the seconds they took."""
    if not options.reads:
        way.engine.forget_texts()
    began = time.perf_counter()
    boxes = {p.id: p.box for p in way.ground(batch)}
    return boxes, time.perf_counter() - began


if __name__ == "__main__":
    main()
