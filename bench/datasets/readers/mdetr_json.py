"""MDETR's annotations, one JSON of COCO's layout a part: finetune_refcoco_val.json and its kin.

    images       [{"id", "file_name", "width", "height", "caption"}, ...]     an entry for each expression
    annotations  [{"image_id", "bbox" xywh pixels, "segmentation", "category_id", "original_id"}, ...]

`segmentation` gives the mask, where it is there. An expression here has exactly one box.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets.readers import Annotations, ReadOptions, part_of_file
from bench.datasets.readers.refer import annotation_box, need
from bench.datasets.readers.rows import checked_file, checked_name, checked_side, checked_text, gather, scene_of_row
from bench.errors import DataError, short
from bench.grounding import Expression, Scene
from bench.inputs import load_json
from bench.masks import checked_mask

if TYPE_CHECKING:
    from bench.datasets.catalog import Catalogued


def expected(dataset: Catalogued) -> str:
    """Name the files that hold the data set."""
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
        Annotations("mdetr", tuple(files), lambda part: read_mdetr_json(files[part]), lambda part: [files[part]])
        if files
        else None
    )


def read_mdetr_json(path: Path) -> list[Scene]:
    """Load the scenes of a file, expressions in its order. Raises DataError naming the file and the entry."""
    data = load_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("images", "annotations")):
        raise DataError(f"{path}: it should hold a dict with lists of images and annotations")
    # 1. The boxes of each expression.
    boxes: dict[str, list[Mapping[str, Any]]] = {}
    for n, annotation in enumerate(data["annotations"]):
        where = f"{path}: annotation {n}"
        if not isinstance(annotation, dict):
            raise DataError(f"{where}: it should be a dict, not {short(annotation)}")
        if not annotation.get("empty"):
            boxes.setdefault(checked_name(need(annotation, "image_id", where), where, "image_id"), []).append(
                annotation
            )
    names = {c.get("id"): c.get("name") for c in data.get("categories") or () if isinstance(c, dict)}
    # 2. A row an expression.
    return gather(_rows(path, data["images"], boxes, names), str(path))


def _rows(
    path: Path, images: list[Any], boxes: Mapping[str, list[Mapping[str, Any]]], names: Mapping[Any, Any]
) -> Iterator[Scene]:
    for n, image in enumerate(images):
        where = f"{path}: image {n}"
        if not isinstance(image, dict):
            raise DataError(f"{where}: it should be a dict, not {short(image)}")
        id = checked_name(need(image, "id", where), where, "id")
        where = f"{path}: expression {id}"
        own = boxes.get(id, [])
        if len(own) != 1:
            raise DataError(f"{where}: it has {len(own)} boxes; a split here has one box for each expression")
        width, height = (checked_side(image.get(side), where, side) for side in ("width", "height"))
        segmentation, category = own[0].get("segmentation"), names.get(own[0].get("category_id"))
        expression = Expression(
            id=id,
            text=checked_text(need(image, "caption", where), where),
            box=annotation_box(own[0], where, width, height),
            category=category if isinstance(category, str) and category else None,
            mask=checked_mask(segmentation, where, width, height) if segmentation else None,
        )
        yield scene_of_row(checked_file(need(image, "file_name", where), where), expression, width, height)
