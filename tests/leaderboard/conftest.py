"""A split of people's own, and runs of it made elsewhere."""

import json
from pathlib import Path

import pytest
from edited_records import edited
from submissions import SIZE, unpacked

from bench.datasets.load import load_split
from bench.imported.scoring import import_boxes
from bench.settings import load_settings


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A split of 6 images with 12 expressions, as a file, and nothing else."""
    monkeypatch.chdir(tmp_path)
    lines = [
        {"image": f"p{n % 6}.jpg", "text": "man on the left", "box_xyxy": [0, 0, 40, 40], "id": f"e{n}", **SIZE}
        for n in range(12)
    ]
    Path("mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def theirs(world):
    """theirs(hits, packed, **changes): a run made elsewhere, in JSON Lines unless packed.

    Further words change its run.json, dotted as `metrics__hits`."""

    def make(hits=7, called="theirs", packed=False, **changes):
        boxes = {f"e{n}": [0, 0, 40, 40 if n < hits else 10] for n in range(12)}
        Path("boxes.json").write_text(json.dumps(boxes))
        split = load_split("file:mine.jsonl", load_settings())
        _, folder = import_boxes(Path("boxes.json"), split, world / "elsewhere", name=called)
        folder = folder if packed else unpacked(folder)
        return edited(folder, **{"git": {"commit": "0123456789abcdef", "dirty": False}, **changes})

    return make
