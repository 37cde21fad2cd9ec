"""The template source: Pseudo-Q's pseudo-queries (Jiang et al., CVPR 2022), which CLIP-VG uses unchanged.

Of each image: detections are sorted into people, garments and other objects (words.toml), the small and the overlapping
dropped, garments given to people, and each object placed among those of its class (arrangement.py); the most confident
few, people first, are put into every template, and of all these phrases some are drawn.

In a template n is the noun with its attribute, r a spatial word, a a garment with its attribute, and p what goes before
the spatial word; top and bottom have none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from bench.datasets.fingerprint import image_key
from bench.datasets.shapes.rng import Rng
from bench.errors import DataError
from bench.labelling import LabelJob, PseudoLabel
from bench.settings import Table, parse_table, takes
from clipvg.pseudo_labels.arrangement import large_enough, spatial_words, without_overlaps, worn
from clipvg.pseudo_labels.detection_files import Detection, ImageDetections, boxes_of, find_files
from clipvg.pseudo_labels.detections import DetectionOptions, detect

LISTS = ("people", "hat", "shirt", "pants", "shoes")  # what is in none of them is of the kind "objects"
WORDS = Path(__file__).with_name("words.toml")
PREPOSITIONS = dict.fromkeys(("left", "right"), "on the")
PREPOSITIONS |= dict.fromkeys(("front", "behind", "middle", "center"), "in the")
PLACED = ("n r", "n p r", "r n")
DRESSED = ("n a", "a n")
PLACED_AND_DRESSED = ("n a r", "n r a", "a n r", "a r n", "r n a", "r a n", "n a p r", "n p r a", "a n p r")


class TemplateOptions(Table):
    """[label.template]. The thresholds are the published ones."""

    objects: DetectionOptions = DetectionOptions()
    top_n: int = Field(
        3, ge=1, description="objects of an image that phrases are about: the most confident, people first"
    )
    per_image: int = Field(6, ge=1, description="phrases of an image, drawn from all that the templates give")
    smallest: float = Field(
        1 / 64, ge=0, le=1, description="share of the image under which people and objects are left out"
    )
    overlap: float = Field(0.4, ge=0, le=1, description="IoU above which only the more confident of two is kept")
    inside: float = Field(0.75, ge=0, le=1, description="share of a garment that lies in its wearer's box")
    spread: float = Field(50.0, ge=0, description="pixels between the outermost of a class for left and right")
    official: bool = Field(False, description="as the published code has it, mistakes included (spatial_words, draw)")
    words: str = Field("", description="a TOML of your own for the lists of people and garments; empty = words.toml")


# A detection that phrases can be about, its spatial words among those of its class, and what it wears.
Referent = tuple[Detection, tuple[str, ...], tuple[str, ...]]
# One phrase: "text", "template" (its pattern with the preposition written out, "n on the r"), "spatial", "garment".
Phrase = dict[str, str]


@takes(TemplateOptions)
def template(job: LabelJob) -> Iterator[PseudoLabel]:
    """Make labels by templates; the same for the same seed, whatever the batch and whichever images go before.

    Raises what `detect` raises, and DataError for word lists that cannot be used.
    """
    options = parse_table(TemplateOptions, job.options, job.where)
    path = find_files([options.words], job.context)[0] if options.words else WORDS
    scenes = detect(job, options.objects, f"{job.where}.objects")
    return _labels(scenes, options, read_words(path), job.context.seed)


def _labels(
    scenes: Iterator[ImageDetections], options: TemplateOptions, kinds: Mapping[str, str], seed: int
) -> Iterator[PseudoLabel]:
    for image in scenes:
        # 1. What phrases can be about, and of these the most confident few.
        height, width = image.image.shape[:2]
        chosen = most_confident(*referents(image.detections, (width, height), options, kinds), options.top_n)
        # 2. Phrases, drawn by the image's own generator.
        rng = Rng("template", seed, image_key(image.scene.file))
        for detection, phrase in draw(chosen, options, rng):
            provenance = {
                "source": "template",
                "detector": image.detector,
                "score": round(detection.confidence, 6),
                "template": phrase["template"],
                "noun": noun(detection),
                "class": detection.name,
                "attribute": detection.attribute,
                "spatial": phrase["spatial"],
                "garment": phrase["garment"],
                "entities": 2 if phrase["garment"] else 1,
            }
            yield PseudoLabel(image.scene, phrase["text"], detection.box, provenance)


def referents(
    detections: Sequence[Detection], size: tuple[int, int], options: TemplateOptions, kinds: Mapping[str, str]
) -> tuple[list[Referent], list[Referent]]:
    """List the people and the objects of an image of `size` (width, height) that are worth a phrase."""
    # 1. Sort; drop small people and objects, and of those that overlap all but the most confident.
    groups: dict[str, list[Detection]] = {"people": [], "objects": [], "garments": []}
    for detection in detections:
        kind = kinds.get(detection.name.lower(), "objects")
        groups[kind if kind in groups else "garments"].append(detection)
    people, objects = (_apart(_large(groups[kind], size, options), options.overlap) for kind in ("people", "objects"))
    garments = _apart(groups["garments"], options.overlap)
    # 2. Give garments to people.
    wears = worn(boxes_of(garments), [kinds[g.name.lower()] for g in garments], boxes_of(people), options.inside)
    dressed = [tuple(noun(garments[g]) for g in np.flatnonzero(of)) for of in wears.T]
    # 3. Place each among those of its class.
    return _placed(people, dressed, size, options), _placed(objects, [()] * len(objects), size, options)


def _placed(
    detections: Sequence[Detection], dressed: Sequence[tuple[str, ...]], size: tuple[int, int], options: TemplateOptions
) -> list[Referent]:
    """Each with its spatial words, among those of its class."""
    spatial: dict[int, tuple[str, ...]] = {}
    for name in dict.fromkeys(d.name for d in detections):
        of = [i for i, d in enumerate(detections) if d.name == name]
        words = spatial_words(boxes_of([detections[i] for i in of]), size, options.spread, options.official)
        spatial |= zip(of, words, strict=True)
    return [(d, spatial[i], dressed[i]) for i, d in enumerate(detections)]


def _large(detections: Sequence[Detection], size: tuple[int, int], options: TemplateOptions) -> list[Detection]:
    large = large_enough(boxes_of(detections), size, options.smallest)
    return [d for d, fits in zip(detections, large, strict=True) if fits]


def _apart(detections: Sequence[Detection], overlap: float) -> list[Detection]:
    confidences = np.array([d.confidence for d in detections], np.float64)
    kept = without_overlaps(boxes_of(detections), confidences, overlap)
    return [d for d, stays in zip(detections, kept, strict=True) if stays]


def most_confident(people: Sequence[Referent], objects: Sequence[Referent], top_n: int) -> list[Referent]:
    """Return the `top_n` most confident, every person before any object."""
    return [r for group in (people, objects) for r in sorted(group, key=lambda r: -r[0].confidence)][:top_n]


def draw(chosen: Sequence[Referent], options: TemplateOptions, rng: Rng) -> list[tuple[Detection, Phrase]]:
    """Draw at most `per_image` of all phrases about the chosen, in random order where there are more.

    The published code may draw the same phrase for the same box twice, when a person wears two of a garment.
    """
    pool = [(d, phrase) for d, spatial, garments in chosen for phrase in phrases(noun(d), spatial, garments)]
    if not options.official:
        unique = {(d.box, phrase["text"]): (d, phrase) for d, phrase in reversed(pool)}
        pool = list(unique.values())[::-1]
    return pool if len(pool) <= options.per_image else rng.sample(pool, options.per_image)


def noun(detection: Detection) -> str:
    """Return the class with its attribute, no word twice: "brick" and "brick wall" are a "brick wall"."""
    attribute = detection.attribute.lower().split()
    return " ".join([*attribute, *(word for word in detection.name.lower().split() if word not in attribute)])


def phrases(noun: str, spatial: Sequence[str], garments: Sequence[str] = ()) -> Iterator[Phrase]:
    """List every phrase about one object, the noun alone first. Garments are people's only."""
    yield from _filled(("n",), noun)
    for word in spatial:
        yield from _filled(PLACED, noun, word)
    for garment in garments:
        yield from _filled(DRESSED, noun, "", garment)
    for word in spatial:
        for garment in garments:
            yield from _filled(PLACED_AND_DRESSED, noun, word, garment)


