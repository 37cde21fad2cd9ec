"""The refer files of RefCOCO, RefCOCO+, RefCOCOg and RefClef/ReferIt: `refs(<split_by>).p` beside `instances.json`.

A ref is one referred object with its sentences, an annotation the object's box, xywh pixels (spec pipelines.md 5.1;
github.com/lichengunc/refer). One sentence is one expression, known by its sent_id. The pickles come from Python 2 and
are read by `bench.datasets.pickles`. Two texts are at hand: `sent`, cleaned and lower-cased (the default; what MDETR
and the index lists of TransVG use), and `raw`, as typed (what ReCLIP uses).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from bench.datasets.pickles import as_text, load_plain_pickle
from bench.datasets.rows import Row, checked_box, checked_file, checked_side, checked_text, gather
from bench.datasets.segmentation import segmentation_box
from bench.errors import DataError, nearest
from bench.grounding import Box, Expression, Scene

Text = Literal["sent", "raw"]
Record = Mapping[str, Any]


def read_refer(folder: Path, split_by: str, part: str, text: Text = "sent") -> list[Scene]:
    """The scenes of one part, pictures and expressions in order of first appearance in the refs.

    `split_by` is unc, umd, google or berkeley; `part` is train, val, test, testA or testB, matched exactly, except in
    RefClef (string annotation ids), where testA, testB and testC also take the combined parts (testAB, ...) and test
    takes every part with "test" in its name. Boxes are xyxy pixels, unrounded; an annotation without a box gets that
    of its segmentation. `same_category` leaves crowds out. Raises DataError when a file, key, ref or annotation is
    missing or wrong, UnsafePickle when the refs ask for more than plain containers.
    """
    refs_file, instances_file = _refs_file(folder, split_by), folder / "instances.json"
    refs = load_plain_pickle(refs_file)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise DataError(f"{refs_file}: it should hold a list of refs (dicts), not a {type(refs).__name__}")
    chosen = [(n, ref) for n, ref in enumerate(refs) if _is_in(ref, part, f"{refs_file}: ref {n}")]
    if not chosen:
        there = Counter(str(ref["split"]) for ref in refs)
        listed = ", ".join(f"{name} ({count:,} refs)" for name, count in sorted(there.items()))
        raise DataError(f"{refs_file}: no refs of part {part!r}; there are {listed or 'none at all'}")
    pictures, annotations, categories = _instances(instances_file)
    same = Counter((a.get("image_id"), a.get("category_id")) for a in annotations.values() if not a.get("iscrowd", 0))

    def rows() -> Iterator[Row]:
        for n, ref in chosen:
            where = f"{refs_file}: ref {ref.get('ref_id', f'number {n}')}"
            ann_id, image_id = need(ref, "ann_id", where), need(ref, "image_id", where)
            annotation = annotations.get(ann_id) if _is_id(ann_id) else None
            if annotation is None:
                raise DataError(f"{where}: its annotation {ann_id!r:.40} is not in {instances_file}")
            picture = pictures.get(image_id, {}) if _is_id(image_id) else {}
            category = annotation.get("category_id")
            yield from ref_rows(
                ref,
                annotation,
                picture,
                where,
                text,
                category=categories.get(category),
                same_category=same[(annotation.get("image_id"), category)] or None,
            )

    return gather(rows(), str(refs_file))


def ref_rows(
    ref: Record,
    annotation: Record,
    picture: Record,
    where: str,
    text: Text,
    category: str | None = None,
    same_category: int | None = None,
) -> Iterator[Row]:
    """One row for each sentence of a ref, given its annotation and its picture's record (file_name, width, height)."""
    width = checked_side(picture.get("width"), where, "width")
    height = checked_side(picture.get("height"), where, "height")
    file = _picture_file(ref, picture, where)
    box = annotation_box(annotation, where, width, height)
    sentences = need(ref, "sentences", where)
    for sentence in sentences if isinstance(sentences, list) else [sentences]:
        if not isinstance(sentence, Mapping):
            raise DataError(f"{where}: a sentence should be a dict with sent_id and {text}, not {sentence!r:.60}")
        sent_id = str(need(sentence, "sent_id", where))
        spot = f"{where}, sentence {sent_id}"
        expression = Expression(
            id=sent_id,
            text=checked_text(as_text(need(sentence, text, spot)), spot),
            box=box,
            ref_id=str(need(ref, "ref_id", where)),
            category=category,
            same_category=same_category,
        )
        yield Row(file, expression, width, height)


