"""Made-up runs for reports: a split of forty tiny images, and three pipelines whose answers are known.

Names hold what would be markup if anything took it for markup.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edited_records import committed

from bench import registry
from bench.datasets.split import Split
from bench.errors import ImageError
from bench.evaluation.loop import evaluate
from bench.grounding import Expression, PipelineCard, Prediction, Scene
from bench.imported.scoring import import_boxes
from bench.reporting.report.gallery import AnsweredRun
from bench.reporting.report.page import write_report
from bench.reporting.report.selection import ReportRun
from bench.settings import EvaluationSettings, Resolved, RunSettings, Settings

WIDTH, HEIGHT = 96, 64
EVIL = "<img src=x onerror=window.hacked=1>"
NASTY = (
    "</script><script>window.hacked=1</script>", f"the \"quoted\" 'one' & {EVIL}", "<!--<script>", "הכלב השמאלי",
    "line\u2028and\u2029paragraph", "the \u202eturned\u202c one", "gr\u00fcner Ballon \U0001f388 ganz links",
    "{{ 7 * 7 }} ${window.hacked=1} \\u003cb\\u003e",
)  # fmt: skip
NAMES = ("sure", f"evil\"'>{EVIL}", "poor")


class Images:
    """A ImageSource that paints; `gone` files are not there."""

    def __init__(self, gone=()):
        self.gone = set(gone)

    def load(self, scene):
        if scene.file in self.gone:
            raise ImageError(f"{scene.file}: no such image; {EVIL}")
        across = np.linspace(0, 255, WIDTH, dtype=np.uint8)[None, :, None].repeat(HEIGHT, 0).repeat(3, 2).copy()
        across[..., 0] = hashlib.sha256(scene.id.encode()).digest()[0]
        return across

    def missing(self, scenes):
        return [scene.file for scene in scenes if scene.file in self.gone]


def make_split(images=40, gone=()):
    scenes = []
    for n in range(images):
        expressions = []
        for k in range(1 + n % 4):
            x, y = 3 + (7 * n + 11 * k) % 50, 2 + (5 * n + 3 * k) % 30
            text = NASTY[k + n] if k == 0 and n < len(NASTY) else f"the {('red', 'blue')[n % 2]} thing {k} of {n}"
            expressions.append(
                Expression(
                    f"{n}-{k}", text, (x, y, x + 10 + n % 30, y + 8 + k * 5), kind=("attribute", "relation")[k % 2],
                    category=EVIL if n == 1 else ("cup", "person")[n % 2], same_category=1 + k,
                )
            )  # fmt: skip
        scenes.append(
            Scene(f"s{n}", f"{EVIL}{n}.png" if n < 2 else f"folder/{n}.png", WIDTH, HEIGHT, tuple(expressions))
        )
    return Split("tiny-val", "made for tests", tuple(scenes), Images(gone))


class Knowing:
    """Answers from the truth: `sure` is right three times of four, `poor` once, and has no box now and then."""

    def __init__(self, name, truth):
        self.name, self.truth = name, truth
        self.card = PipelineCard(
            name, f"knows {EVIL}", weights={"w": "w.pt"}, sha256={"w": "ab" * 32}, parameters=1_500_000,
            supervision="unknown",
        )  # fmt: skip

    def ground(self, batch):
        return [answer for scene in batch for answer in self._scene(scene)]

    def _scene(self, scene):
        given = np.array([self.truth[q.id] for q in scene.queries] + [(0, 0, WIDTH, HEIGHT)], float)
        proposals = None if self.name == "poor" else given
        for query in scene.queries:
            digest = hashlib.sha256(f"{self.name}|{query.id}".encode()).digest()
            x1, y1, x2, y2 = self.truth[query.id]
            shift = (
                digest[1] / 100
                if digest[0] < 255 * {"sure": 0.75, "poor": 0.25}.get(self.name, 0.5)
                else 30 + digest[1] / 10
            )
            box = None if self.name == "poor" and digest[2] < 30 else (x1 + shift, y1, x2 + shift, y2)
            yield Prediction(query.id, box, 0.5, proposals)


@dataclass
class World:
    split: Split
    results: Path
    runs: list[ReportRun]
    answers: list[AnsweredRun]

    def report(self, out: Path, **more) -> dict[str, Any]:
        return write_report(self.split, self.runs, out, **more)


def resolved(results):
    run = RunSettings(device="cpu")
    return Resolved(Settings(run=run, evaluation=EvaluationSettings(draws=200), results=str(results)))


def run_all(split, results, names=NAMES):
    truth = {e.id: e.box for scene in split.scenes for e in scene.expressions}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "pipeline_factory", lambda name: lambda context: Knowing(context.name, truth))
        return [evaluate(name, split, resolved(results)).folder for name in names]


def imported(results, split, name, boxes):
    """The folder of a run of these boxes, as if made by committed code."""
    file = results / "boxes.json"
    file.write_text(json.dumps(boxes))
    _, folder = import_boxes(file, split, results, name=name)
    return committed(folder)
