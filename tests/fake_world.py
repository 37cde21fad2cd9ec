"""A little world for tests of runs: scenes with tiny images made in memory, and a pipeline that answers by hashing.

As a script it is one process of a run, to be killed or started several at a time:

    python tests/fake_world.py RESULTS [--images 24] [--delay 0.02] [--batch-size 2] [--limit N] [--fresh]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench import registry
from bench.clock import Clock
from bench.datasets.split import Split
from bench.errors import ImageError
from bench.evaluation.loop import evaluate
from bench.grounding import Expression, ImageArray, LoadedScene, PipelineCard, PipelineContext, Prediction, Scene
from bench.settings import EvaluationSettings, Resolved, RunSettings, Settings

WIDTH, HEIGHT = 32, 24


def make_context(folder, /, **changes):
    """What a pipeline's factory is given on a CPU, offline."""
    fields = {
        "name": "clipvg",
        "dataset": "shapes",
        "options": {},
        "folder": folder,
        "home": folder / "home",
        "device": "cpu",
        "dtype": "float32",
        "seed": 0,
        "offline": True,
        "clock": Clock(),
        "train_scenes": list,
    }
    return PipelineContext(**(fields | changes))


@dataclass
class MemoryImages:
    """A ImageSource. `bad` files cannot be read, `missing` ones are not there, `small` ones have the wrong size."""

    bad: set[str] = field(default_factory=set)
    small: set[str] = field(default_factory=set)
    gone: bool = False
    loaded: list[str] = field(default_factory=list)

    def load(self, scene: Scene) -> ImageArray:
        self.loaded.append(scene.id)
        if self.gone or scene.file in self.bad:
            raise ImageError(f"{scene.file}: broken")
        shade = hashlib.sha256(scene.id.encode()).digest()[0]
        height = HEIGHT // 2 if scene.file in self.small else HEIGHT
        return np.full((height, WIDTH, 3), shade, np.uint8)

    def missing(self, scenes: Sequence[Scene]) -> list[str]:
        return [scene.file for scene in scenes] if self.gone else []


def make_split(images: int = 24, source: MemoryImages | None = None, name: str = "tiny-val", seed: int = 0) -> Split:
    """`images` scenes of one to four expressions each; everything follows from the seed."""
    dice = random.Random(seed)
    scenes = []
    for number in range(images):
        expressions = []
        for index in range(dice.randint(1, 4)):
            x, y = dice.randint(0, 15), dice.randint(0, 11)
            box = (float(x), float(y), float(x + dice.randint(4, 16)), float(y + dice.randint(4, 12)))
            text = f"the {dice.choice(['red', 'blue'])} thing {index}"
            expressions.append(Expression(f"{number}-{index}", text, box, kind=dice.choice(["attribute", "relation"])))
        scenes.append(Scene(f"s{number}", f"{number}.png", WIDTH, HEIGHT, tuple(expressions)))
    return Split(name, "made for tests", tuple(scenes), source or MemoryImages())


class HashPipeline:
    """Answers that follow from the image, the text and the option `salt` alone; now and then none."""

    def __init__(self, context: PipelineContext) -> None:
        self.options, self.clock = dict(context.options), context.clock
        self.batches: list[int] = []
        sha256 = {"model": self.options.get("sha256", "ab" * 32)}
        self.card = PipelineCard(
            context.name, "hashes", weights={"model": "made up"}, sha256=sha256, supervision="unknown"
        )

    def ground(self, batch: Sequence[LoadedScene]) -> list[Prediction]:
        self.batches.append(len(batch))
        with self.clock.stage("rank"):
            time.sleep(self.options.get("delay", 0.0))
            return [answer for scene in batch for answer in self._scene(scene)]

    def _scene(self, scene: LoadedScene) -> list[Prediction]:
        proposals = np.array([self._box(scene, str(n)) for n in range(5)], np.float64)
        answers = []
        for query in scene.queries:
            box = None if self._bytes(scene, query.text)[4] < 20 else self._box(scene, query.text)
            answers.append(Prediction(query.id, box, self._bytes(scene, query.text)[5] / 7, proposals))
        return answers

    def _box(self, scene: LoadedScene, word: str) -> tuple[float, float, float, float]:
        x, y, w, h = self._bytes(scene, word)[:4]
        return (x / 17, y / 23, x / 17 + 4 + w / 19, y / 23 + 4 + h / 29)

    def _bytes(self, scene: LoadedScene, word: str) -> bytes:
        seen = f"{scene.image.mean():.3f}|{word}|{self.options.get('salt', 0)}"
        return hashlib.sha256(seen.encode()).digest()


def make_settings(results: Any, options: dict[str, Any] | None = None, draws: int = 200, **run: Any) -> Resolved:
    """Settings with a table for the pipeline `hash`."""
    return Resolved(
        Settings(
            run=RunSettings(**{"device": "cpu", **run}),
            evaluation=EvaluationSettings(draws=draws),
            pipelines={"hash": options or {}},
            results=str(results),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("results")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rank-timeout", type=float, default=30)
    parser.add_argument("--fresh", action="store_true")
    said = parser.parse_args()
    registry.pipeline_factory = lambda name: HashPipeline
    split = make_split(said.images)
    if said.limit:
        split = split.limited(said.limit)
    resolved = make_settings(
        said.results, {"delay": said.delay}, batch_size=said.batch_size, rank_timeout_s=said.rank_timeout
    )
    evaluate("hash", split, resolved, fresh=said.fresh)


if __name__ == "__main__":
    main()
