"""Pseudo-labels: the job that a source of them gets, and the rows it yields.

A source (Pseudo-Q's templates, scene-graph relations, captions) uses images only. Its job has no annotation in it:
scenes without expressions, and images that can be decoded and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.grounding import Box, ImageSource, PipelineContext, Scene


@dataclass(frozen=True, slots=True)
class PseudoLabel:
    """One made-up expression about one image. `box` is xyxy pixels of the original image, inside it.

    `provenance` is plain JSON and says where the row comes from: always "source" ("template", "relation", "caption"),
    "detector" (what detected the box) and "score" (its confidence, 0..1), and what the source has to say besides
    ("template", "noun", "attribute", "spatial", "subject", "predicate", "object", "caption_model", "entities", ...).
    """

    scene: Scene
    text: str
    box: Box
    provenance: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LabelJob:
    """What a source gets. `scenes` have no expressions, and `width` and `height` None where not annotated.

    `options` is [label.SOURCE] of bench.toml with the data set's lines ([label.SOURCE.on.DATASET]) and --set laid over;
    `where` is how messages name that table. `context` is that of any pipeline (device, dtype, seed, home, offline); its
    `train_scenes` raises, its `candidates` are None.
    """

    scenes: Sequence[Scene]
    images: ImageSource
    options: Mapping[str, Any]
    where: str
    context: PipelineContext


LabelSource = Callable[[LabelJob], Iterator[PseudoLabel]]
"""What an entry point of the group `bench.label_sources` names.

It yields labels, image by image in the order of the job's scenes, the same for the same seed, whatever the batch. It
raises SettingsError, WeightsError, DataError, ImageError and MissingPackage before the first row where it can.
"""
