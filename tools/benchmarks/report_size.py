"""Measure how large reports are and how quick: of big made-up runs, opened in headless Chromium.

    python -m tools.benchmarks.report_size [--images 1500] [--expressions 10834] [--pipelines 6] [--side 640]
    python -m tools.benchmarks.report_size --images 300 --expressions 2000      # what has to stay under 25 MB

Images are photographs as far as JPEG can tell: smooth shapes with noise on them. Nothing is fetched or kept.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from report_world import resolved

from bench import registry
from bench.datasets.split import Split
from bench.evaluation.loop import evaluate
from bench.grounding import Expression, PipelineCard, Prediction, Scene
from bench.reporting.report.page import write_report
from bench.reporting.report.selection import choose

WORDS = [
    "the",
    "a",
    "red",
    "blue",
    "small",
    "large",
    "man",
    "dog",
    "chair",
    "on",
    "left",
    "of",
    "near",
    "table",
    "second",
]
TIMES = 15


class Photographs:
    """A ImageSource: coarse noise made smooth, fine noise over it; sixteen of them, each rolled by its number."""

    def __init__(self, side: int) -> None:
        rng = np.random.default_rng(0)
        size = (side, side * 3 // 4)
        self.made = []
        for _ in range(16):
            coarse = Image.fromarray(rng.integers(0, 256, (18, 24, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
            fine = rng.normal(0, 9, (size[1], size[0], 1))
            self.made.append(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8))

    def load(self, scene: Scene) -> np.ndarray:
        number = int(scene.id)
        return np.roll(self.made[number % 16], 5 * number, axis=1)

    def missing(self, scenes: object) -> list[str]:
        return []


def make_split(images: int, expressions: int, side: int) -> Split:
    rng = np.random.default_rng(0)
    scenes, done = [], 0
    for n in range(images):
        own = []
        for _ in range((n + 1) * expressions // images - done):
            x, y = rng.uniform(0, side / 2, 2)
            w, h = rng.uniform(20, side / 3, 2)
            text = " ".join(rng.choice(WORDS, rng.integers(2, 12)))
            kind, category = (
                ("attribute", "location", "relation")[done % 3],
                ("person", "dog", "chair", "car")[done % 4],
            )
            own.append(
                Expression(str(done), text, (x, y, x + w, y + h), kind=kind, category=category, same_category=done % 5)
            )
            done += 1
        scenes.append(Scene(str(n), f"COCO_train2014_{n:012d}.jpg", side, side * 3 // 4, tuple(own)))
    return Split("big-val", "made for measuring", tuple(scenes), Photographs(side))


class Answering:
    """Right more or less often, with eight proposals an image that all pipelines of one detector share."""

    def __init__(self, name: str, truth: dict[str, tuple[float, ...]]) -> None:
        self.rng = np.random.default_rng(sum(map(ord, name)))
        self.right, self.truth = int(name[-1]) / 9, truth
        self.card = PipelineCard(name, "made up", sha256={"w": "ab" * 32}, supervision="unknown")

    def ground(self, batch: object) -> list[Prediction]:
        out = []
        for scene in batch:
            proposals = np.random.default_rng(int(scene.id)).uniform(0, 400, (8, 4))
            for query in scene.queries:
                shift = self.rng.normal(0, 3 if self.rng.random() < self.right else 80, 4)
                out.append(Prediction(query.id, tuple(np.array(self.truth[query.id]) + shift), 0.5, proposals))
        return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--expressions", type=int, default=10_834)
    parser.add_argument("--pipelines", type=int, default=6)
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    options = parser.parse_args()
    split = make_split(options.images, options.expressions, options.side)
    truth = {e.id: e.box for scene in split.scenes for e in scene.expressions}
    registry.pipeline_factory = lambda name: lambda context: Answering(context.name, truth)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        names = [f"pipeline-{9 - n}" for n in range(options.pipelines)]
        folders = [str(evaluate(name, split, resolved(results)).folder) for name in names]
        begun = time.perf_counter()
        answered, runs = choose(folders, split, results)
        made = write_report(answered, runs, Path(folder) / "report.html")
        seconds = time.perf_counter() - begun
        print(f"{made['expressions']:,} expressions, {made['images']:,} images, {made['runs']} pipelines")
        print(f"made in {seconds:.1f} s; {made['bytes'] / 1e6:.1f} MB, images of {made['thumbnail']} pixels")
        look(made["path"], options.browser)


def look(path: Path, browser: str) -> None:
    """Paints and filters in Chromium: medians and the worst of TIMES, from the choice to the next frame."""
    from playwright.sync_api import sync_playwright

    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=flags)
        paints, ready = [], []
        for _ in range(3):
            page = opened.new_context(viewport={"width": 1360, "height": 900}).new_page()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]", state="attached")
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            ready.append(page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))
        print(f"first paint {statistics.median(paints):.0f} ms (worst {max(paints):.0f}), ready {max(ready):.0f} ms")
        page.evaluate("document.getElementById('gallery').scrollIntoView()")
        for what, act in ACTS.items():
            taken = [page.evaluate(FRAME, [act, n]) for n in range(TIMES)]
            print(f"{what:>22}: {statistics.median(taken):5.0f} ms (worst {max(taken):.0f})")
        pure = page.evaluate("performance.getEntriesByName('bench-filter').map((e) => e.duration)")
        print(f"of which the filter itself: {statistics.median(pure):.1f} ms (worst {max(pure):.1f})")
        opened.close()


ACTS = {
    "show": ["[name=show]", ["a-right", "all", "b-right", "all-wrong", "differ"]],
    "sort": ["[name=sort]", ["a-over-b", "b-over-a", "a-low", "id"]],
    "kind": ['[data-cut="kind"]', ["relation", "attribute", ""]],
    "search, letter by letter": ["[name=q]", ["r", "re", "red", "red d", "red dog", ""]],
}
FRAME = """([[selector, values], n]) => new Promise((done) => {
  const field = document.querySelector(selector);
  const begun = performance.now();
  field.value = values[n % values.length];
  field.dispatchEvent(new Event(field.tagName === "INPUT" ? "input" : "change", { bubbles: true }));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)));
})"""


if __name__ == "__main__":
    main()
