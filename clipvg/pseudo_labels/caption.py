"""The caption source: a whole sentence as the phrase of what it is about (CLIP-VG's third source; spec clipvg.md 3.4).

    image ─► one caption ─► the noun chunk it is about ─► singular nouns ─┐
    image ─► detections ─────────────────────────────► class names ───────┴─► every box of a class so named

The caption is a model's, a file's, or composed from the detections themselves. All boxes of the class get it, the wrong
ones of several too, at most six of an image: which of them is meant, the curriculum has to find out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from bench.boxes import box_area_xyxy
from bench.datasets.fingerprint import image_key
from bench.errors import SettingsError
from bench.grounding import Box, Boxes
from bench.labelling import LabelJob, PseudoLabel
from bench.settings import Table, parse_table, takes
from clipvg.pseudo_labels.caption_files import read_captions
from clipvg.pseudo_labels.chunks import Read, Reader, Where, named, open_reader, plural
from clipvg.pseudo_labels.detections import DetectionOptions, Looked, looked_at
from clipvg.pseudo_labels.given_files import find_file, known_scenes
from clipvg.pseudo_labels.predicates import Predicate, meanings
from clipvg.pseudo_labels.pseudo_q_files import Detection

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CLEAR = 0.3  # a predicate's score under which it is left out
Captions = Callable[[Sequence[Looked]], list[str]]


class CaptionOptions(Table):
    """[label.caption]."""

    kind: Literal["model", "file", "detections"] = Field("model", description="whose captions they are")
    objects: DetectionOptions = DetectionOptions()
    # kind = "model"
    model: str = Field("Salesforce/blip-image-captioning-base", description="an id of the hub, or a local folder")
    prompt: str = Field("Describe the image in one short sentence.", description="what a model that chats is asked")
    top_p: float = Field(0.8, ge=0, le=1, description="of nucleus sampling; 0 = greedy")
    max_new_tokens: int = Field(40, ge=2)
    batch_size: int = Field(16, ge=1, description="images that are captioned in one call")
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
    per_image: int = Field(6, ge=1)


@takes(CaptionOptions)
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
        for image, said in zip(batch, captions(batch), strict=True):
            yield from _of(image, said, name, read(said), options, seed)


def _of(image: Looked, text: str, name: str, read: Read, options: CaptionOptions, seed: int) -> Iterator[PseudoLabel]:
    """The labels of one image: a row for each box of a class that the caption names."""
    nouns = named(read, {d.name for d in image.detections}, options.nouns, options.synonyms)
    fitting = [number for number, d in enumerate(image.detections) if d.name in nouns]
    if len(fitting) > options.per_image:
        dice = _dice("boxes", seed, image)
        fitting = sorted(dice.sample(fitting, options.per_image))
    for number in fitting:
        detection = image.detections[number]
        said: Mapping[str, Any] = {
            "source": "caption",
            "detector": image.detector,
            "score": round(detection.confidence, 4),
            "caption_model": name,
            "noun": nouns[detection.name],
            "class": detection.name,
            "entities": read.entities,
        }
        yield PseudoLabel(image.scene, text, detection.box, said)


def _opened(options: CaptionOptions, job: LabelJob) -> tuple[Captions, str]:
    """What captions a batch of images, "" for none, and what provenance calls it."""
    if options.kind == "model":
        from clipvg.pseudo_labels.caption_models import CaptionModel

        model = CaptionModel(options.model, options.prompt, options.top_p, options.max_new_tokens, job.context)
        return lambda batch: model.captions([(looked.scene, looked.image) for looked in batch]), options.model
    if options.kind == "file":
        if not options.file:
            raise SettingsError(f'{job.where}: kind = "file" needs `file`, a file of captions')
        path = find_file(options.file, job.context, f"{job.where}: file")
        held = read_captions(path)
        known_scenes(job, str(path), held)
        return lambda batch: [held.get(image_key(looked.scene.file), "") for looked in batch], path.name
    predicates = meanings(options.predicates)

    def compose(batch: Sequence[Looked]) -> list[str]:
        return [
            composed(p.detections, predicates, _dice("caption", job.context.seed, p), options.others) for p in batch
        ]

    return compose, "composed from detections"


def _dice(what: str, seed: int, image: Looked) -> random.Random:
    """An image's own chance: the same whatever else is looked at."""
    return random.Random(f"{what}/{seed}/{image_key(image.scene.file)}")


class Named(NamedTuple):
    """All the things of an image that go by one name, the box around them, and the area of the largest."""

    name: str
    number: int
    box: Box
    area: float

    @property
    def said(self) -> str:
        """ "a red star", "two red stars", "many red stars"."""
        if self.number == 1:
            return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"
        first, _, last = self.name.rpartition(" ")
        many = NUMBERS[self.number] if self.number < len(NUMBERS) else "many"
        return " ".join(f"{many} {first} {plural(last)}".split())


def composed(
    detections: Sequence[Detection],
    predicates: Mapping[Predicate, Sequence[str]],
    dice: random.Random,
    others: int = 2,
    surest: int = 6,
) -> str:
    """Compose the caption of an image from its detections (most confident first); empty where there are none.

    "two striped red stars next to a blue circle and above a green heart": a caption is about one thing, or all of one
    name, and says how up to `others` more lie to it. Chance chooses among the surest things, large ones more often;
    geometry finds the words between them. `predicates` are those that may be used, each with its wordings.
    """
    groups = _named(detections[:surest])
    if not groups:
        return ""
    head = dice.choices(range(len(groups)), weights=[group.area for group in groups])[0]
    rest = [group for number, group in enumerate(groups) if number != head]
    chosen = dice.sample(rest, min(others, len(rest)))
    wordings = {predicate: dice.choice(said) for predicate, said in predicates.items()}
    clauses = [(_between(groups[head], other, wordings), other.said) for other in chosen]
    said, before = groups[head].said, ""
    for number, (words, other) in enumerate(sorted(clauses, key=lambda clause: not clause[0])):
        # "next to a circle and a heart", "next to a circle and above a heart", "a star and a circle"
        joined = ("and" if number or not words else "", "" if words == before else words)
        said, before = " ".join(part for part in (said, *joined, other) if part), words
    return said


def _named(detections: Sequence[Detection]) -> list[Named]:
    boxes: dict[str, list[Box]] = {}
    for detection in detections:
        boxes.setdefault(f"{detection.attribute} {detection.name}".strip(), []).append(detection.box)
    return [
        Named(name, len(held), _around(np.array(held)), float(box_area_xyxy(held).max()))
        for name, held in boxes.items()
    ]


def _around(boxes: Boxes) -> Box:
    x1, y1 = boxes[:, :2].min(axis=0).tolist()
    x2, y2 = boxes[:, 2:].max(axis=0).tolist()
    return x1, y1, x2, y2


def _between(head: Named, other: Named, wordings: Mapping[Predicate, str]) -> str:
    """How the head lies to another thing, in the words of what holds most clearly; empty where nothing does."""
    a, b = np.array(head.box), np.array(other.box)
    scores = {predicate: float(predicate(a, b)) for predicate in wordings}
    best = max(scores, key=lambda predicate: scores[predicate], default=None)
    return wordings[best] if best is not None and scores[best] > CLEAR else ""
