"""Measure every network at full size on a GPU, with random weights: one command, no network, under ten minutes.

    python -m tools.benchmarks.gpu_suite [--minutes 10] [--parts tests,clipvg,...] [--out results/gpu]
    python -m tools.benchmarks.gpu_suite --small --out build/gpu     # on any machine: the embedded weights, few images

Parts run one after the other, each in a process of its own with a share of the time: one that fails or takes too long
loses what it had not measured yet. After every part suite.json and TABLE.md lie in OUT/<card>:

    tests      the tests marked `gpu`
    NAME       a network of random_weights.PARTS: boxes on the GPU against the CPU's, waits in a launched batch, rates,
               ms, memory, the share of the measured matmul rate; the same compiled; CLIP-VG also `fast = false`
    training   rows a second of CLIP-VG B/16 and the wait for data, in the paper's order and by image
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.evaluation.answering import Launching
from bench.evaluation.decoding import Preparing
from bench.evaluation.device import resolve_device
from bench.evaluation.opening import OpenPipeline
from bench.grounding import LoadedScene, Prediction
from bench.runs.provenance import environment
from bench.settings import load_settings
from tools.benchmarks.full_size import distances, roofline, throughput
from tools.benchmarks.random_weights import PARTS, loaded, noise, opened

ORDER = ("tests", "clipvg", "mdetr", "training", *(name for name in PARTS if name not in ("clipvg", "mdetr")))
LONGEST = 0.2  # of the whole time, for one part


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default=",".join(ORDER))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true", help="the embedded weights, few images: a look at the tool")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.parts.split(",")) - set(ORDER)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(ORDER)}")
    options.device = resolve_device(options.device)
    if options.part:
        for numbers in measured(options.part, options.device, options.small):
            print(json.dumps(numbers), flush=True)
    else:
        suite(options)


def suite(options: argparse.Namespace) -> None:
    """Run the parts within the minutes, and write both files after each."""
    until = time.monotonic() + 60 * options.minutes
    facts = environment(options.device, 0, False)
    card = facts.get("gpu", {}).get("name") or facts["cpu"]
    folder = options.out / "".join(c if c.isalnum() else "-" for c in card.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"card": card, "small": options.small, "environment": facts, "parts": {}}
    for part in options.parts.split(","):
        left = min(until - time.monotonic(), 60 * options.minutes * LONGEST)
        record["parts"][part] = run_part(part, options, left) if left > 1 else {"failed": "not run: no time was left"}
        (folder / "suite.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (folder / "TABLE.md").write_text(table(record), encoding="utf-8")
    print(table(record))


def run_part(part: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Run a part in a process of its own -> all it measured, with `failed` where it was cut off."""
    began, numbers = time.monotonic(), dict[str, Any]()
    small = ["--small"] if options.small else []
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--part", part]
    with tempfile.TemporaryFile("w+") as out:
        try:
            done = subprocess.run([*command, "--device", options.device, *small], stdout=out, timeout=seconds)
            failed = f"the process ended with {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            failed = f"stopped after {seconds:.0f} s"
        out.seek(0)
        for line in out:
            if line.startswith("{"):
                numbers |= json.loads(line)
    return numbers | {"seconds": round(time.monotonic() - began, 1)} | ({"failed": failed} if failed else {})


def measured(part: str, device: str, small: bool) -> Iterator[dict[str, Any]]:
    """Measure a part; its numbers come as they are known."""
    if part == "tests":
        yield gpu_tests()
    elif part == "training":
        for group in ("row", "image"):
            yield {f"by_{group}": training(group, device, small)}
    else:
        yield from network(part, device, small)


