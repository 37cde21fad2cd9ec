"""Small images: their size, and what becomes of those that cannot be read."""

import io

import numpy as np
import pytest
from PIL import Image
from report_world import WIDTH, Images, make_split

from bench.errors import UsageError
from bench.grounding import Scene
from bench.reporting.report import thumbnails as room
from bench.reporting.report.thumbnails import thumbnails


class Noise:
    """Images that no codec makes small."""

    def __init__(self, width, height):
        self.shape = (height, width, 3)

    def load(self, scene):
        return np.random.default_rng(int(scene.id)).integers(0, 256, self.shape, np.uint8)


def opened(thumbnail):
    return Image.open(io.BytesIO(thumbnail[2]))


def scenes(n):
    return [Scene(str(i), f"{i}.png", None, None, ()) for i in range(n)]


def test_the_longer_side_is_as_requested_and_never_enlarged():
    for images, pixels, size, thumb in (
        (Noise(300, 200), 150, (300, 200), (150, 100)),
        (Images(), None, (96, 64), (96, 64)),
    ):
        made, side = thumbnails(scenes(2), images, pixels)
        assert side == pixels or max(room.SIZES)
        assert [opened(each).size for each in made] == [thumb] * 2
        assert all(each[:2] == size for each in made)


@pytest.mark.slow
def test_a_size_is_chosen_that_leaves_room(monkeypatch):
    monkeypatch.setattr(room, "ROOM", 400_000)
    made, pixels = thumbnails(scenes(12), Noise(500, 500))
    assert pixels in room.SIZES[1:] and sum(len(jpeg) for *_, jpeg in made) <= 400_000 * 1.05
    larger = room.SIZES[room.SIZES.index(pixels) - 1]
    more, _ = thumbnails(scenes(12), Noise(500, 500), larger)
    assert sum(len(jpeg) for *_, jpeg in more) > 400_000 * 0.95


def test_an_image_that_cannot_be_read_says_why():
    split = make_split(3)
    made, _ = thumbnails(split.scenes, Images(gone=[split.scenes[1].file]))
    assert [isinstance(each[2], str) for each in made] == [False, True, False]
    assert "no such image" in made[1][2] and made[1][:2] == (WIDTH, 64)
    made, _ = thumbnails(split.scenes, Images(gone=[scene.file for scene in split.scenes]))
    assert all(isinstance(why, str) and why for *_, why in made)


@pytest.mark.parametrize("pixels", [0, 10, 5000])
def test_sizes_that_make_no_sense(pixels):
    with pytest.raises(UsageError, match=f"--thumbnail {pixels}"):
        thumbnails(scenes(1), Noise(9, 9), pixels)
