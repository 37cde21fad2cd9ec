"""Captions that were written elsewhere: one for each image.

    captions.jsonl            {"image": "COCO_train2014_000000581857.jpg", "caption": "a man on a horse"}
    *_caption_data.json       [{"image_id": 581857, "image_file": "COCO_...jpg", "captions": "a man on a horse"}, ...]
    *_caption_data.pth        the same list, torch-saved, as CLIPCap's captions of the CLIP-VG family are

`captions` may be a list, of which the first is taken. An image goes by its file's name without folders, or else by its
number: 581857 and COCO_train2014_000000581857.jpg are one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.datasets.fingerprint import image_key
from bench.datasets.readers.rows import checked_text
from bench.errors import DataError
from clipvg.pseudo_labels.given_files import json_rows, listed, load_plain, short

EXPECTED = '{"image": "a.jpg", "caption": "a man on a horse"}'
FILE_KEYS, TEXT_KEYS = ("image", "image_file", "image_id"), ("caption", "captions")


def read_captions(path: Path) -> dict[str, str]:
    """Image key -> its caption. Raises DataError naming the file and the row: it lacks an image or a caption, or
    its image has one already. Nothing in a torch-saved file is executed.
    """
    out: dict[str, str] = {}
    first: dict[str, str] = {}
    for where, row in _rows(path):
        if not isinstance(row, dict):
            raise DataError(f"{where}: {short(row)}; expected an object such as {EXPECTED}")
        key = _image(row, where)
        if key in out:
            raise DataError(f"{where}: image {key} has a caption already, in {first[key]}; one caption an image")
        out[key], first[key] = _caption(row, where), where
    if not out:
        raise DataError(f"{path}: it holds no captions; expected rows such as {EXPECTED}")
    return out


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix in (".json", ".jsonl"):
        return json_rows(path, "row", EXPECTED)
    return listed(path, load_plain(path, "list of plain values", []), "row", EXPECTED)


def _image(row: dict[str, Any], where: str) -> str:
    named = next((row[key] for key in FILE_KEYS if row.get(key) is not None), None)
    if isinstance(named, bool) or not isinstance(named, (str, int)) or not str(named).strip():
        raise DataError(f"{where}: it names no image; expected one of the keys {', '.join(FILE_KEYS)}")
    return image_key(str(named))


def _caption(row: dict[str, Any], where: str) -> str:
    said = next((row[key] for key in TEXT_KEYS if row.get(key) is not None), None)
    if isinstance(said, (list, tuple)) and said:
        said = said[0]
    if said is None or isinstance(said, (list, tuple)):
        raise DataError(f"{where}: it has no caption; expected one of the keys {', '.join(TEXT_KEYS)}")
    return " ".join(checked_text(said, where).split())
