"""Files of detections, scene graphs and captions by other programs: find, parse and match them with a job's images.

    captions.jsonl            {"image": "COCO_train2014_000000581857.jpg", "caption": "a man on a horse"}
    *_caption_data.json       [{"image_id": 581857, "image_file": "COCO_...jpg", "captions": "a man on a horse"}, ...]
    *_caption_data.pth        the same list, torch-saved, as CLIPCap's captions of the CLIP-VG family are

`captions` may be a list, of which the first is used. An image goes by its file's name without folders, or else by its
number: 581857 and COCO_train2014_000000581857.jpg are one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from bench import hashing
from bench.boxes import clip_xyxy
from bench.datasets.fingerprint import image_key
from bench.datasets.readers.rows import checked_name, checked_text
from bench.datasets.torch_files import load_torch
from bench.errors import DataError, ImageError, short
from bench.grounding import Box, PipelineContext, Scene
from bench.inputs import load_bytes, parsed_json
from bench.labelling import LabelJob

log = logging.getLogger("bench.label")
NAMED = 3  # images named in a message
CAPTION = '{"image": "a.jpg", "caption": "a man on a horse"}'
IMAGE_KEYS, TEXT_KEYS = ("image", "image_file", "image_id"), ("caption", "captions")


def find_file(name: str, context: PipelineContext, where: str) -> Path:
    """Find the file an option names, {dataset} in it standing for the data set. Raises DataError with the places."""
    name = name.replace("{dataset}", context.dataset)
    path = hashing.find_file(name, context)
    if path is None:
        raise DataError(f"{where}: there is no file {name!r} (looked at {hashing.looked_at(name, context)})")
    return path


def read_captions(path: Path) -> dict[str, str]:
    """Read image key -> its caption; nothing in a torch-saved file is executed.

    Raises DataError naming the file and the row: it lacks an image or a caption, or its image has one already.
    """
    captions: dict[str, str] = {}
    first: dict[str, str] = {}
    if path.suffix in (".json", ".jsonl"):
        rows = json_rows(path, "row", CAPTION)
    else:
        rows = listed(path, load_torch(path), "row", CAPTION)
    for where, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{where}: {short(row)}; expected an object such as {CAPTION}")
        # 1. The image.
        name = next((row[key] for key in IMAGE_KEYS if row.get(key) is not None), None)
        if name is None:
            raise DataError(f"{where}: it names no image; expected one of the keys {', '.join(IMAGE_KEYS)}")
        key = image_key(checked_name(name, where, "image"))
        if key in captions:
            raise DataError(f"{where}: image {key} has a caption already, in {first[key]}; one caption an image")
        # 2. Its caption.
        text = next((row[key] for key in TEXT_KEYS if row.get(key) is not None), None)
        text = text[0] if isinstance(text, (list, tuple)) and text else text
        if text is None or isinstance(text, (list, tuple)):
            raise DataError(f"{where}: it has no caption; expected one of the keys {', '.join(TEXT_KEYS)}")
        captions[key], first[key] = " ".join(checked_text(text, where).split()), where
    if not captions:
        raise DataError(f"{path}: it holds no captions; expected rows such as {CAPTION}")
    return captions


def json_rows(path: Path, row: str, expected: str) -> Iterator[tuple[str, Any]]:
    """Parse the lines of a .jsonl, else the list in a .json -> (where it stands, value) of each `row`.

    Raises DataError: not readable, not JSON, no list of `expected`.
    """
    data = load_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if path.suffix == ".jsonl":
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                where = f"{path}: line {number}"
                yield where, parsed_json(line, where)
    else:
        yield from listed(path, parsed_json(data, str(path)), row, expected)


def listed(path: Path, value: Any, row: str, expected: str) -> Iterator[tuple[str, Any]]:
    """Number the rows of a list, as `json_rows` does. Raises DataError for anything else."""
    if not isinstance(value, list):
        raise DataError(f"{path}: holds a {type(value).__name__}; expected a list of rows such as {expected}")
    yield from ((f"{path}: {row} {number}", each) for number, each in enumerate(value))


def known_scenes(job: LabelJob, name: str, keys: Collection[str], lacks: str = "has nothing about") -> list[Scene]:
    """Return the scenes of the job whose image key is in `keys`; the log counts the others.

    `name` and `lacks` start the messages. Raises DataError where it is none of them.
    """
    known = [scene for scene in job.scenes if image_key(scene.file) in keys]
    absent = [scene.file for scene in job.scenes if image_key(scene.file) not in keys]
    if absent and not known:
        raise DataError(
            f"{name}: {lacks} any of the {len(absent):,} images, such as {absent[0]}; it names "
            f"{', '.join(list(keys)[:NAMED])}, ... Is it of another data set?"
        )
    if absent:
        some = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
        log.warning("%s: %s %d of %d images: %s", name, lacks, len(absent), len(job.scenes), some)
    return known


def inside_image(job: LabelJob, scene: Scene, box: Box, where: str) -> Box | None:
    """Clip a box to its image, whose size is looked up where it is not annotated.

    None where the image cannot be read, which the log says. Raises DataError, starting with `where`, for a box that
    misses its image.
    """
    width, height = scene.width, scene.height
    if width is None or height is None:
        try:
            height, width = job.images.load(scene).shape[:2]
        except ImageError as error:
            log.warning("no label: %s", error)
            return None
    x1, y1, x2, y2 = clip_xyxy(box, width, height).tolist()
    if x2 <= x1 or y2 <= y1:
        raise DataError(
            f"{where}: the box {', '.join(f'{v:g}' for v in box)} (left, top, right, bottom) lies outside the image "
            f"{scene.file} of {width} x {height} pixels; correct or drop the row"
        )
    return (x1, y1, x2, y2)
