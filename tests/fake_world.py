"""A small world for tests of runs: scenes with tiny images made in memory, and a pipeline that answers by hashing.

As a script it is one process of a run, to be killed or started several at a time:

    python tests/fake_world.py RESULTS [--images 24] [--delay 0.02] [--batch-size 2] [--limit N] [--fresh]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from dataclasses import dataclass, field

import numpy as np

from bench import registry
from bench.clock import Clock
from bench.datasets.split import Split
from bench.errors import ImageError
from bench.evaluation.loop import evaluate
from bench.grounding import Expression, PipelineCard, PipelineContext, Prediction, Scene
from bench.runs.record import DataIdentity, Identity
from bench.settings import EvaluationSettings, Resolved, RunSettings, Settings

WIDTH, HEIGHT = 32, 24


def make_context(folder, /, **changes):
    """The context of a pipeline's factory on a CPU, offline."""
    fields = {"name": "clipvg", "dataset": "shapes", "options": {}, "folder": folder, "home": folder / "home"}
    fields |= {"device": "cpu", "dtype": "float32", "seed": 0, "offline": True, "clock": Clock(), "train_scenes": list}
    return PipelineContext(**(fields | changes))


def make_identity(pipeline="hash", data=None, **changes):
    """The identity of a run on three expressions about two images."""
    counts = {"expressions": 3, "refs": None, "images": 2, "partial": False}
    data = DataIdentity(**({"split": "tiny-val", "fingerprint": "f" * 64} | counts | (data or {})))
    fields = {"options": {}, "weights": {}, "device": "cpu", "dtype": "float32", "seed": 0, "deterministic": False}
    return Identity(pipeline=pipeline, data=data, **(fields | changes))


@dataclass
class MemoryImages:
    """An ImageSource. `bad` files cannot be read, `missing` ones are not there, `small` ones have the wrong size."""

    bad: set[str] = field(default_factory=set)
    small: set[str] = field(default_factory=set)
    gone: bool = False
    loaded: list[str] = field(default_factory=list)

    def load(self, scene):
        self.loaded.append(scene.id)
        if self.gone or scene.file in self.bad:
            raise ImageError(f"{scene.file}: broken")
        shade = hashlib.sha256(scene.id.encode()).digest()[0]
        height = HEIGHT // 2 if scene.file in self.small else HEIGHT
        return np.full((height, WIDTH, 3), shade, np.uint8)

    def missing(self, scenes):
        return [scene.file for scene in scenes] if self.gone else []


def make_split(images=24, source=None, name="tiny-val", seed=0):
    """`images` scenes of one to four expressions each; everything follows from the seed."""
    rng = random.Random(seed)
    scenes = []
    for number in range(images):
        expressions = []
        for index in range(rng.randint(1, 4)):
            x, y = rng.randint(0, 15), rng.randint(0, 11)
            box = (float(x), float(y), float(x + rng.randint(4, 16)), float(y + rng.randint(4, 12)))
            text = f"the {rng.choice(['red', 'blue'])} thing {index}"
            expressions.append(Expression(f"{number}-{index}", text, box, kind=rng.choice(["attribute", "relation"])))
        scenes.append(Scene(f"s{number}", f"{number}.png", WIDTH, HEIGHT, tuple(expressions)))
    return Split(name, "made for tests", tuple(scenes), source or MemoryImages())


class HashPipeline:
    """Answers that follow from the image, the text and the option `salt` alone; now and then none."""

    def __init__(self, context):
        self.options, self.clock = dict(context.options), context.clock
        self.batches: list[int] = []
        sha256 = {"model": self.options.get("sha256", "ab" * 32)}
        self.card = PipelineCard(
            context.name, "hashes", weights={"model": "made up"}, sha256=sha256, supervision="unknown"
        )

    def ground(self, batch):
        self.batches.append(len(batch))
        with self.clock.stage("rank"):
            time.sleep(self.options.get("delay", 0.0))
            return [answer for scene in batch for answer in self._scene(scene)]

    def _scene(self, scene):
        proposals = np.array([self._box(scene, str(n)) for n in range(5)], np.float64)
        answers = []
        for query in scene.queries:
            box = None if self._bytes(scene, query.text)[4] < 20 else self._box(scene, query.text)
            answers.append(Prediction(query.id, box, self._bytes(scene, query.text)[5] / 7, proposals))
        return answers

    def _box(self, scene, word):
        x, y, w, h = self._bytes(scene, word)[:4]
        return (x / 17, y / 23, x / 17 + 4 + w / 19, y / 23 + 4 + h / 29)

    def _bytes(self, scene, word):
        content = f"{scene.image.mean():.3f}|{word}|{self.options.get('salt', 0)}"
        return hashlib.sha256(content.encode()).digest()


def make_settings(results, options=None, draws=200, **run):
    """Settings with a table for the pipeline `hash`."""
    return Resolved(
        Settings(
            run=RunSettings(**{"device": "cpu", **run}), evaluation=EvaluationSettings(draws=draws),
            pipelines={"hash": options or {}}, results=str(results),
        )
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("results")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rank-timeout", type=float, default=30)
    parser.add_argument("--fresh", action="store_true")
    args = parser.parse_args()
    registry.pipeline_factory = lambda name: HashPipeline
    split = make_split(args.images)
    if args.limit:
        split = split.limited(args.limit)
    resolved = make_settings(
        args.results, {"delay": args.delay}, batch_size=args.batch_size, rank_timeout_s=args.rank_timeout
    )
    evaluate("hash", split, resolved, fresh=args.fresh)


if __name__ == "__main__":
    main()
