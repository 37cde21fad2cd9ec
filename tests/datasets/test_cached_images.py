"""Images decoded once, as long as there is room."""

import numpy as np
import pytest

from bench.datasets.images import CachedImages
from bench.grounding import Scene


class Counted:
    def __init__(self):
        self.loaded = []

    def load(self, scene):
        self.loaded.append(scene.file)
        return np.full((4, 4, 3), len(self.loaded), np.uint8)

    def missing(self, scenes):
        return ["gone.png"]


SCENES = [Scene(name, f"{name}.png", 4, 4, ()) for name in "abc"]


def test_a_image_is_decoded_once_and_nobody_writes_into_it():
    source = Counted()
    images = CachedImages(source)
    first = images.load(SCENES[0])
    assert images.load(SCENES[0]) is first and source.loaded == ["a.png"]
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 7
    assert images.missing(SCENES) == ["gone.png"]


def test_what_has_no_room_is_decoded_again():
    source = Counted()
    images = CachedImages(source, most=2 * 48)
    for _ in range(2):
        for scene in SCENES:
            images.load(scene)
    assert source.loaded == ["a.png", "b.png", "c.png", "c.png"]
