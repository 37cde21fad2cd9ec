"""Measure pipelines at full size with random weights, or on a split: rates, stages, memory, and the limit they meet.

    python -m tools.benchmarks.full_size [--pipelines clipvg,mdetr,...] [--device cuda] [--images 64] [--batch 16]
    python -m tools.benchmarks.full_size --split shapes-val --pipelines yolo-clip     # the weights of bench.toml
    python -m tools.benchmarks.full_size --plain --pipelines clipvg,transvg           # with `fast` against without

Without --split the load is noise of 640 x 480 with 7 different expressions an image, and two-stage pipelines keep 12
proposals. Images are decoded beforehand: no side decodes.

How many times faster a batch is than the same models called with one expression at a time is mostly how often an image
is shared: expect 4 to 6 times with 7 expressions an image and 1.0 to 1.3 times with one, and see both in the output.
The two ways take turns over the same images, and every cache is emptied before every call of either.

The roofline: the share of the device's own rate of matrix products in the run's precision, measured here, and the share
of what the host alone can serve (CLIP-VG's: its main thread with a network that costs nothing). The larger one is the
limit. On a CPU one thread computes, and seconds are those of the processor: neighbours do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.datasets.load import load_split
from bench.doctor.machine import matmul_rate
from bench.evaluation.answering import answers
from bench.evaluation.opening import OpenPipeline, for_device, open_pipeline
from bench.grounding import LoadedScene, Prediction, Scene
from bench.memory import device_memory_mb, peak_memory_mb, restart_peaks
from bench.settings import load_settings
from tools.benchmarks.random_weights import PARTS, Memory, loaded, noise, opened
from tools.benchmarks.shared import synchronise


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pipelines", default=",".join(PARTS))
    parser.add_argument("--split", default="", help="its images and the weights of bench.toml, in place of noise")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="only how much faster `fast` is than everything")
    parser.add_argument("--json", action="store_true", help="a line a pipeline")
    options = parser.parse_args()
    resolved = load_settings(flags={"run.device": options.device})
    host = host_ceiling() if "clipvg" in options.pipelines and not options.plain else None
    split = load_split(options.split, resolved).limited(options.images) if options.split else None
    scenes, images = noise(options.images) if split is None else (list(split.scenes), Memory({}))
    if split is not None:
        images.images |= {scene.id: split.images.load(scene) for scene in scenes}
    with tempfile.TemporaryDirectory() as folder:
        for label in options.pipelines.split(","):
            if options.plain:
                two = [opened(label, Path(folder), resolved, fast=fast) for fast in (True, False)]
                print(json.dumps({"pipeline": label} | against_plain(*two, scenes, images, options)))
                continue
            one = opened(label, Path(folder), resolved) if split is None else open_pipeline(label, split, resolved)
            if one.context.device == "cpu":
                torch.set_num_threads(1)
            numbers = throughput(one, scenes, images, options.batch, options.repeats)
            numbers |= roofline(one, loaded(scenes[: options.batch], images), numbers["expressions_per_s"], host)
            numbers |= sharing(one, scenes, images, options.batch, options.repeats)
            print(json.dumps({"pipeline": label} | numbers) if options.json else plain_lines(label, one, numbers))


def plain_lines(label: str, one: OpenPipeline, numbers: dict[str, Any]) -> str:
    """Return the numbers of a pipeline in plain lines."""
    (seven, one_each), px = (numbers["ratios"][kind] for kind in ("all", "one")), numbers["boxes_differ_px"]
    stages = ", ".join(f"{stage} {share:.0f}%" for stage, share in numbers["stages_percent"].items())
    host = numbers["host_share_percent"]
    ceiling = "" if host is None else f", {host}% of what the host can serve"
    return "\n".join(
        [
            f"{label} on {one.context.device} in {one.context.dtype}: {numbers['expressions_per_s']} expressions/s, "
            f"{numbers['images_per_s']} images/s; {stages}",
            f"  {seven:.2f} x {numbers['expressions_an_image']:g} expressions an image ({numbers['texts_an_image']:g} "
            f"different texts); {one_each:.2f} with one. No side decodes, both are cold; boxes differ by {px:.2g} px",
            f"  {numbers['gflop_an_expression']} GFLOP an expression, {numbers['matmul_share_percent']}% of the matmul "
            f"rate ({numbers['matmul_tflops']} TFLOP/s){ceiling}: the limit is the {numbers['limit']}",
        ]
    )


def timer(device: str) -> Callable[[], float]:
    """Return a clock: of a GPU once its work is done, of the processor's seconds on a CPU."""
    if device == "cpu":
        return time.process_time

    def now() -> float:
        synchronise(device)
        return time.perf_counter()

    return now


def cold(one: OpenPipeline, batch: Sequence[LoadedScene]) -> list[Prediction]:
    """Ground a batch with every cache empty."""
    for empty in one.caches.values():
        empty()
    return one.ground(batch)


def harness(one: OpenPipeline, scenes: list[Scene], images: Memory, batch: int) -> float:
    """Ground scenes as `bench run` does, caches empty at the start -> seconds."""
    now = timer(one.context.device)
    for empty in one.caches.values():
        empty()
    settings = one.resolved.settings.run.model_copy(update={"batch_size": batch})
    began = now()
    for _ in answers(one.pipeline, scenes, images, for_device(settings, one.context.device), one.clock):
        pass
    return now() - began


