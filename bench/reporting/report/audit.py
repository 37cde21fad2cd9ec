"""Write the page of an audit: one doubtful label at a time, which a person accepts or rejects by a key."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.audit.doubts import AGREE, Audit
from bench.audit.flags import FORMAT, VERSION
from bench.errors import UsageError
from bench.reporting.report.page import TEMPLATES, as_json, policy
from bench.reporting.report.thumbnails import thumbnails
from bench.runs.files import make_folder, write_atomically

COLOURS = 6  # of runs, in base.css


def write_page(made: Audit, out: Path, pixels: int | None = None) -> int:
    """Write the page of all doubtful expressions; returns the number of images that cannot be drawn.

    Raises UsageError where no label is doubtful, RunError where `out` cannot be written.
    """
    if not len(made.doubtful):
        raise UsageError("no label is doubtful, so there is nothing to review; leave --out out")
    places = sorted(set(made.known.image[made.doubtful].tolist()))
    scenes = [made.split.scenes[place] for place in places]
    small, _ = thumbnails(scenes, made.split.images, pixels)
    sizes = [
        (width, height) if width and height else _extent(made, place)
        for place, (width, height, _) in zip(places, small, strict=True)
    ]
    counts = made.counts()
    data = {
        "format": FORMAT,
        "version": VERSION,
        "split": made.split.name,
        "fingerprint": made.split.fingerprint,
        "images": ["" if isinstance(jpeg, str) else base64.b64encode(jpeg).decode() for *_, jpeg in small],
        "items": [_item(made, place, places.index(made.known.image[place]), sizes) for place in made.doubtful.tolist()],
    }
    lede = (
        f"{counts['doubtful']:,} of {counts['expressions']:,} expressions: {counts['runs_agree']:,} on which "
        f"{len(made.runs)} runs miss and agree with one another (IoU of at least {AGREE}), {counts['same_text']:,} "
        "whose words have another box on the same image. The flags are saved as a file for bench score --flags."
    )
    style, script = (
        (_read("base.css") + _read("audit.css")),
        '"use strict";\n(() => {\n' + _read("audit.js") + "})();\n",
    )
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("audit.html.j2").render(
        split=made.split.name,
        lede=lede,
        policy=policy(style, script),
        style=Markup(style),  # ours: nothing of the data is in it
        script=Markup(script),
        data=as_json(data),
    )
    make_folder(out.absolute().parent)
    write_atomically(out, page.encode("utf-8", "replace"))
    return sum(isinstance(jpeg, str) for *_, jpeg in small)


def _item(made: Audit, place: int, image: int, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Lay out an expression: its words, why it is doubtful, and all boxes with their labels."""
    known = made.known
    why = []
    if made.agreed[place]:
        why.append("all runs miss, and mean the same place")
    if made.same_text[place]:
        why.append("the same words have another box on this image")
    boxes: list[tuple[str, str, list[float] | None]] = [
        ("truth", "annotated", box) for box in _plain(known.targets[known.owner == place])
    ]
    if made.other[place] >= 0:
        text = known.texts[made.other[place]]
        boxes += [("other", f"annotated as “{text}”", box) for box in _plain(known.boxes[[made.other[place]]])]
    for number, run in enumerate(made.runs):
        box = made.boxes[number, place]
        own = _plain(box[None])[0] if np.isfinite(box).all() else None
        boxes.append((f"c{number % COLOURS}", run.name, own))
    ids = list(known.position)
    return {"id": ids[place], "text": known.texts[place], "why": "; ".join(why), "image": image,
            "size": sizes[image], "boxes": boxes}  # fmt: skip


def _plain(boxes: np.ndarray[Any, Any]) -> list[list[float]]:
    return [[round(side, 1) for side in box] for box in boxes.tolist()]


def _extent(made: Audit, image: int) -> tuple[int, int]:
    """Return a frame around all annotated boxes of an image whose size is unknown."""
    corners = made.known.targets[made.known.image[made.known.owner] == image, 2:]
    width, height = np.ceil(corners.max(axis=0)) if len(corners) else (1, 1)
    return int(max(1, width)), int(max(1, height))


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