def annotation_box(annotation: Record, where: str, width: int | None, height: int | None) -> Box:
    """xyxy pixels of a COCO-style annotation: its bbox (xywh) or, where it has none, that of its segmentation."""
    where = f"{where}, annotation {annotation.get('id')}"
    if annotation.get("bbox"):
        return checked_box(annotation["bbox"], where, "xywh")
    if not annotation.get("segmentation"):
        raise DataError(f"{where}: it has neither a bbox nor a segmentation")
    return segmentation_box(annotation["segmentation"], where, width, height)


def need(record: Record, key: str, where: str) -> Any:
    """`record[key]`. Raises DataError, listing the keys that are there, when it is missing."""
    if key not in record:
        raise DataError(f"{where}: the key {key!r} is missing; there are {', '.join(map(str, record)) or 'none'}")
    return record[key]


def _refs_file(folder: Path, split_by: str) -> Path:
    named = re.fullmatch(r"refs\((.+)\)\.p", split_by)  # the file's own name will do as well
    split_by = named[1] if named else split_by
    known = sorted(m[1] for p in folder.glob("refs(*).p") if (m := re.fullmatch(r"refs\((.+)\)\.p", p.name)))
    if split_by not in known:
        near = nearest(split_by, known)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        there = ", ".join(f"refs({name}).p" for name in known) or "no refs(...).p at all"
        raise DataError(f"{folder}: refs({split_by}).p is not there, there is {there}{hint}")
    return folder / f"refs({split_by}).p"


def _is_in(ref: Record, part: str, where: str) -> bool:
    split = str(need(ref, "split", where))
    if not isinstance(ref.get("ann_id"), str) or split == part or not split.startswith("test"):
        return split == part
    return part == "test" or (part in {"testA", "testB", "testC"} and part[-1] in split[4:])


def _instances(file: Path) -> tuple[dict[object, Record], dict[object, Record], dict[object, str]]:
    """Pictures, annotations and category names by id."""
    try:
        held = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); it belongs beside the refs(...).p") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not readable JSON ({error}); is it cut?") from None
    if not isinstance(held, dict):
        raise DataError(f"{file}: it should hold a dict with images, annotations and categories")
    pictures = _by_id(need(held, "images", str(file)), file, "images")
    annotations = _by_id(need(held, "annotations", str(file)), file, "annotations")
    categories = _by_id(held.get("categories", []), file, "categories")
    return pictures, annotations, {key: str(need(c, "name", str(file))) for key, c in categories.items()}


def _by_id(records: object, file: Path, name: str) -> dict[object, Record]:
    if not isinstance(records, list) or not all(
        isinstance(r, dict) and all(map(_is_id, (r.get("id"), r.get("image_id", 0), r.get("category_id", 0))))
        for r in records
    ):
        raise DataError(f"{file}: {name} should be a list of dicts, each with an id")
    return {record["id"]: record for record in records}


def _is_id(key: object) -> bool:
    return isinstance(key, (int, str))


def _picture_file(ref: Record, picture: Record, where: str) -> str:
    """The picture's own file name; refs name it with the annotation's id behind, RefClef's refs not at all."""
    name = picture.get("file_name")
    if name is None and (name := ref.get("file_name")) is not None:
        name = re.sub(r"_[^_]*(\.\w+)$", r"\1", str(name))
    if name is None:
        name = f"{ref.get('image_id', picture.get('id'))}.jpg"
    if isinstance(name, str):
        name = name.rpartition("/")[2]
    return checked_file(name, where)
