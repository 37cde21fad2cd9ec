"""gRefCOCO's own files: `grefs(unc).json` beside COCO's `instances.json` (Liu et al., GRES, 2023).

grefs is a list of refs {"ref_id", "image_id", "split", "sentences" [{"sent_id", "sent"}], "ann_id" [...],
"no_target", "file_name"}; ann_id is [-1] where nothing is referred to. Boxes and masks are those of the annotations in
instances.json. One sentence is one expression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets.readers import Annotations, ReadOptions
from bench.datasets.readers.mdetr_json import united
from bench.datasets.readers.refer import annotation_box, image_file, is_id, load_instances, need
from bench.datasets.readers.rows import checked_name, checked_side, checked_text, gather, scene_of_row, targets_of
from bench.errors import DataError, short
from bench.grounding import Expression, Scene
from bench.inputs import load_json

if TYPE_CHECKING:
    from bench.datasets.catalog import Catalogued

FILE = "grefs(unc).json"


def expected(dataset: Catalogued) -> str:
    """Name the two files that hold the data set."""
    return f"a folder with {FILE} and instances.json" if dataset.name == "grefcoco" else ""


def open_annotations(dataset: Catalogued, path: Path, options: ReadOptions) -> Annotations | None:
    """Open the folder with grefs(unc).json, the folder above it, or the file itself."""
    if dataset.name != "grefcoco":
        return None
    top = path.parent if path.name == FILE else path
    folder = next((p for p in (top, top / "grefcoco") if (p / FILE).is_file()), None)
    if folder is None:
        return None
    files = [folder / FILE, folder / "instances.json"]
    return Annotations("grefs", dataset.part_names, lambda part: read_grefs(folder, part), lambda _: files)


def read_grefs(folder: Path, part: str) -> list[Scene]:
    """Load the scenes of one part, boxes xyxy pixels. Raises DataError naming the file and the ref."""
    file = folder / FILE
    refs = load_json(file)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise DataError(f"{file}: it should hold a list of refs, not {short(refs)}")
    images, annotations, categories = load_instances(folder / "instances.json")

    def rows() -> Iterator[Scene]:
        for n, ref in enumerate(refs):
            where = f"{file}: ref {short(ref.get('ref_id', n))}"
            if need(ref, "split", where) == part:
                yield from _rows_of(ref, images, annotations, categories, where)

    if not any(ref.get("split") == part for ref in refs):
        there = sorted({str(ref.get("split")) for ref in refs})
        raise DataError(f"{file}: no refs of part {part!r}; there are {', '.join(there[:10]) or 'none at all'}")
    return gather(rows(), str(file))


def _rows_of(
    ref: Mapping[str, Any],
    images: Mapping[object, Mapping[str, Any]],
    annotations: Mapping[object, Mapping[str, Any]],
    categories: Mapping[object, str],
    where: str,
) -> Iterator[Scene]:
    """Yield a row for each sentence of a ref."""
    # 1. What it refers to: ids of annotations, or -1 alone.
    given = need(ref, "ann_id", where)
    ids = given if isinstance(given, list) else [given]
    nothing = ids == [-1]
    if not ids or (-1 in ids and not nothing) or nothing != bool(ref.get("no_target", nothing)):
        raise DataError(
            f"{where}: ann_id is {short(given)} and no_target {short(ref.get('no_target'))}; expected ids, or -1 alone "
            "where nothing is referred to"
        )
    own = [] if nothing else [annotations.get(each) if is_id(each) else None for each in ids]
    if absent := [each for each, there in zip(ids, own, strict=False) if there is None]:
        raise DataError(f"{where}: its annotation {short(absent[0])} is not in instances.json")
    known = [each for each in own if each is not None]
    image_id = need(ref, "image_id", where)
    image = images.get(image_id, {}) if is_id(image_id) else {}
    width, height = (checked_side(image.get(side), where, side) for side in ("width", "height"))
    box, also = targets_of(annotation_box(each, where, width, height) for each in known)
    classes = {categories.get(each.get("category_id")) for each in known}
    mask, file = united(known, where, width, height), image_file(ref, image, where)
    # 2. A row a sentence.
    sentences = need(ref, "sentences", where)
    for sentence in sentences if isinstance(sentences, list) else [sentences]:
        if not isinstance(sentence, Mapping):
            raise DataError(f"{where}: a sentence should be a dict with sent_id and sent, not {short(sentence)}")
        expression = Expression(
            id=checked_name(need(sentence, "sent_id", where), where, "sent_id"),
            text=checked_text(need(sentence, "sent", where), where),
            box=box,
            also=also,
            ref_id=checked_name(need(ref, "ref_id", where), where, "ref_id"),
            category=classes.copy().pop() if len(classes) == 1 else None,
            mask=mask,
        )
        yield scene_of_row(file, expression, width, height)
