"""MDETR's annotations, one JSON of COCO's layout a part: finetune_refcoco_val.json and its kin.

    images       [{"id", "file_name", "width", "height", "caption"}, ...]     an entry for each expression
    annotations  [{"image_id", "bbox" xywh pixels, "segmentation", "category_id", "original_id"}, ...]

`segmentation` gives the mask, where it is there. An expression has one box; in data sets of several targets (gRefCOCO,
RefDrone, FineCops-Ref) it has one annotation for each, or one with "empty": true, or category -1 and no area, where it
refers to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets.readers import Annotations, ReadOptions, part_of_file
from bench.datasets.readers.refer import annotation_box, need
from bench.datasets.readers.rows import (
    checked_file,
    checked_name,
    checked_side,
    checked_text,
    gather,
    scene_of_row,
    targets_of,
)
from bench.errors import DataError, short
from bench.grounding import Expression, Mask, Scene
from bench.inputs import load_json
from bench.masks import checked_mask

if TYPE_CHECKING:
    from bench.datasets.catalog import Catalogued


def expected(dataset: Catalogued) -> str:
    """Name the files that hold the data set."""
    if dataset.several and dataset.refer is None:
        return "MDETR's JSON"
    return f"MDETR's finetune_{dataset.refer[0]}_*.json" if dataset.refer else ""


def open_annotations(dataset: Catalogued, path: Path, options: ReadOptions) -> Annotations | None:
    """Open a .json of a part, or a folder with finetune_<data set>_<part>.json."""
    if path.suffix == ".json" and path.is_file():
        files = {part_of_file(dataset, path, options): path}
    elif path.is_dir():
        places = {part: path / f"finetune_{dataset.name}_{part}.json" for part in dataset.part_names}
        files = {part: place for part, place in places.items() if place.is_file()}
    else:
        return None
    return (
        Annotations(
            "mdetr",
            tuple(files),
            lambda part: read_mdetr_json(files[part], dataset.several),
            lambda part: [files[part]],
        )
        if files
        else None
    )


def read_mdetr_json(path: Path, several: bool = False, folders: bool = False) -> list[Scene]:
    """Load the scenes of a file, expressions in its order; `several` allows none and several targets.

    `folders` allows paths of images. Raises DataError naming the file and the entry.
    """
    data = load_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("images", "annotations")):
        raise DataError(f"{path}: it should hold a dict with lists of images and annotations")
    # 1. The boxes of each expression.
    boxes: dict[str, list[Mapping[str, Any]]] = {}
    for n, annotation in enumerate(data["annotations"]):
        where = f"{path}: annotation {n}"
        if not isinstance(annotation, dict):
            raise DataError(f"{where}: it should be a dict, not {short(annotation)}")
        own = boxes.setdefault(checked_name(need(annotation, "image_id", where), where, "image_id"), [])
        if not _empty(annotation):
            own.append(annotation)
    names = {c.get("id"): c.get("name") for c in data.get("categories") or () if isinstance(c, dict)}
    # 2. A row an expression.
    return gather(_rows(path, data["images"], boxes, names, several, folders), str(path))


def _empty(annotation: Mapping[str, Any]) -> bool:
    """Tell whether an annotation states that nothing is referred to."""
    return bool(annotation.get("empty")) or (
        annotation.get("category_id") == -1 and not any(annotation.get("bbox") or ())
    )


def _rows(
    path: Path,
    images: list[Any],
    boxes: Mapping[str, list[Mapping[str, Any]]],
    names: Mapping[Any, Any],
    several: bool,
    folders: bool,
) -> Iterator[Scene]:
    for n, image in enumerate(images):
        where = f"{path}: image {n}"
        if not isinstance(image, dict):
            raise DataError(f"{where}: it should be a dict, not {short(image)}")
        id = checked_name(need(image, "id", where), where, "id")
        where = f"{path}: expression {id}"
        own = boxes.get(id, [])
        if not several and len(own) != 1:
            raise DataError(f"{where}: it has {len(own)} boxes; a split here has one box for each expression")
        if id not in boxes:
            raise DataError(
                f'{where}: it has no annotation; one that refers to nothing should have one with "empty": true'
            )
        width, height = (checked_side(image.get(side), where, side) for side in ("width", "height"))
        box, also = targets_of(annotation_box(each, where, width, height) for each in own)
        classes = {named(names, each.get("category_id")) for each in own}
        expression = Expression(
            id=id,
            text=checked_text(need(image, "caption", where), where),
            box=box,
            also=also,
            category=classes.pop() if len(classes) == 1 else None,
            mask=united(own, where, width, height),
        )
        file = checked_file(need(image, "file_name", where), where, folders)
        yield scene_of_row(file, expression, width, height)


def named(names: Mapping[Any, Any], category: object) -> str | None:
    """Return the name of a category, whose id some files write as text; None for an unknown one."""
    number = int(category) if isinstance(category, str) and category.isascii() and category.isdigit() else category
    name = names.get(category, names.get(number)) if isinstance(category, (str, int)) else None
    return name if isinstance(name, str) and name else None


def united(annotations: Sequence[Mapping[str, Any]], where: str, width: int | None, height: int | None) -> Mask | None:
    """Unite the masks of annotations; None where one of them has none. Raises DataError."""
    masks = [
        checked_mask(drawn, where, width, height) if (drawn := each.get("segmentation")) else None
        for each in annotations
    ]
    there = [mask for mask in masks if mask is not None]
    if not there or len(there) < len(masks):
        return None
    return there[0] if len(there) == 1 else checked_mask(there, where, width, height)
