"""The caption source: a whole sentence as the phrase of what it is about (CLIP-VG's third source).

    image ─► one caption ─► the noun chunk it is about ─► singular nouns ─┐
    image ─► detections ─────────────────────────────► class names ───────┴─► every box of a class so named

The caption is a model's, a file's, or composed from the detections themselves. All boxes of the class get it, the wrong
ones of several too, at most six of an image: which of them is meant, the curriculum has to find out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import Field

from bench.boxes import box_area_xyxy
from bench.datasets.fingerprint import image_key
from bench.errors import SettingsError
from bench.grounding import Box, Boxes
from bench.labelling import LabelJob, PseudoLabel
from bench.settings import Table, parse_table, takes
from clipvg.pseudo_labels.chunks import Chunks, Parser, Scope, classes_named, entities, open_parser, plural
from clipvg.pseudo_labels.detection_files import Detection, ImageDetections
from clipvg.pseudo_labels.detections import DetectionOptions, detect
from clipvg.pseudo_labels.given_files import find_file, known_scenes, read_captions
from clipvg.pseudo_labels.predicates import Predicate, meanings

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CLEAR = 0.3  # a predicate's score under which it is left out
Captions = Callable[[Sequence[ImageDetections]], list[str]]  # of a batch of images, "" for none


class CaptionOptions(Table):
    """[label.caption]."""

    kind: Literal["model", "file", "detections"] = Field("model", description="origin of the captions")
    objects: DetectionOptions = DetectionOptions()
    # kind = "model"
    model: str = Field("Salesforce/blip-image-captioning-base", description="an id of the hub, or a local folder")
    prompt: str = Field("Describe the image in one short sentence.", description="prompt for a chat model")
    top_p: float = Field(0.8, ge=0, le=1, description="share of nucleus sampling; 0 = greedy")
    max_new_tokens: int = Field(40, ge=2)
    batch_size: int = Field(16, ge=1, description="images that are captioned in one call")
    # kind = "file"
    file: str = Field("", description="JSONL or JSON, or torch-saved; {dataset} stands for the data set")
    # kind = "detections"
    predicates: tuple[str, ...] = Field(
        ("next to", "above", "below", "left of", "right of"), description="that stand between objects"
    )
    others: int = Field(2, ge=0, description="objects besides the one it is about")
    # which boxes get a caption
    reader: Parser = Field("rules", description="parser of nouns: our rules, or spaCy where it is installed")
    nouns: Scope = Field("chunk", description="that may name the box: of the head's noun chunk, the head alone, any")
    synonyms: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="class -> other words for it")
    per_image: int = Field(6, ge=1)


@takes(CaptionOptions)
def caption(job: LabelJob) -> Iterator[PseudoLabel]:
    """Make labels by captions. Raises SettingsError, UnknownName, WeightsError, MissingPackage, DataError."""
    options = parse_table(CaptionOptions, job.options, job.where)
    parse = open_parser(options.reader)
    captions, name = _open_captions(options, job)
    scenes = detect(job, options.objects, f"{job.where}.objects")
    return _labels(scenes, captions, name, parse, options, job.context.seed)


def _labels(
    scenes: Iterator[ImageDetections],
    captions: Captions,
    name: str,
    parse: Callable[[str], Chunks],
    options: CaptionOptions,
    seed: int,
) -> Iterator[PseudoLabel]:
    while batch := list(islice(scenes, options.batch_size)):
        for image, text in zip(batch, captions(batch), strict=True):
            # 1. The boxes of classes that the caption names; of many, some by the image's own generator.
            chunks = parse(text)
            nouns = classes_named(chunks, {d.name for d in image.detections}, options.nouns, options.synonyms)
            fitting = [number for number, d in enumerate(image.detections) if d.name in nouns]
            if len(fitting) > options.per_image:
                fitting = sorted(_rng("boxes", seed, image).sample(fitting, options.per_image))
            # 2. A row for each.
            for number in fitting:
                detection = image.detections[number]
                provenance = {
                    "source": "caption",
                    "detector": image.detector,
                    "score": round(detection.confidence, 4),
                    "caption_model": name,
                    "noun": nouns[detection.name],
                    "class": detection.name,
                    "entities": entities(chunks[0]),
                }
                yield PseudoLabel(image.scene, text, detection.box, provenance)


def _open_captions(options: CaptionOptions, job: LabelJob) -> tuple[Captions, str]:
    """Open what captions a batch of images -> it, and its name in provenance."""
    if options.kind == "model":
        from clipvg.pseudo_labels.caption_models import open_caption_model

        model = open_caption_model(options.model, options.prompt, options.top_p, options.max_new_tokens, job.context)
        return lambda batch: model([(image.scene, image.image) for image in batch]), options.model
    if options.kind == "file":
        if not options.file:
            raise SettingsError(f'{job.where}: kind = "file" needs `file`, a file of captions')
        path = find_file(options.file, job.context, f"{job.where}: file")
        table = read_captions(path)
        known_scenes(job, str(path), table)
        return lambda batch: [table.get(image_key(image.scene.file), "") for image in batch], path.name
    predicates = meanings(options.predicates)

    def compose_all(batch: Sequence[ImageDetections]) -> list[str]:
        rngs = [_rng("caption", job.context.seed, image) for image in batch]
        return [compose(i.detections, predicates, rng, options.others) for i, rng in zip(batch, rngs, strict=True)]

    return compose_all, "composed from detections"


def _rng(what: str, seed: int, image: ImageDetections) -> random.Random:
    """An image's own generator: the same whatever other images there are."""
    return random.Random(f"{what}/{seed}/{image_key(image.scene.file)}")


