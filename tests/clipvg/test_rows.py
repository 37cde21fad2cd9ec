"""The rows of a training: each a pure function of seed, epoch and number; boxes that cannot be learned are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from training_world import IMAGES

from bench.datasets.readers.jsonl import read_jsonl
from bench.errors import DataError
from bench.grounding import Expression, Scene
from pipelines.augmentation import Augment
from pipelines.rows import collate

SAFE = Augment(crop="safe", blur_share=0.5, flip_share=0.5)


class Grey:
    """An ImageSource of grey images of one size."""

    def __init__(self, width, height):
        self.shape = (height, width, 3)

    def load(self, scene):
        return np.full(self.shape, 99, np.uint8)


def one(box, width=40, height=30):
    scene = Scene("s", "s.png", width, height, (Expression("s-0", "the star", (1.0, 1.0, 9.0, 9.0)),))
    odd = Expression("s-1", "the moon", box)
    return (replace(scene, expressions=(*scene.expressions, odd)),)


def as_parts(row):
    canvas, target, text = row
    return canvas.pixels.tobytes(), target.tobytes(), text


def test_a_row_depends_on_seed_epoch_and_number_alone(rows):
    mine = rows(SAFE)
    first = as_parts(mine.sample(1, 7))
    for row in (3, 0, 24):  # whatever was drawn before it
        mine.sample(0, row)
    assert as_parts(mine.sample(1, 7)) == first == as_parts(rows(SAFE).sample(1, 7))
    others = [as_parts(mine.sample(2, 7)), as_parts(mine.sample(1, 8)), as_parts(rows(SAFE, seed=1).sample(1, 7))]
    assert first[:2] not in [other[:2] for other in others]
    assert as_parts(rows().sample(0, 5)) == as_parts(rows().sample(9, 5)), "without augmentation epochs are alike"


@pytest.mark.parametrize(
    "box", [(40.0, 3.0, 55.0, 9.0), (-9.0, 3.0, 0.0, 9.0), (3.0, 30.0, 9.0, 31.0), (3.0, -5.0, 9.0, 0.0)]
)
@pytest.mark.parametrize("augment", [None, Augment(), SAFE])
def test_a_box_outside_its_image_is_refused(rows, box, augment):
    mine = rows(augment, scenes=one(box), images=Grey(40, 30))
    with pytest.raises(DataError, match="outside") as refused:
        mine.sample(0, 1)
    assert all(part in str(refused.value) for part in ("s-1", "s.png", f"{box[2]:g}", "40 x 30"))


def test_official_boxes_are_whole_pixels_clean_ones_are_not(rows):
    box = (3.7, 4.2, 20.9, 21.6)  # as x, y, width, height: 3.7, 4.2, 17.2, 17.4
    scenes, grey = one(box, 32, 32), Grey(32, 32)

    def corners(style, dataset):
        target = rows(scenes=scenes, images=grey, style=style, dataset=dataset).sample(0, 1)[1] * 32
        x, y, w, h = target.tolist()
        return [pytest.approx(v) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)]

    assert corners("clean", "refcoco") == list(box)
    assert corners("official", "refcoco") == [3, 4, 3 + 17, 4 + 17]
    assert corners("official", "referit") == [3, 4, 20, 21]  # corners, which are cut one by one


@pytest.mark.parametrize(
    ("form", "box", "width"), [("box_xyxy", [10.9, 20.9, 16.8, 26.8], 6), ("box_xywh", [10.9, 20.9, 5.9, 5.9], 5)]
)
def test_a_row_of_ones_own_is_cut_in_the_form_it_was_given_in(rows, tmp_path, form, box, width):
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"image": "a.png", "text": "it", form: box}) + "\n")
    own = rows(scenes=read_jsonl(file), images=Grey(32, 32), style="official", dataset="file")
    assert float(own.sample(0, 0)[1][2]) * 32 == pytest.approx(width)


def test_rows_of_an_image_are_drawn_together(rows):
    mine = rows(SAFE)
    places = [index for index, group in enumerate(mine.groups) if group in (0, 2)]
    together = mine.samples(1, places)
    canvases = {id(canvas): canvas for canvas, *_ in together}
    assert len(canvases) == 2 and [text for *_, text in together] != []
    # Whichever of them are drawn, and after whatever: a step may cut an image.
    for index, row in zip(places, together, strict=True):
        assert as_parts(mine.samples(1, [index])[0]) == as_parts(row)
    assert as_parts(mine.samples(2, places)[0]) != as_parts(together[0])
    plain = rows()
    assert [as_parts(row) for row in plain.samples(0, places)] == [as_parts(plain.sample(0, i)) for i in places]


def test_a_batch_has_a_shared_image_once(rows):
    mine = rows(SAFE)
    places = [index for index, group in enumerate(mine.groups) if group in (0, 2)]
    batch, alone = collate(mine.samples(0, places)), collate([mine.sample(0, index) for index in places])
    assert len(batch.images) == len(batch.edges) == 2 and len(batch.targets) == len(batch.texts) == len(places)
    assert batch.owners.tolist() == [int(mine.groups[index] == 2) for index in places]
    assert alone.owners is None and len(alone.images) == len(places)


def test_boxes_follow_an_image_that_a_cache_reduced(rows):
    """The same rows from images of half the size: boxes keep their place, and their integers are the whole image's."""

    class Halved:
        def load(self, scene):
            return IMAGES.load(scene)[::2, ::2]

    still = Augment(crop="off", jitter_share=0, translate=False, scales=(32,))
    for style in ("official", "clean"):
        whole, half = rows(still, style=style), rows(still, style=style, images=Halved())
        for index in range(0, len(whole), 5):
            (_, target, _), (_, other, _) = whole.sample(0, index), half.sample(0, index)
            assert np.abs(target - other).max() < 1e-2 and target[2] > 0.02
            together = half.samples(0, [index])[0]
            assert np.array_equal(together[1], other)


def test_nothing_to_train_on(rows):
    with pytest.raises(DataError, match="no expression"):
        rows(scenes=())
