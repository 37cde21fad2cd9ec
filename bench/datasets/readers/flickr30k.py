"""Flickr30k Entities as its authors publish it: `Annotations/<id>.xml`, `Sentences/<id>.txt` and `<part>.txt`.

A caption marks its phrases as `[/EN#<chain>/<type>/... words]`; a chain is one entity, and the XML file gives the boxes
of each (Plummer et al. 2015; github.com/BryanPlummer/flickr30k_entities). One phrase in one caption is one expression.
Phrases of chain 0 (not visual), and of chains without a box, are left out, as in the published 14,433 phrases of val
and 14,481 of test.

A chain may have several boxes: `merged` takes the box around all of them, as the index lists do; `any-box` takes a hit
with any one of them (MDETR's ANY-BOX). Corners are as in the XML, counted from 1, as the index lists have them too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

from bench.datasets.readers.rows import Row, checked_box, checked_file, checked_side, checked_text, gather
from bench.errors import DataError
from bench.grounding import Box, Caption, Expression, Scene

Protocol = Literal["merged", "any-box"]
PHRASE = re.compile(r"\[/EN#([^/\s\]]+)((?:/[^/\s\]]+)*)\s+(.*?)\](?!\w)")  # the ] that ends a word closes it
MARK = re.compile(r"\[/EN#")
BLANKS = re.compile(r"\s+")


class Phrase(NamedTuple):
    """One marked phrase of a caption; `start` is its first character's place in the caption without marks."""

    chain: str
    types: tuple[str, ...]
    text: str
    start: int


class Entities(NamedTuple):
    """What an annotation file says: the image's size in pixels, and the xyxy boxes of each chain."""

    width: int | None
    height: int | None
    boxes: dict[str, list[Box]]


def read_entities(folder: Path, part: str, protocol: Protocol = "merged") -> list[Scene]:
    """Load the scenes of one part (train, val, test), images in the order of `<part>.txt`; boxes are xyxy pixels.

    An expression's id is "<image>#<caption>#<phrase>", both counted from 0; its kind is the phrase's type, its ref_id
    "<image>#<chain>". With `any-box`, `box` is the chain's first box and `also` the others. An image without a boxed
    phrase gives no scene. Raises DataError naming the file and the caption or chain.
    """
    list_file = folder / f"{part}.txt"
    if not list_file.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) or "none"
        raise DataError(
            f"{list_file}: it is not there; it should list the images of part {part!r} (there are: {there})"
        )
    images = [line.strip().removesuffix(".jpg") for line in _text(list_file).splitlines() if line.strip()]

    def rows() -> Iterator[Row]:
        for image in images:
            checked_file(image, f"{list_file}: image {image!r}")
            entities = read_annotation(folder / "Annotations" / f"{image}.xml")
            yield from _rows(folder / "Sentences" / f"{image}.txt", image, entities, protocol)

    return gather(rows(), str(list_file))


def _rows(sentences: Path, image: str, entities: Entities, protocol: Protocol) -> Iterator[Row]:
    captions = [line.strip() for line in _text(sentences).split("\n") if line.strip()]
    for c, caption in enumerate(captions):
        words, phrases = read_caption(caption, f"{sentences}: caption {c}")
        for p, phrase in enumerate(phrases):
            boxes = entities.boxes.get(phrase.chain)
            if not boxes or phrase.chain == "0":
                continue
            x1, y1, x2, y2 = zip(*boxes, strict=True)
            around = (min(x1), min(y1), max(x2), max(y2))
            expression = Expression(
                id=f"{image}#{c}#{p}",
                text=checked_text(phrase.text, f"{sentences}: caption {c}, phrase {p}"),
                box=around if protocol == "merged" else boxes[0],
                ref_id=f"{image}#{phrase.chain}",
                kind=phrase.types[0] if phrase.types else None,
                also=() if protocol == "merged" else tuple(boxes[1:]),
                caption=Caption(words, phrase.start, phrase.start + len(phrase.text)),
            )
            yield Row(f"{image}.jpg", expression, entities.width, entities.height)


def read_caption(caption: str, where: str) -> tuple[str, list[Phrase]]:
    """A caption without its marks, each run of white space made one blank, and its marked phrases in order.

    Raises DataError where a mark is not closed.
    """
    words, end, found = "", 0, []
    for mark in PHRASE.finditer(caption):
        words += BLANKS.sub(" ", caption[end : mark.start()])
        phrase = " ".join(mark[3].split())
        found.append(Phrase(mark[1], tuple(mark[2].split("/")[1:]), phrase, len(words)))
        words, end = words + phrase, mark.end()
    if len(found) != len(MARK.findall(caption)):
        raise DataError(f"{where}: a phrase is not of the form [/EN#chain/type words]: {caption[:100]!r}")
    return (words + BLANKS.sub(" ", caption[end:])).rstrip(), found


def read_annotation(file: Path) -> Entities:
    """The boxes of each chain. Raises DataError when the file is missing, no XML, or declares a DTD or entities."""
    text = _text(file)
    # Entities are how an XML file of a few lines fills the memory or reads other files; annotations have none.
    if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise DataError(f"{file}: it declares a document type or entities, which annotations never do; it is not read")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file}: not readable XML ({error})") from None
    boxes: dict[str, list[Box]] = {}
    for thing in root.iter("object"):
        chains = [name.text.strip() for name in thing.findall("name") if name.text]
        for corners in thing.findall("bndbox"):
            where = f"{file}: chain {', '.join(chains)}"
            box = checked_box(
                [_number(corners.findtext(k), where) for k in ("xmin", "ymin", "xmax", "ymax")], where, "xyxy"
            )
            for chain in chains:
                boxes.setdefault(chain, []).append(box)
    width, height = (
        checked_side(_number(value, str(file)), str(file), side) if (value := root.findtext(f"size/{side}")) else None
        for side in ("width", "height")
    )
    return Entities(width, height, boxes)


def _number(text: str | None, where: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise DataError(f"{where}: {text!r} should be a number of pixels") from None


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error})") from None