def compose(
    detections: Sequence[Detection],
    predicates: Mapping[Predicate, Sequence[str]],
    rng: random.Random,
    others: int = 2,
    surest: int = 6,
) -> str:
    """Compose the caption of an image from its detections (most confident first); empty where there are none.

    "two striped red stars next to a blue circle and above a green heart": a caption is about one object, or all of one
    name, and says how up to `others` more lie to it. Chance chooses among the surest objects, large ones more often;
    geometry chooses the words between them. `predicates` are those that may be used, each with its wordings.
    """
    # 1. The objects of one name are a group: its phrase, the box around it, the area of its largest.
    boxes: dict[str, list[Box]] = {}
    for detection in detections[:surest]:
        boxes.setdefault(f"{detection.attribute} {detection.name}".strip(), []).append(detection.box)
    if not boxes:
        return ""
    groups = [(_phrase(name, len(some)), np.array(some)) for name, some in boxes.items()]
    # 2. Which group it is about, which others it names, and one wording of each predicate.
    areas = [float(box_area_xyxy(some).max()) for _, some in groups]
    head = rng.choices(range(len(groups)), weights=areas)[0]
    rest = [group for number, group in enumerate(groups) if number != head]
    chosen = rng.sample(rest, min(others, len(rest)))
    wordings = {predicate: rng.choice(wordings) for predicate, wordings in predicates.items()}
    # 3. A clause for each other group, those without a predicate last.
    text, around = groups[head][0], _around(groups[head][1])
    clauses = [(_between(around, _around(some), wordings), phrase) for phrase, some in chosen]
    before = ""
    for number, (words, phrase) in enumerate(sorted(clauses, key=lambda clause: not clause[0])):
        # "next to a circle and a heart", "next to a circle and above a heart", "a star and a circle"
        parts = ("and" if number or not words else "", "" if words == before else words, phrase)
        text, before = " ".join(part for part in (text, *parts) if part), words
    return text


def _phrase(name: str, number: int) -> str:
    """ "a red star", "two red stars", "many red stars"."""
    if number == 1:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    first, _, last = name.rpartition(" ")
    many = NUMBERS[number] if number < len(NUMBERS) else "many"
    return " ".join(f"{many} {first} {plural(last)}".split())


def _around(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _between(head: Boxes, other: Boxes, wordings: Mapping[Predicate, str]) -> str:
    """The wording of the predicate that fits two boxes best; empty where none does clearly."""
    scores = {predicate: float(predicate(head, other)) for predicate in wordings}
    best = max(scores, key=lambda predicate: scores[predicate], default=None)
    return wordings[best] if best is not None and scores[best] > CLEAR else ""
