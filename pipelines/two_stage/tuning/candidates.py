"""The candidate boxes of an image in training: the annotated ones, the proposer's, and the whole image.

    referred to ─► other annotated, hardest first ─► proposals of no annotated object, hardest first ─►
    proposals of an annotated object ─► at most K - 1 of them ─► the whole image

The hardest have the class of an object that is referred to, then overlap one most.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.boxes import iou_pairwise
from bench.errors import RunError
from bench.grounding import Boxes, ImageArray, ImageSource, LoadedScene, Scene
from bench.runs.files import make_folder, write_atomically
from pipelines.two_stage.proposers.objects import scene_objects
from pipelines.two_stage.proposers.proposals import Proposals, Proposer
from pipelines.two_stage.tuning.losses import POSITIVE
from pipelines.two_stage.tuning.recipe import Source

log = logging.getLogger("bench.train")
AT_ONCE = 32  # images that a proposer takes


@dataclass(frozen=True, slots=True)
class RegionSample:
    """One scene: its candidate boxes (K, 4) xyxy pixels, the whole image last, and its texts.

    `overlap` (Q, K) is each text's truth against each candidate, IoU; `objects` numbers the object of each text,
    `categories` is its class name. `described` are (candidate, description) of objects that have one.
    `features` (V, K, W) stand for the image where the towers are frozen.
    """

    image: ImageArray
    boxes: Boxes
    overlap: NDArray[np.float64]
    texts: tuple[str, ...]
    objects: tuple[int, ...]
    categories: tuple[str, ...]
    described: tuple[tuple[int, str], ...] = ()
    features: Tensor | None = None


def region_sample(
    scene: Scene, images: ImageSource, proposed: tuple[Boxes, Sequence[str]], source: Source, count: int
) -> RegionSample:
    """Return a scene with its candidates; expressions without a target are left out. Raises ImageError."""
    proposals, labels = proposed
    image = images.load(scene)
    height, width = image.shape[:2]
    expressions = [expression for expression in scene.expressions if expression.targets]
    truths = [np.array(expression.targets) for expression in expressions]
    referred = list(dict.fromkeys(target for expression in expressions for target in expression.targets))
    known = [] if source == "proposer" else scene_objects(scene)
    boxes = chosen_boxes(referred, {e.category or "" for e in expressions}, known, proposals, labels, source, count)
    boxes = np.concatenate([boxes, [[0.0, 0.0, width, height]]])
    described = {one.box: one.description for one in scene.objects if one.description}
    objects = {box: number for number, box in enumerate(referred)}
    return RegionSample(
        image,
        boxes,
        np.array([iou_pairwise(targets, boxes).max(axis=0) for targets in truths]).reshape(-1, len(boxes)),
        tuple(expression.text for expression in expressions),
        tuple(objects[expression.targets[0]] for expression in expressions),
        tuple(expression.category or "" for expression in expressions),
        tuple((n, described[box]) for n, box in enumerate(map(tuple, boxes.tolist())) if box in described),
    )


def chosen_boxes(
    referred: Sequence[Sequence[float]],
    classes: set[str],
    known: Sequence[tuple[str, Sequence[float]]],
    proposals: Boxes,
    labels: Sequence[str],
    source: Source,
    count: int,
) -> Boxes:
    """Choose at most `count` - 1 boxes, hardest first -> (K, 4); annotated ones that are referred to all stay."""
    truth = np.array(referred, np.float64).reshape(-1, 4)
    others = [(name, box) for name, box in known if tuple(box) not in set(map(tuple, referred))]
    annotated = np.array([box for _, box in others], np.float64).reshape(-1, 4)
    first = truth if source != "proposer" else truth[:0]
    groups = [annotated[_hardest(annotated, [name for name, _ in others], truth, classes)]]
    if source != "annotations":
        order = _hardest(proposals, labels, truth, classes)
        sorted_boxes = proposals[order].reshape(-1, 4)
        copies = iou_pairwise(sorted_boxes, np.concatenate([first, annotated])).max(axis=1, initial=0.0) >= POSITIVE
        groups += [sorted_boxes[~copies], sorted_boxes[copies]]
    room = max(0, count - 1 - len(first))
    return np.concatenate([first, np.concatenate(groups)[:room]])


def _hardest(boxes: Boxes, names: Sequence[str], truth: Boxes, classes: set[str]) -> NDArray[np.intp]:
    """Return the order of boxes (N, 4): of the classes first, then by their largest overlap with the truth."""
    same = np.array([name in classes for name in names], bool)
    overlap = iou_pairwise(boxes.reshape(-1, 4), truth).max(axis=1, initial=0.0)
    return np.lexsort((np.arange(len(boxes)), -overlap, ~same))


def jittered(sample: RegionSample, rng: np.random.Generator, jitter: float, paraphrase: float) -> RegionSample:
    """Move the boxes but the last, and replace some texts by others about the same object."""
    moved = sample.boxes[:-1]
    size = np.tile(moved[:, 2:] - moved[:, :2], 2)
    boxes = np.concatenate([moved + rng.uniform(-jitter, jitter, size.shape) * size, sample.boxes[-1:]])
    texts = list(sample.texts)
    for place, own in enumerate(sample.objects):
        others = [t for t, other in zip(sample.texts, sample.objects, strict=True) if other == own]
        if rng.random() < paraphrase:
            texts[place] = others[rng.integers(len(others))]
    return replace(sample, boxes=boxes, texts=tuple(texts))


class KeptProposals(Proposer):
    """A proposer whose proposals of an image are made once, and kept."""

    def __init__(self, proposer: Proposer) -> None:
        self.proposer, self.sha256, self.parameters = proposer, proposer.sha256, proposer.parameters
        self.annotated = proposer.annotated
        self._known: dict[str, Proposals] = {}

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """Return one `Proposals` for each scene."""
        new = [scene for scene in scenes if scene.id not in self._known]
        if new:
            self._known |= {s.id: p for s, p in zip(new, self.proposer.propose(new), strict=True)}
        return [self._known[scene.id] for scene in scenes]


def proposed(
    proposer: Proposer, scenes: Sequence[Scene], images: ImageSource, key: str, folder: Path | None
) -> Mapping[str, tuple[Boxes, tuple[str, ...]]]:
    """Return scene id -> boxes (N, 4) and class names that a proposer proposes, from a file in `folder` or made.

    `key` is what they depend on besides the scenes. Raises ImageError, and RunError for a file that is broken.
    """
    digest = sha256("\n".join([key, *(scene.id for scene in scenes)]).encode()).hexdigest()[:16]
    path = None if folder is None else folder / f"proposals-{digest}.npz"
    if path is not None and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                boxes, labels, counts = file["boxes"], file["labels"].tolist(), file["counts"]
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise RunError(f"{path}: not the proposals of a training ({error}); delete it") from None
    else:
        log.info("proposals of %s training images", f"{len(scenes):,}")
        made: list[Proposals] = []

        def load(scene: Scene) -> LoadedScene:
            return LoadedScene(scene.id, images.load(scene), tuple(e.query for e in scene.expressions))

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(scenes), AT_ONCE):
                made += proposer.propose(list(pool.map(load, scenes[start : start + AT_ONCE])))
        boxes = np.concatenate([one.boxes.reshape(-1, 4) for one in made])
        labels = [label for one in made for label in one.labels]
        counts = np.array([len(one) for one in made])
        if path is not None:
            file = io.BytesIO()
            np.savez(file, boxes=boxes, labels=np.array(labels, str), counts=counts)
            make_folder(path.parent)
            write_atomically(path, file.getvalue())
    ends = np.cumsum(counts).tolist()
    starts = [0, *ends[:-1]]
    return {s.id: (boxes[a:b], tuple(labels[a:b])) for s, a, b in zip(scenes, starts, ends, strict=True)}