def throughput(one: OpenPipeline, scenes: list[Scene], images: Memory, batch: int, repeats: int) -> dict[str, Any]:
    """Measure rates through the harness, milliseconds of a batch and of an image alone, stages and memory."""
    device, batches = one.context.device, loaded(scenes, images)
    now = timer(device)
    harness(one, scenes[:batch], images, batch)  # warm-up: kernels are chosen, memory is taken
    restart_peaks(device)
    one.clock.take(wait=True)
    seconds = statistics.median(harness(one, scenes, images, batch) for _ in range(repeats))
    stages = one.clock.take(wait=True)

    def milliseconds(size: int, count: int) -> dict[str, float]:
        took = []
        cold(one, batches[:size])
        for start in range(count):
            some = [batches[(start * size + i) % len(batches)] for i in range(size)]
            began = now()
            cold(one, some)
            took.append(1000 * (now() - began))
        return {f"p{q}": round(float(np.percentile(took, q)), 2) for q in (50, 99)}

    asked = sum(len(scene.expressions) for scene in scenes)
    texts = sum(len({e.text for e in scene.expressions}) for scene in scenes)
    whole = sum(stages.values()) or 1.0
    return {
        "expressions_per_s": round(asked / seconds, 2),
        "images_per_s": round(len(scenes) / seconds, 2),
        "expressions_an_image": round(asked / len(scenes), 1),
        "texts_an_image": round(texts / len(scenes), 1),
        "batch_ms": milliseconds(min(batch, len(scenes)), 3 * repeats),
        "image_ms": milliseconds(1, min(10 * repeats, len(scenes))),
        "stages_percent": {stage: round(100 * took / whole, 1) for stage, took in stages.items()},
        "device_memory_mb": device_memory_mb(device),
        "process_memory_mb": peak_memory_mb(),
        "parameters": one.card.parameters,
    }


def sharing(one: OpenPipeline, scenes: list[Scene], images: Memory, batch: int, repeats: int) -> dict[str, Any]:
    """Measure how many times faster batches are than one expression at a time, with all expressions and with one."""
    now, ratios, worst = timer(one.context.device), {}, 0.0
    few = scenes[:batch]
    for kind, expressions in (("all", None), ("one", 1)):
        whole = loaded(few, images, expressions)
        alone = [LoadedScene(s.id, s.image, (query,)) for s in whole for query in s.queries]
        cold(one, alone[:1])
        pairs = []
        for _ in range(repeats):
            began = now()
            together = cold(one, whole)
            middle = now()
            apart = [prediction for scene in alone for prediction in cold(one, [scene])]
            pairs.append((now() - middle) / (middle - began))
            worst = max(worst, float(distances(together, apart).max()))
        ratios[kind] = round(statistics.median(pairs), 3)
    return {"ratios": ratios, "boxes_differ_px": worst}


def against_plain(
    fast: OpenPipeline, plain: OpenPipeline, scenes: list[Scene], images: Memory, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure how many times faster the exact savings are than everything for each expression, in turns."""
    if fast.context.device == "cpu":
        torch.set_num_threads(1)
    now, batch, ratios, worst = timer(fast.context.device), loaded(scenes[: options.batch], images), [], 0.0
    for one in (fast, plain):  # warm-up
        cold(one, loaded(scenes[:1], images, 1))
    for _ in range(options.repeats):
        began = now()
        quick = cold(fast, batch)
        middle = now()
        slow = cold(plain, batch)
        ratios.append((now() - middle) / (middle - began))
        worst = max(worst, float(distances(quick, slow).max()))
    expressions = len(batch[0].queries)
    return {"times_faster": round(statistics.median(ratios), 2), "boxes_differ_px": worst, "expressions": expressions}


def distances(some: Sequence[Prediction], others: Sequence[Prediction]) -> np.ndarray:
    """Return the largest difference of the edges of each pair of boxes, in pixels; infinite where one has no box."""
    pairs = [(a.box, b.box) for a, b in zip(some, others, strict=True)]
    return np.array([np.inf if a is None or b is None else np.abs(np.subtract(a, b)).max() for a, b in pairs])


def counted(call: Callable[[], object]) -> float:
    """Count the operations of a call in thousands of millions; a multiplication and its addition are two."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # what the fused kernel does is not counted
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return float(counter.get_total_flops()) / 1e9


def roofline(
    one: OpenPipeline, batch: Sequence[LoadedScene], expressions_per_s: float, host: float | None
) -> dict[str, Any]:
    """Compare a rate with the device's limit and, where known, with the host's, in expressions/s."""
    for part in vars(one.pipeline).values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)  # the counter's hooks want a graph otherwise
    work = counted(lambda: cold(one, batch)) / sum(len(scene.queries) for scene in batch)
    rate = matmul_rate(one.context.device, one.context.dtype) / 1e9
    host = host if one.context.name == "clipvg" else None
    shares = {"device": expressions_per_s * work / rate, "host": expressions_per_s / host if host else 0.0}
    return {
        "gflop_an_expression": round(work, 2),
        "matmul_tflops": round(rate / 1e3, 3),
        "matmul_share_percent": round(100 * shares["device"], 1),
        "host_ceiling": host and round(host),
        "host_share_percent": host and round(100 * shares["host"], 1),
        "limit": max(shares, key=shares.__getitem__),
    }


def host_ceiling(images: int = 192, rounds: int = 3) -> float:
    """Measure the expressions/s that the main thread can make for CLIP-VG, whose network costs nothing there."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:  # it replaces parts of the pipeline
        return other.submit(_host_rate, images, rounds).result()


def _host_rate(images: int, rounds: int) -> float:
    from bench.settings import RunSettings
    from tools.benchmarks import host_ceiling as host

    torch.set_num_threads(1)
    pipeline, scenes, settings = host.stubbed(), host.made(images), RunSettings(batch_size=64)
    host.run(pipeline, scenes[:64], settings)  # warm up
    seconds = statistics.median(host.run(pipeline, scenes, settings)[0] for _ in range(rounds))
    return images * host.EXPRESSIONS / seconds


if __name__ == "__main__":
    main()