def _filled(patterns: Sequence[str], noun: str, word: str = "", garment: str = "") -> Iterator[Phrase]:
    preposition = PREPOSITIONS.get(word)
    fill = {"n": noun, "r": word, "a": garment, "p": preposition}
    for pattern in patterns:
        parts = pattern.split()
        if "p" in parts and preposition is None:
            continue
        yield {
            "text": " ".join(str(fill[part]) for part in parts),
            "template": " ".join(str(preposition) if part == "p" else part for part in parts),
            "spatial": word,
            "garment": garment,
        }


def read_words(path: Path = WORDS) -> dict[str, str]:
    """Read a TOML file of LISTS -> class name in lower case -> its list. Raises DataError naming list and word."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: no word lists that can be read ({error})") from None
    kinds: dict[str, str] = {}
    if unknown := table.keys() - set(LISTS):
        raise DataError(f"{path}: the list {min(unknown)!r} is not known; expected {', '.join(LISTS)}")
    for kind in LISTS:
        words = table.get(kind, [])
        if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
            raise DataError(f'{path}: {kind} should be a list of class names, such as ["hat", "cap"]')
        for word in words:
            if kinds.setdefault(word.lower(), kind) != kind:
                raise DataError(f"{path}: {word!r} is in {kinds[word.lower()]} and in {kind}; it can be in one only")
    return kinds
