"""The relation source: "man on horse" with the man's box (CLIP-VG's second source, by RelTR).

    a scene graph's file ──────────────────────────────► triplets ─► the ten surest of an image ─► phrases
    detections ─► pairs ─► geometry, and CLIP on crops ────┘

A file of finished phrases is used as it is. Of detections, a predicate's score stands beside the confidences of both
objects as RelTR's three do: all three must be above `min_score`, and their product ranks.
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
from clipvg.pseudo_labels.detection_files import Detection, ImageDetections, boxes_of
from clipvg.pseudo_labels.detections import DetectionOptions, detect
from clipvg.pseudo_labels.given_files import find_file, inside_image, known_scenes
from clipvg.pseudo_labels.predicates import Predicate, among, close_pairs, meanings, score_pairs
from clipvg.pseudo_labels.scene_graph_files import Triplet, choose, read_phrases, read_triplets
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions

BATCH = 16  # images whose pairs are scored in one call
# Of Visual Genome's fifty predicates those that say something and are no geometry.
BY_CLIP = (
    "riding", "wearing", "holding", "carrying", "using", "eating", "looking at", "sitting on", "standing on",
    "lying on", "walking on", "parked on", "hanging from", "attached to", "covering", "on", "in", "with", "under",
    "behind", "in front of", "next to",
)  # fmt: skip


class RelationOptions(Table):
    """[label.relation]."""

    graph: str = Field("", description="a scene graph's file; {dataset} stands for the data set; empty = detections")
    objects: DetectionOptions = DetectionOptions()
    geometry: tuple[str, ...] = Field(("left of", "right of", "above", "below"), description="scored by geometry")
    looked: tuple[str, ...] = Field(BY_CLIP, description="scored by CLIP on the crop of both")
    clip: ClipOptions = ClipOptions()
    prompt: str = Field("a photo of a {}", pattern=r"\{\}", description="of CLIP's texts")
    pairs: int = Field(20, ge=1, description="that CLIP scores in one image: the surest of those close together")
    attributes: bool = Field(False, description="name an object with its attribute, where it is known")
    min_score: float = Field(0.2, ge=0, le=1, description="of subject, predicate and object each")
    top: int = Field(10, ge=1, description="phrases of an image")
    unique: bool = Field(False, description="leave out words that fit another object of the image as well")
    phrase: str = Field("{subject} {predicate} {object}", pattern=r"\{subject\}")


@takes(RelationOptions)
def relation(job: LabelJob) -> Iterator[PseudoLabel]:
    """Make labels by relation. Raises SettingsError, UnknownName, WeightsError, MissingPackage, DataError."""
    options = parse_table(RelationOptions, job.options, job.where)
    if options.graph:
        path = find_file(options.graph, job.context, f"{job.where}: graph")
        return _from_phrases(job, path) if path.suffix == ".pth" else _from_graph(job, options, path)
    predicates = meanings(options.geometry)
    scenes = detect(job, options.objects, f"{job.where}.objects")
    encoder = ClipEncoder(options.clip, job.context) if options.looked else None
    return _from_detections(scenes, options, predicates, encoder, job.context.seed)


def _from_graph(job: LabelJob, options: RelationOptions, path: Path) -> Iterator[PseudoLabel]:
    graphs = read_triplets(path)
    for scene in known_scenes(job, str(path), graphs):
        graph = graphs[image_key(scene.file)]
        places = {id(triplet): where for where, triplet in graph}
        for triplet in choose([t for _, t in graph], options.min_score, options.top, options.unique):
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
                provenance = {"source": "relation", "detector": path.name, "score": 1.0, "entities": 2}
                yield PseudoLabel(scene, expression.text, box, provenance)


def _from_detections(
    scenes: Iterator[ImageDetections],
    options: RelationOptions,
    predicates: Mapping[Predicate, Sequence[str]],
    encoder: ClipEncoder | None,
    seed: int,
) -> Iterator[PseudoLabel]:
    while batch := list(islice(scenes, BATCH)):
        # 1. Triplets: by geometry, then by CLIP.
        graphs = [_by_geometry(image, options, predicates, seed) for image in batch]
        if encoder is not None:
            for graph, more in zip(graphs, _by_clip(batch, options, encoder), strict=True):
                graph += more
        # 2. The surest become phrases.
        for image, graph in zip(batch, graphs, strict=True):
            for triplet in choose(graph, options.min_score, options.top, options.unique):
                yield _label(image.scene, triplet, triplet.subject_box, options, image.detector)


def _by_geometry(
    image: ImageDetections, options: RelationOptions, predicates: Mapping[Predicate, Sequence[str]], seed: int
) -> list[Triplet]:
    """Every pair that a predicate fits; where it has several wordings, the image's own generator draws one."""
    rng = random.Random(f"relation/{seed}/{image_key(image.scene.file)}")
    objects, boxes = image.detections, boxes_of(image.detections)
    out = []
    for predicate, wordings in predicates.items():
        scores = among(predicate, boxes)
        for i, j in np.argwhere(scores > options.min_score).tolist():
            words = rng.choice(wordings)
            out.append(_triplet(objects[i], words, objects[j], float(scores[i, j]), "geometry", options))
    return out


def _by_clip(batch: Sequence[ImageDetections], options: RelationOptions, encoder: ClipEncoder) -> list[list[Triplet]]:
    """Of each close pair the predicates that CLIP is sure of."""
    # 1. The pairs of each image, and CLIP's score of each predicate in both directions.
    pairs_of_images = []
    for image in batch:
        boxes, names = boxes_of(image.detections), [_name(detection, options) for detection in image.detections]
        pairs = close_pairs(boxes, [d.confidence for d in image.detections], options.pairs)
        pairs_of_images.append((image.image, names, boxes, pairs))
    scores_of_images = score_pairs(pairs_of_images, options.looked, options.prompt, encoder)
    # 2. A triplet for each that is sure enough; the other way round the pair's second object is the subject.
    out = []
    for image, (_, _, _, pairs), scores in zip(batch, pairs_of_images, scores_of_images, strict=True):
        graph = []
        for pair, way, number in np.argwhere(scores > options.min_score).tolist():
            i, j = pairs[pair].tolist() if way == 0 else pairs[pair, ::-1].tolist()
            objects, score = image.detections, float(scores[pair, way, number])
            graph.append(_triplet(objects[i], options.looked[number], objects[j], score, "clip", options))
        out.append(graph)
    return out


def _triplet(
    subject: Detection, predicate: str, other: Detection, score: float, by: str, options: RelationOptions
) -> Triplet:
    scores = (subject.confidence, score, other.confidence)
    return Triplet(_name(subject, options), predicate, _name(other, options), subject.box, other.box, scores, by)


def _name(detection: Detection, options: RelationOptions) -> str:
    return f"{detection.attribute} {detection.name}".strip() if options.attributes else detection.name


def _label(scene: Scene, triplet: Triplet, box: Box, options: RelationOptions, detector: str) -> PseudoLabel:
    provenance = {"source": "relation", "detector": detector} | triplet.provenance()
    return PseudoLabel(scene, triplet.phrase(options.phrase), box, provenance)