def network(label: str, device: str, small: bool) -> Iterator[dict[str, Any]]:
    """Measure a network; rates last, for they take longest."""
    images, batch, repeats = (8, 4, 1) if small else (256, 64, 3)
    scenes, memory = noise(images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def pipeline(device: str, dtype: str = "auto", compile: bool = False, **options: object) -> OpenPipeline:
            flags = {"run.device": device, "run.dtype": dtype, "run.compile": compile}
            return opened(label, folder, load_settings(flags=flags), small, **options)

        # 1. Boxes: the CPU's in float32 are right.
        few = loaded(scenes[:2], memory)
        right = pipeline("cpu", "float32").ground(few)
        yield {"boxes": {dtype: apart(right, pipeline(device, dtype).ground(few)) for dtype in ("float32", "bfloat16")}}
        # 2. The plain path, which computes everything for each expression.
        if label.startswith("clipvg"):
            yield {"plain": throughput(pipeline(device, fast=False), scenes[: images // 4], memory, batch, 1)}
        # 3. The pipeline as `bench run` has it.
        one = pipeline(device)
        some = loaded(scenes[:batch], memory)
        yield {"waits": waits(one, some)}
        numbers = throughput(one, scenes, memory, batch, repeats)
        yield {"dtype": one.context.dtype} | numbers | roofline(one, some, numbers["expressions_per_s"], None)
        # 4. Compiled: the longest wait, so the last.
        if small:
            return
        compiled = throughput(pipeline(device, compile=True), scenes, memory, batch, 1)
        yield {"compiled": compiled | {"boxes": apart(right, pipeline(device, "float32", compile=True).ground(few))}}


def apart(right: list[Prediction], others: list[Prediction]) -> dict[str, float]:
    """Compare boxes in pixels: the median and largest difference, and the share more than a pixel apart."""
    differ = distances(right, others)
    return {
        "median_px": float(np.median(differ)),
        "max_px": float(differ.max()),
        "beyond_1px_percent": round(100 * float((differ > 1).mean()), 1),
    }


def waits(one: OpenPipeline, batch: list[LoadedScene]) -> str:
    """Say whether launching a batch waits for the GPU: "none", the first wait, or why it cannot be checked."""
    pipeline = one.pipeline
    if not isinstance(pipeline, Launching):
        return "not checked: it launches nothing"
    if not one.context.device.startswith("cuda"):
        return "not checked: no GPU"
    if isinstance(pipeline, Preparing):
        batch = [LoadedScene(s.id, s.image, s.queries, pipeline.prepare(s.image)) for s in batch]
    one.ground(batch)  # the first call chooses kernels
    for empty in one.caches.values():
        empty()
    torch.cuda.set_sync_debug_mode("error")
    try:
        finish = pipeline.launch(batch)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    finish()
    return "none"


def gpu_tests() -> dict[str, Any]:
    """Run the tests marked `gpu` -> pytest's last line, and the tests that failed."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return {"tests": lines[-1] if lines else "nothing ran", "failures": [x for x in lines if x.startswith("FAILED")]}


def training(group: str, device: str, small: bool) -> dict[str, Any]:
    """Measure CLIP-VG's training by the tool that times it."""
    size = ["--tiny"] if small else ["--batch", "64", "--reference-batch", "64", "--images", "256", "--workers", "16"]
    command = [sys.executable, "-m", "tools.benchmarks.clipvg_training", "--group", group, "--device", device, *size]
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {"failed": f"ended with {done.returncode}"}


COLUMNS = ("network", "ex/s", "images/s", "ms a batch", "ms an image", "GB", "% of matmul", "compiled", "plain")
BOXES = ("float32 px", "16 bit px", "> 1 px", "waits", "")


def table(record: Mapping[str, Any]) -> str:
    """Write the parts as Markdown; p50 / p99 of milliseconds, ratios of rates, boxes against the CPU's in float32."""
    parts = {name: part for name, part in record["parts"].items() if name in PARTS}
    gpu, lines = record["environment"].get("gpu") or {}, [f"# {record['card']}", ""]
    versions = record["environment"]["packages"]
    sized = "embedded weights, few images" if record["small"] else "random weights, full size, 7 expressions an image"
    driver = f", CUDA {gpu['cuda']}, driver {gpu['driver']}" if gpu else ""
    lines += [f"{sized}; torch {versions.get('torch')}{driver}", ""]
    lines += [_row(COLUMNS + BOXES), _row(["---"] * len(COLUMNS + BOXES))]
    lines += [_row([name, *_cells(part)]) for name, part in parts.items()]
    rows = record["parts"].get("training", {})
    for group in ("row", "image"):
        if "rows_per_s" in (trained := rows.get(f"by_{group}", {})):
            lines += [
                "",
                f"training by {group}: {trained['rows_per_s']} rows/s, {trained['waiting']:.1%} waiting for data",
            ]
    for name in ("tests", "training"):
        part = record["parts"].get(name, {})
        lines += ["", f"{name}: {part.get('failed') or part.get('tests') or 'measured'}"] if part else []
    return "\n".join(lines) + "\n"


def _row(cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _cells(part: Mapping[str, Any]) -> list[str]:
    """Return the cells of a network; a dash where it was not measured."""

    def number(*keys: str) -> str:
        value: Any = part
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return "–" if value is None else f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:.0f}"

    def times(other: str, over: bool) -> str:
        mine, its = part.get("expressions_per_s"), part.get(other, {}).get("expressions_per_s")
        return f"{mine / its if over else its / mine:.2f}x" if mine and its else "–"

    batch, image = (f"{number(key, 'p50')} / {number(key, 'p99')}" for key in ("batch_ms", "image_ms"))
    memory = part.get("device_memory_mb")
    boxes = [number("boxes", "float32", "max_px"), number("boxes", "bfloat16", "max_px")]
    return [
        *(number("expressions_per_s"), number("images_per_s"), batch, image),
        *("–" if memory is None else f"{memory / 1024:.1f}", number("matmul_share_percent")),
        *(times("compiled", over=False), times("plain", over=True), *boxes),
        *(number("boxes", "bfloat16", "beyond_1px_percent"), part.get("waits", "–"), part.get("failed", "")),
    ]


if __name__ == "__main__":
    main()
