"""Jobs of images made in memory, and a proposer of fixed boxes."""

from dataclasses import replace

import numpy as np
import pytest

from bench.datasets.shapes import ShapesImages, make_scene
from bench.errors import ImageError
from bench.grounding import Scene
from bench.labelling import LabelJob
from bench.settings import PROJECT, load_settings
from pipelines.two_stage.proposers.proposals import Proposals


class BlankImages:
    """Grey images of one size (width, height); `bad` files cannot be read, `gone` means that none is there."""

    def __init__(self, size=(640, 480), bad=(), gone=False):
        self.size, self.bad, self.gone = size, set(bad), gone

    def load(self, scene):
        if self.gone or scene.file in self.bad:
            raise ImageError(f"{scene.file}: broken")
        return np.full((self.size[1], self.size[0], 3), 127, np.uint8)

    def missing(self, scenes):
        return [scene.file for scene in scenes] if self.gone else []


class FixedProposer:
    """Propose rows (name, box, confidence) by scene id; `calls` are the queries of each call's scenes."""

    sha256, parameters = {"fixed.pt": "0"}, 0

    def __init__(self, rows):
        self.rows, self.calls = rows, []

    def propose(self, scenes):
        self.calls.append([scene.queries for scene in scenes])
        out = []
        for scene in scenes:
            rows = self.rows.get(scene.id, [])
            boxes = np.array([box for _, box, _ in rows], float).reshape(-1, 4)
            out.append(Proposals(boxes, np.array([c for *_, c in rows], float), tuple(n for n, *_ in rows)))
        return out


@pytest.fixture
def blank_job(context):
    """blank_job(options, files=(...), seed=0, **images): a job over grey images, one scene a file."""

    def make(options=None, files=("1.jpg", "2.jpg", "3.jpg"), seed=0, **images):
        scenes = [Scene(file.partition(".")[0], file, None, None, ()) for file in files]
        options = options or {"objects": {"proposer": {"kind": "fixed"}}}
        return LabelJob(scenes, BlankImages(**images), options, "[label.x]", context(options, seed=seed))

    return make


@pytest.fixture
def propose(monkeypatch):
    """propose({"1": [("dog", (0, 0, 50, 50), 0.9)], ...}): what every proposer proposes from now on."""

    def set_rows(rows):
        proposer = FixedProposer(rows)
        monkeypatch.setattr("clipvg.pseudo_labels.detections.open_proposer", lambda *_: proposer)
        return proposer

    return set_rows


@pytest.fixture
def shapes_job(context):
    """shapes_job(source, count, seed=0): embedded data, shipped weights, bench.toml's table."""

    def make(source, count=12, seed=0, start=0):
        options = load_settings().table("label", source, "shapes")
        scenes = [replace(make_scene(2026, "val", i), expressions=()) for i in range(start, start + count)]
        place = context(options, name=source, dataset="shapes", folder=PROJECT, seed=seed)
        return LabelJob(scenes, ShapesImages(2026), options, f"bench.toml [label.{source}]", place)

    return make
