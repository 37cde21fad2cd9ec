"""Runs written by hand for the leaderboard: five images, one expression each."""

import json
from types import SimpleNamespace

import pytest

from bench.datasets.split import Split
from bench.grounding import Expression, Scene
from bench.imported.scoring import import_boxes
from bench.runs.numbers import Throughput
from bench.runs.record import signature
from bench.runs.store import write_record

BOX = (0.0, 0.0, 40.0, 40.0)
PEAKS = {"peak_memory_mb": 1, "device_memory_mb": 1, "load_seconds": 1}
SPEED = Throughput(seconds=0.04, images_per_s=12.345, expressions_per_s=123.4, stages={}, **PEAKS)


def make_split(name="mine-val", text="the man", images=5):
    scenes = tuple(Scene(f"p{n}", f"p{n}.jpg", 100, 100, (Expression(f"e{n}", text, BOX),)) for n in range(images))
    return Split(name, "Mine", scenes, SimpleNamespace())


@pytest.fixture
def split():
    """split(name, text, images): a split of one expression an image."""
    return make_split


@pytest.fixture
def store(tmp_path):
    """Writes a run with `hits` hits; further words change its record."""

    def write(name="a", hits=3, on=None, protocol="iou", data=None, **changes):
        on = on or make_split()
        rows = {f"e{n}": [0, 0, 40, 40 if n < hits else 4] for n in range(5)}
        file = tmp_path / "boxes.json"
        file.write_text(json.dumps(rows))
        record, folder = import_boxes(file, on, tmp_path, name=name, protocol=protocol)
        identity = record.identity.model_copy(update={"device": "cuda:0"} | changes.pop("identity", {}))
        if data:
            identity = identity.model_copy(update={"data": identity.data.model_copy(update=data)})
            changes["signature"] = signature(protocol, identity.data)
        fields = {
            "git": {"commit": "0123456789abcdef", "dirty": False}, "finished": "2026-01-02T03:04:05+00:00",
            "provenance": "run", "imported": None, "card": {"saw_test_images": "no"},
            "environment": {"gpu": {"name": "NVIDIA H200"}}, "throughput": SPEED,
        }  # fmt: skip
        fields["started"] = changes.get("finished", fields["finished"])
        write_record(folder, record.model_copy(update=fields | {"identity": identity} | changes))
        return folder.relative_to(tmp_path).as_posix()

    return write
