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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from bench.datasets.readers import Annotations, BoxProtocol, ReadOptions
from bench.datasets.readers.rows import checked_box, checked_file, checked_side, checked_text, gather, scene_of_row
from bench.errors import DataError, short
from bench.grounding import Box, Caption, Expression, Scene
from bench.inputs import load_text

if TYPE_CHECKING:
    from bench.datasets.catalog import Catalogued

PHRASE = re.compile(r"\[/EN#([^/\s\]]+)((?:/[^/\s\]]+)*)\s+(.*?)\](?!\w)")  # the ] that ends a word closes it
MARK = re.compile(r"\[/EN#")
BLANKS = re.compile(r"\s+")

Phrase = tuple[str, tuple[str, ...], str, int]  # chain, types, text, place of its first character in the bare caption
Entities = tuple[int | None, int | None, dict[str, list[Box]]]  # width, height, and the xyxy boxes of each chain


def expected(dataset: Catalogued) -> str:
    """Name the folders that hold the data set."""
    return "a folder with Annotations, Sentences and val.txt" if dataset.protocols else ""


def open_annotations(dataset: Catalogued, path: Path, options: ReadOptions) -> Annotations | None:
    """Open a folder with Annotations/, Sentences/ and the lists train.txt, val.txt, test.txt."""
    if not dataset.protocols or not ((path / "Annotations").is_dir() and (path / "Sentences").is_dir()):
        return None
    # Of the files the lists alone: hashing 60,000 little files would say no more than the fingerprint does.
    files = {part: [path / f"{part}.txt"] for part in dataset.part_names if (path / f"{part}.txt").is_file()}
    protocol = options.protocol
    read = partial(read_entities, path, protocol=protocol)
    return Annotations("entities", tuple(files), read, files.__getitem__, protocol)


def read_entities(folder: Path, part: str, protocol: BoxProtocol = "merged") -> list[Scene]:
    """Load the scenes of one part (train, val, test), images in the order of `<part>.txt`; boxes are xyxy pixels.

    An expression's id is "<image>#<caption>#<phrase>", both counted from 0; its kind is the phrase's type, its ref_id
    "<image>#<chain>". With `any-box`, `box` is the chain's first box and `also` the others. An image without a boxed
    phrase gives no scene. Raises DataError naming the file and the caption or chain.
    """
    list_file = folder / f"{part}.txt"
    if not list_file.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) or "none"
        raise DataError(f"{list_file}: no such file; it should list the images of part {part!r} (there are: {there})")
    images = [line.strip().removesuffix(".jpg") for line in load_text(list_file).splitlines() if line.strip()]

    def rows() -> Iterator[Scene]:
        for image in images:
            checked_file(image, f"{list_file}: image {image!r}")
            entities = read_annotation(folder / "Annotations" / f"{image}.xml")
            yield from _rows(folder / "Sentences" / f"{image}.txt", image, entities, protocol)

    return gather(rows(), str(list_file))


def _rows(sentences: Path, image: str, entities: Entities, protocol: BoxProtocol) -> Iterator[Scene]:
    width, height, chains = entities
    captions = [line.strip() for line in load_text(sentences).split("\n") if line.strip()]
    for c, caption in enumerate(captions):
        words, phrases = read_caption(caption, f"{sentences}: caption {c}")
        for p, (chain, types, text, start) in enumerate(phrases):
            boxes = chains.get(chain)
            if not boxes or chain == "0":
                continue
            x1, y1, x2, y2 = zip(*boxes, strict=True)
            around = (min(x1), min(y1), max(x2), max(y2))
            expression = Expression(
                id=f"{image}#{c}#{p}",
                text=checked_text(text, f"{sentences}: caption {c}, phrase {p}"),
                box=around if protocol == "merged" else boxes[0],
                ref_id=f"{image}#{chain}",
                kind=types[0] if types else None,
                also=() if protocol == "merged" else tuple(boxes[1:]),
                caption=Caption(words, start, start + len(text)),
            )
            yield scene_of_row(f"{image}.jpg", expression, width, height)


def read_caption(caption: str, where: str) -> tuple[str, list[Phrase]]:
    """Split a caption into its words without marks, runs of white space made one blank, and its phrases in order.

    Raises DataError where a mark is not closed.
    """
    words, end = "", 0
    phrases: list[Phrase] = []
    for mark in PHRASE.finditer(caption):
        words += BLANKS.sub(" ", caption[end : mark.start()])
        text = " ".join(mark[3].split())
        phrases.append((mark[1], tuple(mark[2].split("/")[1:]), text, len(words)))
        words, end = words + text, mark.end()
    if len(phrases) != len(MARK.findall(caption)):
        raise DataError(f"{where}: a phrase is not of the form [/EN#chain/type words]: {caption[:100]!r}")
    return (words + BLANKS.sub(" ", caption[end:])).rstrip(), phrases


def read_annotation(file: Path) -> Entities:
    """Parse an annotation file. Raises DataError when it is missing, no XML, or declares a DTD or entities."""
    text = load_text(file)
    # Entities are how an XML file of a few lines fills the memory or reads other files; annotations have none.
    if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise DataError(f"{file}: it declares a document type or entities, which annotations never do; it is not read")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file}: not readable XML ({error})") from None
    boxes: dict[str, list[Box]] = {}
    for element in root.iter("object"):
        chains = [name.text.strip() for name in element.findall("name") if name.text]
        for corners in element.findall("bndbox"):
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
    return width, height, boxes


def _number(text: str | None, where: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise DataError(f"{where}: {short(text)} should be a number of pixels") from None
