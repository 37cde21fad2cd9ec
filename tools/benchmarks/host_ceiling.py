"""Measure how many expressions per second the host alone can serve to clipvg, whose network costs nothing here.

    python -m tools.benchmarks.host_ceiling [--images 480] [--batch 64] [--rounds 5] [--parts]

Everything but the network is real: the harness with its decode threads, letterbox, tokenizer, batches, predictions and
their stored lines. The images are 640 x 480 and decoded already; each has 7 expressions, none of which comes twice in a
round. No GPU can be served faster than the main thread works. The tensors are narrow and are not normalised, for
computing and moving them is a device's work; on a CPU what is left of it is counted as the host's.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import clipvg.pipeline
from bench.evaluation import answering
from bench.grounding import Expression, ImageArray, Scene
from bench.runs import predictions
from bench.settings import RunSettings
from clipvg.network import ClipVGConfig
from clipvg.pipeline import ClipVGOptions, ClipVGPipeline
from pipelines import on_canvas
from pipelines.deconfounder import NoDeconfounder
from tools.benchmarks.shared import make_context

WIDTH, HEIGHT, EXPRESSIONS = 640, 480, 7
COLOURS = ("red", "blue", "black", "white", "green", "yellow", "brown")
THINGS = ("man", "woman in a coat", "dog", "chair", "car behind the bus", "cup", "pizza slice", "horse")
PLACES = ("", " on the left", " at the right side", " in the middle", " nearest to us", " next to the tall one")
RANKS = ("first", "second", "third", "fourth", "fifth", "sixth", "last", "only", "big", "small")


class Stub:
    """Return tensors of a ClipVG's shapes at no cost, narrower."""

    config, side, context, deconfounder = ClipVGConfig(hidden=8), 14, 77, NoDeconfounder()

    def encode_image(self, pixels: Tensor) -> Tensor:
        return torch.zeros(1).expand(len(pixels), 1 + self.side**2, self.config.hidden)

    def encode_text(self, ids: Tensor) -> Tensor:
        return torch.zeros(1).expand(*ids.shape, self.config.hidden)

    def fuse_tokens(self, tokens: Tensor, *_: Any, **__: Any) -> Tensor:
        return tokens

    def box(self, register: Tensor) -> Tensor:
        return torch.full((1, 4), 0.5).expand(len(register), 4)

    def parameters(self) -> Iterator[Tensor]:
        return iter(())


class Decoded:
    """An image source that has its one image decoded."""

    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)

    def load(self, scene: Scene) -> ImageArray:
        return self.image

    def missing(self, scenes: Any) -> list[str]:
        return []


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--batch", type=int, default=64, help="scenes in a batch")
    parser.add_argument("--threads", type=int, default=4, help="decode threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--parts", action="store_true", help="also what each part takes; timing them takes some time too"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = stubbed()
    scenes = made(options.images)
    # The order of work is a GPU's: a batch is started before the last one is read. No GPU is used.
    settings = RunSettings(device="cuda", batch_size=options.batch, decode_threads=options.threads)
    run(pipeline, scenes[: options.batch], settings)  # warm up
    rounds = [run(pipeline, scenes, settings) for _ in range(options.rounds)]
    total = options.images * EXPRESSIONS
    for name, seconds in zip(("main thread", "all threads"), zip(*rounds, strict=True), strict=True):
        middle = statistics.median(seconds)
        spread = f"[{min(seconds) / total * 1e6:.1f}, {max(seconds) / total * 1e6:.1f}]"
        print(f"{name}: {total / middle:,.0f} expressions/s, {middle / total * 1e6:.1f} us an expression {spread}")
    if options.parts:
        parts = timed_parts(pipeline)
        run(pipeline, scenes, settings)
        for (thread, name), seconds in parts.most_common():
            print(f"  {seconds / total * 1e6:8.1f} us  {name}, {thread}")


def stubbed() -> ClipVGPipeline:
    """Make a pipeline whose network and normalisation cost nothing."""
    clipvg.pipeline.covered = lambda edges, size: torch.zeros(1, dtype=torch.bool).expand(len(edges), size, size)
    clipvg.pipeline.normalised = lambda raw, *_: torch.zeros(1).expand(len(raw), 3, *raw.shape[1:3])
    sizes = ClipVGOptions(images=64, texts=512)  # those of a GPU
    return ClipVGPipeline(sizes, make_context(Path(), "cpu"), (Stub(), "official", None))  # type: ignore[arg-type]


def made(images: int) -> list[Scene]:
    """Make scenes whose texts are all different. Raises StopIteration for more than 480."""
    texts = (f"the {r} {c} {t}{p}" for p, t, r, c in itertools.product(PLACES, THINGS, RANKS, COLOURS))
    box = (10.0, 10.0, 100.0, 100.0)
    return [
        Scene(f"{n}", "", WIDTH, HEIGHT, tuple(Expression(f"{n}:{i}", next(texts), box) for i in range(EXPRESSIONS)))
        for n in range(images)
    ]


def run(pipeline: ClipVGPipeline, scenes: list[Scene], settings: RunSettings) -> tuple[float, float]:
    """Ground all scenes as `bench run` does -> CPU seconds of the main thread and of all threads."""
    for empty in pipeline.caches.values():
        empty()
    main, every = time.thread_time(), time.process_time()
    for _, rows, _ in answering.answers(pipeline, scenes, Decoded(), settings, pipeline.clock):
        for row in rows:
            predictions.dump_line(row)
    return time.thread_time() - main, time.process_time() - every


def timed_parts(pipeline: ClipVGPipeline) -> Counter[tuple[str, str]]:
    """Time functions from now on -> CPU seconds by thread and part, without those of the parts within it."""
    seconds: Counter[tuple[str, str]] = Counter()
    inner = threading.local()

    def timed(owner: Any, name: str, part: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            outside, inner.seconds, began = getattr(inner, "seconds", 0.0), 0.0, time.thread_time()
            try:
                return function(*args, **options)
            finally:
                spent = time.thread_time() - began
                thread = "main thread" if threading.current_thread() is threading.main_thread() else "other threads"
                seconds[thread, part] += spent - inner.seconds
                inner.seconds = outside + spent

        setattr(owner, name, call)

    engine = pipeline.engine
    timed(on_canvas, "letterboxed", "letterbox")
    timed(clipvg.pipeline, "token_ids", "tokenizer")
    timed(engine, "_encode_images", "image tensors")
    timed(engine, "encode_texts", "text tensors and cache")
    timed(engine, "fuse", "packing pairs")
    timed(clipvg.pipeline, "cut_note", "notes")
    timed(pipeline, "launch", "the rest of starting a batch")
    timed(on_canvas, "to_images", "boxes into images")
    timed(answering, "from_predictions", "stored form")
    timed(answering, "checked", "checking predictions")
    timed(predictions, "dump_line", "stored lines")
    return seconds


if __name__ == "__main__":
    main()
