"""The caption source: a whole sentence as the phrase of what it is about (CLIP-VG's third source; spec clipvg.md 3.4).

    picture ─► one caption ─► the noun chunk it is about ─► singular nouns ─┐
    picture ─► detections ─────────────────────────────► class names ───────┴─► every box of a class so named

The caption is a model's, a file's, or composed from the detections themselves. All boxes of the class get it, the wrong
ones of several too, at most six of a picture: which of them is meant, the curriculum has to find out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from pydantic import Field

from bench.datasets.fingerprint import picture_key
from bench.errors import SettingsError
from bench.labelling import LabelJob, PseudoLabel
from bench.settings import Table, parse_table
from clipvg.pseudo_labels.caption_files import read_captions
from clipvg.pseudo_labels.chunks import Read, Reader, open_reader
from clipvg.pseudo_labels.composed import composed
from clipvg.pseudo_labels.detections import DetectionOptions, Looked, looked_at
from clipvg.pseudo_labels.given_files import find_file, spoken_of
from clipvg.pseudo_labels.nouns import Where, named
from clipvg.pseudo_labels.predicates import meanings

Captions = Callable[[Sequence[Looked]], list[str]]


class CaptionOptions(Table):
    """[label.caption]."""

    kind: Literal["model", "file", "detections"] = Field("model", description="whose captions they are")
    objects: DetectionOptions = DetectionOptions()
    # kind = "model"
    model: str = Field("Salesforce/blip-image-captioning-base", description="an id of the hub, or a local folder")
    prompt: str = Field("Describe the picture in one short sentence.", description="what a model that chats is asked")
    top_p: float = Field(0.8, ge=0, le=1, description="of nucleus sampling; 0 = greedy")
    max_new_tokens: int = Field(40, ge=2)
    batch_size: int = Field(16, ge=1, description="pictures that are captioned in one call")
    # kind = "file"
    file: str = Field("", description="JSONL or JSON, or torch-saved; {dataset} stands for the data set")
    # kind = "detections"
    predicates: tuple[str, ...] = Field(
        ("next to", "above", "below", "left of", "right of"), description="said between"
    )
    others: int = Field(2, ge=0, description="things besides the one it is about")
    # which boxes get a caption
    reader: Reader = Field("rules", description="who finds nouns: our rules, or spaCy where it is installed")
    nouns: Where = Field("chunk", description="that may name the box: of the head's noun chunk, the head alone, any")
    synonyms: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="class -> other words for it")
    per_picture: int = Field(6, ge=1)


def caption(job: LabelJob) -> Iterator[PseudoLabel]:
    """Labels by captions. Raises SettingsError, UnknownName, WeightsError, MissingPackage, DataError."""
    options = parse_table(CaptionOptions, job.options, job.where)
    read = open_reader(options.reader)
    captions, name = _opened(options, job)
    looked = looked_at(job, options.objects, f"{job.where}.objects")
    return _labels(looked, captions, name, read, options, job.context.seed)


def _labels(
    looked: Iterator[Looked],
    captions: Captions,
    name: str,
    read: Callable[[str], Read],
    options: CaptionOptions,
    seed: int,
) -> Iterator[PseudoLabel]:
    while batch := list(islice(looked, options.batch_size)):
        for picture, said in zip(batch, captions(batch), strict=True):
            yield from _of(picture, said, name, read(said), options, seed)


def _of(picture: Looked, text: str, name: str, read: Read, options: CaptionOptions, seed: int) -> Iterator[PseudoLabel]:
    """The labels of one picture: a row for each box of a class that the caption names."""
    nouns = named(read, {d.name for d in picture.detections}, options.nouns, options.synonyms)
    fitting = [number for number, d in enumerate(picture.detections) if d.name in nouns]
    if len(fitting) > options.per_picture:
        dice = _dice("boxes", seed, picture)
        fitting = sorted(dice.sample(fitting, options.per_picture))
    for number in fitting:
        detection = picture.detections[number]
        said: Mapping[str, Any] = {
            "source": "caption",
            "detector": picture.detector,
            "score": round(detection.confidence, 4),
            "caption_model": name,
            "noun": nouns[detection.name],
            "class": detection.name,
            "entities": read.entities,
        }
        yield PseudoLabel(picture.scene, text, detection.box, said)


def _opened(options: CaptionOptions, job: LabelJob) -> tuple[Captions, str]:
    """What captions a batch of pictures, "" for none, and what provenance calls it."""
    if options.kind == "model":
        from clipvg.pseudo_labels.caption_models import CaptionModel

        model = CaptionModel(options.model, options.prompt, options.top_p, options.max_new_tokens, job.context)
        return lambda batch: model.captions([(looked.scene, looked.picture) for looked in batch]), options.model
    if options.kind == "file":
        if not options.file:
            raise SettingsError(f'{job.where}: kind = "file" needs `file`, a file of captions')
        path = find_file(options.file, job.context, f"{job.where}: file")
        held = read_captions(path)
        spoken_of(job, path, held)
        return lambda batch: [held.get(picture_key(looked.scene.file), "") for looked in batch], path.name
    predicates = meanings(options.predicates)

    def compose(batch: Sequence[Looked]) -> list[str]:
        return [
            composed(p.detections, predicates, _dice("caption", job.context.seed, p), options.others) for p in batch
        ]

    return compose, "composed from detections"


def _dice(what: str, seed: int, picture: Looked) -> random.Random:
    """A picture's own chance: the same whatever else is looked at."""
    return random.Random(f"{what}/{seed}/{picture_key(picture.scene.file)}")
