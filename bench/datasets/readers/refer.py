"""The refer files of RefCOCO, RefCOCO+, RefCOCOg and RefClef/ReferIt: `refs(<split_by>).p` beside `instances.json`.

A ref is one referred object with its sentences, an annotation the object's box, xywh pixels
(github.com/lichengunc/refer). One sentence is one expression, known by its sent_id. Two texts are at hand: `sent`,
cleaned and lower-cased (the default; as MDETR and the index lists), and `raw`, as typed (as ReCLIP).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.datasets.pickles import as_text, load_plain_pickle
from bench.datasets.readers import Annotations, ReadOptions
from bench.datasets.readers.rows import (
    checked_box,
    checked_file,
    checked_name,
    checked_side,
    checked_text,
    gather,
    scene_of_row,
)
from bench.errors import DataError, nearest, short
from bench.grounding import Box, Expression, Scene
from bench.inputs import load_json
from bench.masks import checked_mask, segmentation_box

if TYPE_CHECKING:
    from bench.datasets.catalog import Catalogued

Text = Literal["sent", "raw"]
Record = Mapping[str, Any]


def expected(dataset: Catalogued) -> str:
    """Name the two files that hold the data set."""
    return f"a folder with refs({dataset.refer[1]}).p and instances.json" if dataset.refer else ""


def open_annotations(dataset: Catalogued, path: Path, options: ReadOptions) -> Annotations | None:
    """Open the folder with refs(...).p, the folder above it, or the file itself."""
    if dataset.refer is None:
        return None
    name, split_by = dataset.refer
    top = path.parent if re.fullmatch(r"refs\(.+\)\.p", path.name) else path
    folder = next((p for p in (top, top / name) if list(p.glob("refs(*).p"))), None)
    if folder is None:
        return None
    files = [folder / f"refs({split_by}).p", folder / "instances.json"]
    return Annotations("refer", dataset.part_names, lambda part: read_refer(folder, split_by, part), lambda _: files)


def read_refer(folder: Path, split_by: str, part: str, text: Text = "sent") -> list[Scene]:
    """Load the scenes of one part, images and expressions in order of first appearance in the refs.

    `split_by` is unc, umd, google or berkeley; `part` is matched exactly, except in RefClef (string annotation ids),
    where testA, testB and testC also take the combined parts (testAB, ...) and test takes every part with "test" in its
    name. Boxes are xyxy pixels, unrounded; an annotation without a box gets that of its segmentation. `same_category`
    leaves crowds out; masks are those of the annotations' segmentations. Raises DataError when a file, key, ref or
    annotation is missing or wrong, UnsafePickle.
    """
    refs_file, instances_file = _refs_file(folder, split_by), folder / "instances.json"
    refs = load_plain_pickle(refs_file)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise DataError(f"{refs_file}: it should hold a list of refs (dicts), not a {type(refs).__name__}")
    # 1. The refs of the part.
    chosen = [(n, ref) for n, ref in enumerate(refs) if _is_in(ref, part, f"{refs_file}: ref {n}")]
    if not chosen:
        there = Counter(str(ref["split"]) for ref in refs)
        listed = ", ".join(f"{name:.60} ({count:,} refs)" for name, count in sorted(there.items())[:10])
        raise DataError(f"{refs_file}: no refs of part {part!r}; there are {listed or 'none at all'}")
    # 2. What they refer to; and how many objects of a class an image has.
    images, annotations, categories = load_instances(instances_file)
    same = Counter((a.get("image_id"), a.get("category_id")) for a in annotations.values() if not a.get("iscrowd", 0))

    # 3. A row a sentence.
    def rows() -> Iterator[Scene]:
        for n, ref in chosen:
            where = (
                f"{refs_file}: ref {checked_name(ref.get('ref_id', f'number {n}'), f'{refs_file}: ref {n}', 'ref_id')}"
            )
            ann_id, image_id = need(ref, "ann_id", where), need(ref, "image_id", where)
            annotation = annotations.get(ann_id) if is_id(ann_id) else None
            if annotation is None:
                raise DataError(f"{where}: its annotation {short(ann_id)} is not in {instances_file}")
            image = images.get(image_id, {}) if is_id(image_id) else {}
            category = annotation.get("category_id")
            yield from ref_rows(
                ref,
                annotation,
                image,
                where,
                text,
                category=categories.get(category),
                same_category=same[(annotation.get("image_id"), category)] or None,
            )

    return gather(rows(), str(refs_file))


def ref_rows(
    ref: Record,
    annotation: Record,
    image: Record,
    where: str,
    text: Text,
    category: str | None = None,
    same_category: int | None = None,
) -> Iterator[Scene]:
    """Yield a row for each sentence of a ref, given its annotation and image record (file_name, width, height)."""
    width = checked_side(image.get("width"), where, "width")
    height = checked_side(image.get("height"), where, "height")
    file = image_file(ref, image, where)
    box = annotation_box(annotation, where, width, height)
    segmentation = annotation.get("segmentation")
    mask = checked_mask(segmentation, where, width, height) if segmentation else None
    sentences = need(ref, "sentences", where)
    for sentence in sentences if isinstance(sentences, list) else [sentences]:
        if not isinstance(sentence, Mapping):
            raise DataError(f"{where}: a sentence should be a dict with sent_id and {text}, not {short(sentence)}")
        sent_id = checked_name(need(sentence, "sent_id", where), where, "sent_id")
        spot = f"{where}, sentence {sent_id}"
        expression = Expression(
            id=sent_id,
            text=checked_text(as_text(need(sentence, text, spot)), spot),
            box=box,
            ref_id=checked_name(need(ref, "ref_id", where), where, "ref_id"),
            category=category,
            same_category=same_category,
            mask=mask,
        )
        yield scene_of_row(file, expression, width, height)


def annotation_box(annotation: Record, where: str, width: int | None, height: int | None) -> Box:
    """Return the box (xyxy pixels) of a COCO-style annotation: its bbox (xywh) or, without one, its segmentation's."""
    where = f"{where}, annotation {short(annotation.get('id'))}"
    if annotation.get("bbox"):
        return checked_box(annotation["bbox"], where, "xywh")
    if not annotation.get("segmentation"):
        raise DataError(f"{where}: it has neither a bbox nor a segmentation")
    return checked_box(segmentation_box(annotation["segmentation"], where, width, height), where, "xyxy")


