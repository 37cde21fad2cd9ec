"""Measure the rows a second of CLIP-VG's training, and its wait for them: full size, random weights, one process.

    python -m tools.benchmarks.clipvg_training [--arch ViT-B-16-quickgelu] [--batch 64] [--steps 20] [--workers 8]
    python -m tools.benchmarks.clipvg_training --group image     # an image's rows together: its tower runs once a step
    python -m tools.benchmarks.clipvg_training --compare         # CPU seconds a step, in turns with a plain one
    python -m tools.benchmarks.clipvg_training --tiny            # on a CPU, in seconds

The loop is the trainer's own: the paper's recipe, its augmentation in worker processes, every step an optimiser's step.
Images have RefCOCO's sizes and its seven expressions each; their JPEGs lie in memory, and the workers decode them
(`--decoded`: nobody has to). Neither validation nor step files are part of the time.

The plain step of `--compare` computes the padding of images and texts too, and masks it: what the training did before.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

import clipvg.recipe
import clipvg.task
from bench.datasets.images import decode
from bench.evaluation.device import resolve_device
from bench.evaluation.validation import on_split
from bench.grounding import Expression, ImageArray, Scene
from bench.training.sampler import micro_batches
from bench.training.task import TrainingJob
from bench.training.trainer import Trainer, launch
from pipelines.canvas import normalise_and_mask
from pipelines.two_stage.clip.encoder import empty_model
from tools.benchmarks.shared import SIZES, make_context, synchronise

EXPRESSIONS = 7
WORDS = ("the man", "red car", "woman in a coat on the left", "second chair from the right", "dog", "cup nearest to us")
TAPS = {"ViT-L-14-quickgelu": {"taps": [0, 7, 15, 23], "hidden": 768}}
TINY = {"taps": [0, 1], "image_size": 64, "hidden": 64, "heads": 4, "feedforward": 64, "layers": 2}


class InMemory:
    """An ImageSource of JPEGs, or of images."""

    def __init__(self, scenes: list[Scene], decoded: bool) -> None:
        rng = np.random.default_rng(0)
        self.files = {scene.file: jpeg(scene, rng) for scene in scenes}
        self.images = {file: decode(data, file) for file, data in self.files.items()} if decoded else {}

    def load(self, scene: Scene) -> ImageArray:
        return self.images[scene.file] if self.images else decode(self.files[scene.file], scene.file)

    def missing(self, scenes: Any) -> list[str]:
        return []


def jpeg(scene: Scene, rng: np.random.Generator) -> bytes:
    """An image that compresses as photographs do: coarse patches with a little noise."""
    assert scene.width and scene.height
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((scene.width, scene.height))
    noisy = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (scene.height, scene.width, 3))
    out = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def made(images: int) -> list[Scene]:
    rng, texts = np.random.default_rng(1), itertools.cycle(WORDS)
    scenes = []
    for number in range(images):
        width, height = SIZES[number % len(SIZES)]
        expressions = []
        for n in range(EXPRESSIONS):
            x, y = rng.uniform(0, width - 80), rng.uniform(0, height - 80)
            box = (x, y, rng.uniform(x + 40, width), rng.uniform(y + 40, height))
            expressions.append(Expression(f"{number}-{n}", f"{next(texts)} {number % 50}", box))
        scenes.append(Scene(str(number), f"{number}.jpg", width, height, tuple(expressions)))
    return scenes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--arch", default="ViT-B-16-quickgelu", choices=["ViT-B-32-quickgelu", "ViT-B-16-quickgelu", *TAPS]
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--reference-batch", type=int, default=320)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=3, help="steps that are not measured")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--decoded", action="store_true", help="images are in memory as pixels")
    parser.add_argument("--group", choices=("row", "image"), default="row")
    parser.add_argument("--compare", action="store_true", help="steps of all kinds in turns, on one thread")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="a small network, a few steps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    network: dict[str, Any] = dict(TAPS.get(options.arch, {}))
    if options.tiny:
        options.arch, network = "tiny-clip", TINY
        options.batch, options.reference_batch, options.images = 8, 16, 16
        options.steps, options.workers = min(options.steps, 4), min(options.workers, 2)
    names = ("batch", "reference_batch", "workers", "recompute", "dtype", "group")
    changes = {name: getattr(options, name) for name in names}
    clip = {"model": options.arch, "pretrained": "random"}
    table = {"clip": clip, "network": network, "epochs": 10_000, **changes}
    clipvg.recipe.open_frozen = lambda options, _: (empty_model(options.model).eval(), "random")
    if options.compare:
        compare(table, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        training = prepared(table, options, Path(folder))
        seconds = timed(training, options.warm_up, options.steps)
    rows, gpu = options.steps * training.plan.effective, training.device.type == "cuda"
    workers, form = min(options.workers, os.cpu_count() or 1), "pixels" if options.decoded else "JPEGs"
    waiting = training.timer.waited / seconds
    if options.json:
        print(json.dumps({"rows_per_s": round(rows / seconds, 1), "waiting": round(waiting, 4), "workers": workers}))
        return
    kind = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads"
    print(f"{options.arch}, {training.config.precision(training.device.type)} on {kind}; {training.plan}")
    print(f"{workers} workers, images in RAM as {form}, {waiting:.1%} of the time waiting for them")
    print(f"{rows / seconds:,.1f} rows/s over {rows:,} rows in {seconds:.1f} s")
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trained = sum(p.numel() for p in training.trained.values())
    print(f"peak {'GPU' if gpu else 'process'} memory {peak / 2**30:.2f} GiB; {trained:,} parameters are trained")


class PaddedTask(clipvg.task.ClipVGTask):
    """Every row as long as the longest: padding is computed, and ignored."""

    def fused(self, batch: Any, only_first: bool) -> Any:
        network = self.model
        words, _ = zip(*self.texts(batch.texts), strict=True)
        pixels, masked = normalise_and_mask(batch.images, batch.edges, self.patch, self.style)
        image, owners = network.encode_image(pixels), torch.from_numpy(batch.places).to(self.device)
        text = network.text_proj(pad_sequence(list(words), batch_first=True))
        ends = torch.tensor([len(each) for each in words], device=self.device)
        padding = torch.arange(text.shape[1], device=self.device) >= ends[:, None]
        return network.fuse(image[owners], masked[owners], text, padding, only_first=True)[:, 0], None


KINDS: dict[str, tuple[type[clipvg.task.ClipVGTask], str]] = {
    "plain, any order": (PaddedTask, "row"),
    "any order": (clipvg.task.ClipVGTask, "row"),
    "plain, image by image": (PaddedTask, "image"),
    "image by image": (clipvg.task.ClipVGTask, "image"),
}


def compare(table: dict[str, Any], options: argparse.Namespace) -> None:
    """Take the steps of all kinds in turns, in this process; print ratios of CPU seconds, with and without data.

    Rows are drawn in this process too, so that the time of drawing counts.
    """
    torch.set_num_threads(1)
    seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        training = {
            kind: prepared(table | {"group": group, "workers": 0}, options, Path(folder) / kind, task)
            for kind, (task, group) in KINDS.items()
        }
        for number in range(options.warm_up + options.steps):
            for kind, each in training.items():
                began = time.process_time()
                micros = micro_batches(each.sampler, number, number + 1, each.plan.batch, 0, 1)
                batches = [(micro, each.data.draw(micro)) for micro in micros]
                drawn = time.process_time()
                each.step.step(number, batches)
                seconds[kind].append((time.process_time() - began, time.process_time() - drawn))
    print(f"{options.arch}, {training['any order'].plan}, {options.steps} steps of each kind on one thread")
    for what, part in (("with data", 0), ("the step alone", 1)):
        spent = {kind: [each[part] for each in times[options.warm_up :]] for kind, times in seconds.items()}
        plain = spent["plain, any order"]
        print(f"{what}: plain, any order {statistics.median(plain):.2f} CPU s a step")
        for one, other in itertools.combinations(KINDS, 2):
            ratios = [a / b for a, b in zip(spent[one], spent[other], strict=True)]
            middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
            print(f"  {other}: {middle:.2f} times as fast as {one} [{least:.2f}, {most:.2f}]")


def prepared(
    table: dict[str, Any],
    options: argparse.Namespace,
    folder: Path,
    kind: type[clipvg.task.ClipVGTask] = clipvg.task.ClipVGTask,
) -> Trainer:
    scenes = made(options.images)
    images = InMemory(scenes, options.decoded)
    context = make_context(folder, resolve_device(options.device))
    validate = on_split(scenes[:1], images)
    job = TrainingJob(scenes, images, scenes[:1], images, table, folder, context, validate, fingerprint="-")
    task = kind(job)
    return Trainer(task, launch(job, task.config, folder), folder)


def timed(training: Trainer, warm_up: int, steps: int) -> float:
    """Return the seconds of `steps` steps after a warm-up; the timer counts those spent waiting for rows."""
    began = 0.0
    for number, batches in training.steps_left():
        if number == warm_up:
            synchronise(training.device)
            training.timer.waited, began = 0.0, time.perf_counter()
        training.step.step(number, batches)
        if number + 1 == warm_up + steps:
            break
    synchronise(training.device)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
