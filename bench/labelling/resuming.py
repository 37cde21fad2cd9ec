"""Labels stored as they come, in a hidden file beside `--out`, so that a command that is killed makes none twice.

    .OUT.resume    {"key": "1f0c..."}, then a line a label: {"scene", "text", "box_xyxy", "provenance"}

The key is of all that labels depend on; a file of another key is made anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from bench.grounding import Scene
from bench.labelling import PseudoLabel
from bench.runs.files import Appender, explained


def resume_path(out: Path) -> Path:
    """Name the file of the labels that are made for `out`."""
    return out.with_name(f".{out.name}.resume")


def stored_until(path: Path, key: str, scenes: Sequence[Scene]) -> tuple[int, int]:
    """Return the scene to continue with, and the bytes of the labels before it; (0, 0) to begin anew.

    It is the last scene that has a label, for it may lack some: a source has something about the first of its scenes
    then, as it would about all of them, where its files know only a part.
    """
    places = {scene.id: place for place, scene in enumerate(scenes)}
    start = size = at = 0
    with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:  # up to what is damaged
        for line in file:
            row = json.loads(line)
            if at == 0 and row["key"] != key:
                break
            if at and ((place := places[row["scene"]]) > start or not size):
                start, size = place, at
            at += len(line)
    return start, size


def stored_labels(path: Path, size: int, scenes: Sequence[Scene]) -> Iterator[PseudoLabel]:
    """Yield the labels in the first `size` bytes of a file."""
    if not size:
        return
    by_id = {scene.id: scene for scene in scenes}
    with path.open("rb") as file:
        file.readline()  # the key
        while file.tell() < size:
            row = json.loads(file.readline())
            x1, y1, x2, y2 = row["box_xyxy"]
            yield PseudoLabel(by_id[row["scene"]], row["text"], (x1, y1, x2, y2), row["provenance"])


def stored(path: Path, key: str, size: int, labels: Iterable[PseudoLabel]) -> Iterator[PseudoLabel]:
    """Yield labels, and store each after the first `size` bytes of a file once it was taken. Raises RunError."""
    with ExitStack() as closing:
        file: Appender | None = None
        for label in labels:
            yield label
            if file is None:  # a command that makes no label leaves no file
                with explained(path), suppress(FileNotFoundError):
                    os.truncate(path, size)
                file = closing.enter_context(Appender(path))
                file.write("" if size else json.dumps({"key": key}) + "\n")
            box = list(map(float, label.box))
            row = {"scene": label.scene.id, "text": label.text, "box_xyxy": box, "provenance": label.provenance}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
