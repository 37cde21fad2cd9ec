"""The relation source: "man on horse" with the man's box (CLIP-VG's second source, by RelTR; spec clipvg.md 3.3).

    a scene graph's file ──────────────────────────────► triplets ─► the ten surest of an image ─► phrases
    detections ─► pairs ─► geometry, and CLIP that looks ──┘

A file of finished phrases is taken as it is. Of detections, a predicate's score stands beside the confidences of both
things as RelTR's three do: all three must be above `min_score`, and their product ranks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import Field

from bench.datasets.fingerprint import image_key
from bench.grounding import Box, Scene
from bench.labelling import LabelJob, PseudoLabel
from bench.settings import Table, parse_table, takes
from clipvg.pseudo_labels.detections import DetectionOptions, Looked, boxes_of, looked_at
from clipvg.pseudo_labels.given_files import find_file, inside_image, known_scenes
from clipvg.pseudo_labels.predicates import Predicate, SeenPredicates, Shown, among, close_pairs, meanings
from clipvg.pseudo_labels.pseudo_q_files import Detection
from clipvg.pseudo_labels.scene_graph_files import Triplet, chosen, read_phrases, read_triplets
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions

BATCH = 16  # images whose pairs are looked at in one call
# Of Visual Genome's fifty predicates those that say something and are no geometry.
SEEN = (
    "riding", "wearing", "holding", "carrying", "using", "eating", "looking at", "sitting on", "standing on",
    "lying on", "walking on", "parked on", "hanging from", "attached to", "covering", "on", "in", "with", "under",
    "behind", "in front of", "next to",
)  # fmt: skip


class RelationOptions(Table):
    """[label.relation]."""

    graph: str = Field("", description="a scene graph's file; {dataset} stands for the data set; empty = detections")
    objects: DetectionOptions = DetectionOptions()
    geometry: tuple[str, ...] = Field(("left of", "right of", "above", "below"), description="told by geometry")
    looked: tuple[str, ...] = Field(SEEN, description="told by CLIP on the crop of both")
    clip: ClipOptions = ClipOptions()
    prompt: str = Field("a photo of a {}", pattern=r"\{\}", description="of what CLIP is asked")
    pairs: int = Field(20, ge=1, description="that CLIP looks at in one image: the surest of those close together")
    attributes: bool = Field(False, description="say a thing's attribute with its name, where it is known")
    min_score: float = Field(0.2, ge=0, le=1, description="of subject, predicate and object each")
    top: int = Field(10, ge=1, description="phrases of an image")
    unique: bool = Field(False, description="leave out words that fit another thing of the image as well")
    phrase: str = Field("{subject} {predicate} {object}", pattern=r"\{subject\}")


@takes(RelationOptions)
def relation(job: LabelJob) -> Iterator[PseudoLabel]:
    """Labels by relation. Raises SettingsError, UnknownName, WeightsError, MissingPackage, DataError."""
    options = parse_table(RelationOptions, job.options, job.where)
    if options.graph:
        path = find_file(options.graph, job.context, f"{job.where}: graph")
        return _from_phrases(job, path) if path.suffix == ".pth" else _from_graph(job, options, path)
    predicates = meanings(options.geometry)
    looked = looked_at(job, options.objects, f"{job.where}.objects")
    seen = None
    if options.looked:
        seen = SeenPredicates(options.looked, options.prompt, ClipEncoder(options.clip, job.context))
    return _from_detections(looked, options, predicates, seen, job.context.seed)


def _from_graph(job: LabelJob, options: RelationOptions, path: Path) -> Iterator[PseudoLabel]:
    graphs = read_triplets(path)
    for scene in known_scenes(job, str(path), graphs):
        graph = graphs[image_key(scene.file)]
        places = {id(triplet): where for where, triplet in graph}
        for triplet in chosen([t for _, t in graph], options.min_score, options.top, options.unique):
            box = inside_image(job, scene, triplet.subject_box, places[id(triplet)])
            if box is not None:
                yield _label(scene, triplet, box, options, path.name)


def _from_phrases(job: LabelJob, path: Path) -> Iterator[PseudoLabel]:
    """Every row of a finished list; what it was made of, it does not say."""
    finished = read_phrases(path, job.context.dataset)
    for scene in known_scenes(job, str(path), finished):
        for expression in finished[image_key(scene.file)]:
            box = inside_image(job, scene, expression.box, f"{path}: row {expression.id}")
            if box is not None:
                said = {"source": "relation", "detector": path.name, "score": 1.0, "entities": 2}
                yield PseudoLabel(scene, expression.text, box, said)


def _from_detections(
    looked: Iterator[Looked],
    options: RelationOptions,
    predicates: Mapping[Predicate, Sequence[str]],
    seen: SeenPredicates | None,
    seed: int,
) -> Iterator[PseudoLabel]:
    while batch := list(islice(looked, BATCH)):
        graphs = [_by_geometry(scene, options, predicates, seed) for scene in batch]
        if seen is not None:
            for graph, more in zip(graphs, _by_looking(batch, options, seen), strict=True):
                graph += more
        for image, graph in zip(batch, graphs, strict=True):
            for triplet in chosen(graph, options.min_score, options.top, options.unique):
                yield _label(image.scene, triplet, triplet.subject_box, options, image.detector)


def _by_geometry(
    looked: Looked, options: RelationOptions, predicates: Mapping[Predicate, Sequence[str]], seed: int
) -> list[Triplet]:
    """Every pair that a predicate holds of; where it has several wordings, chance says which."""
    dice = random.Random(f"relation/{seed}/{image_key(looked.scene.file)}")
    things, boxes = looked.detections, boxes_of(looked.detections)
    out = []
    for predicate, wordings in predicates.items():
        scores = among(predicate, boxes)
        for i, j in np.argwhere(scores > options.min_score).tolist():
            said = dice.choice(wordings)
            out.append(_triplet(things[i], said, things[j], float(scores[i, j]), "geometry", options))
    return out


def _by_looking(batch: Sequence[Looked], options: RelationOptions, seen: SeenPredicates) -> list[list[Triplet]]:
    """Of each close pair the predicates that CLIP is sure of."""
    shown = []
    for looked in batch:
        boxes = boxes_of(looked.detections)
        pairs = close_pairs(boxes, [d.confidence for d in looked.detections], options.pairs)
        names = [_said(detection, options) for detection in looked.detections]
        shown.append(Shown(looked.image, names, boxes, pairs))
    out = []
    for looked, asked, scores in zip(batch, shown, seen.score(shown), strict=True):
        graph = []
        for pair, way, number in np.argwhere(scores > options.min_score).tolist():
            i, j = asked.pairs[pair].tolist() if way == 0 else asked.pairs[pair, ::-1].tolist()
            things, score = looked.detections, float(scores[pair, way, number])
            graph.append(_triplet(things[i], seen.predicates[number], things[j], score, "clip", options))
        out.append(graph)
    return out


def _triplet(
    subject: Detection, predicate: str, other: Detection, score: float, by: str, options: RelationOptions
) -> Triplet:
    scores = (subject.confidence, score, other.confidence)
    return Triplet(_said(subject, options), predicate, _said(other, options), subject.box, other.box, scores, by)


def _said(thing: Detection, options: RelationOptions) -> str:
    return f"{thing.attribute} {thing.name}".strip() if options.attributes else thing.name


def _label(scene: Scene, triplet: Triplet, box: Box, options: RelationOptions, detector: str) -> PseudoLabel:
    said = {"source": "relation", "detector": detector} | triplet.provenance()
    return PseudoLabel(scene, triplet.phrase(options.phrase), box, said)