def need(record: Record, key: str, where: str) -> Any:
    """Return `record[key]`. Raises DataError, listing the keys that are there, when it is missing."""
    if key not in record:
        raise DataError(f"{where}: the key {key!r} is missing; there are {short(list(record))}")
    return record[key]


def _refs_file(folder: Path, split_by: str) -> Path:
    named = re.fullmatch(r"refs\((.+)\)\.p", split_by)  # the file's own name will do as well
    split_by = named[1] if named else split_by
    known = sorted(m[1] for p in folder.glob("refs(*).p") if (m := re.fullmatch(r"refs\((.+)\)\.p", p.name)))
    if split_by not in known:
        near = nearest(split_by, known)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        there = ", ".join(f"refs({name}).p" for name in known) or "no refs(...).p at all"
        raise DataError(f"{folder}: refs({split_by}).p is missing, there is {there}{hint}")
    return folder / f"refs({split_by}).p"


def _is_in(ref: Record, part: str, where: str) -> bool:
    split = checked_name(need(ref, "split", where), where, "split")
    if not isinstance(ref.get("ann_id"), str) or split == part or not split.startswith("test"):
        return split == part
    return part == "test" or (part in {"testA", "testB", "testC"} and part[-1] in split[4:])


def load_instances(file: Path) -> tuple[dict[object, Record], dict[object, Record], dict[object, str]]:
    """Return images, annotations and category names by id."""
    if not file.exists():
        raise DataError(f"{file}: no such file; it belongs beside the refs(...).p")
    data = load_json(file)
    if not isinstance(data, dict):
        raise DataError(f"{file}: it should hold a dict with images, annotations and categories")
    images = _by_id(need(data, "images", str(file)), file, "images")
    annotations = _by_id(need(data, "annotations", str(file)), file, "annotations")
    categories = _by_id(data.get("categories", []), file, "categories")
    names = {key: need(category, "name", str(file)) for key, category in categories.items()}
    return images, annotations, {key: checked_name(name, str(file), "name") for key, name in names.items()}


def _by_id(records: object, file: Path, name: str) -> dict[object, Record]:
    if not isinstance(records, list) or not all(
        isinstance(r, dict) and all(map(is_id, (r.get("id"), r.get("image_id", 0), r.get("category_id", 0))))
        for r in records
    ):
        raise DataError(f"{file}: {name} should be a list of dicts, each with an id")
    return {record["id"]: record for record in records}


def is_id(key: object) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 128)


def image_file(ref: Record, image: Record, where: str) -> str:
    """Return the image's own file name; refs name it with the annotation's id behind, RefClef's refs not at all."""
    name = image.get("file_name")
    if name is None and (name := ref.get("file_name")) is not None:
        name = re.sub(r"_[^_]*(\.\w+)$", r"\1", checked_file(name, where))
    if name is None:
        name = f"{checked_name(ref.get('image_id', image.get('id')), where, 'image_id')}.jpg"
    if isinstance(name, str):
        name = name.rpartition("/")[2]
    return checked_file(name, where)
