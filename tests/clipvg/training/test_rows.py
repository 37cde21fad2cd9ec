"""The rows of a training: each a pure function of seed, epoch and number; boxes that cannot be learned are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.datasets.jsonl import read_jsonl
from bench.errors import DataError, PictureError
from bench.grounding import Expression, Scene
from pipelines.augmentation import Augment
from clipvg.training.order import Micro, Order
from clipvg.training.rows import drawn_ahead

SAFE = Augment(crop="safe", blur_share=0.5, flip_share=0.5)


class Grey:
    """A PictureSource of grey pictures of one size."""

    def __init__(self, width, height):
        self.shape = (height, width, 3)

    def load(self, scene):
        return np.full(self.shape, 99, np.uint8)


class Broken(Grey):
    def load(self, scene):
        raise PictureError(f"{scene.file}: broken or cut short")


def one(box, width=40, height=30):
    scene = Scene("s", "s.png", width, height, (Expression("s-0", "the star", (1.0, 1.0, 9.0, 9.0)),))
    odd = Expression("s-1", "the moon", box)
    return (replace(scene, expressions=(*scene.expressions, odd)),)


def as_parts(row):
    return row.canvas.pixels.tobytes(), row.target.tobytes(), row.text


def test_a_row_depends_on_seed_epoch_and_number_alone(rows):
    mine = rows(SAFE)
    first = as_parts(mine.draw(1, 7))
    for row in (3, 0, 24):  # whatever was drawn before it
        mine.draw(0, row)
    assert as_parts(mine.draw(1, 7)) == first == as_parts(rows(SAFE).draw(1, 7))
    others = [as_parts(mine.draw(2, 7)), as_parts(mine.draw(1, 8)), as_parts(rows(SAFE, seed=1).draw(1, 7))]
    assert first[:2] not in [other[:2] for other in others]


def test_without_augmentation_epochs_are_alike(rows):
    assert as_parts(rows().draw(0, 5)) == as_parts(rows().draw(9, 5))


def drawn(rows, workers, share=(0, 1)):
    order = Order(len(rows), 8, rows.seed)
    return list(drawn_ahead(rows, order, (1, 6), 3, share, workers, pinned=False))


def test_workers_change_nothing(rows):
    alone, helped = drawn(rows(SAFE), 0), drawn(rows(SAFE), 2)
    assert [d.micro for d in alone] == [d.micro for d in helped]
    assert {d.micro.epoch for d in alone} == {0, 1} and sum(len(d.texts) for d in alone) == 8 + 8 + 1 + 8 + 8
    for mine, theirs in zip(alone, helped, strict=True):
        assert mine.texts == theirs.texts
        assert all(torch.equal(getattr(mine, n), getattr(theirs, n)) for n in ("pixels", "edges", "targets"))


def test_shapes_of_a_forward_pass(rows):
    found = rows(SAFE).read(Micro(0, 0, (4, 9, 2), 8, last=True, counts=True))
    assert (found.pixels.dtype, found.pixels.shape) == (torch.uint8, (3, 32, 32, 3))
    assert (found.edges.shape, found.targets.shape, found.targets.dtype) == ((3, 4), (3, 4), torch.float32)
    assert len(found.texts) == 3 and found.error == ""
    assert ((found.targets[:, 2:] > 0) & (found.targets[:, 2:] <= 1)).all()


@pytest.mark.parametrize(
    "box", [(40.0, 3.0, 55.0, 9.0), (-9.0, 3.0, 0.0, 9.0), (3.0, 30.0, 9.0, 31.0), (3.0, -5.0, 9.0, 0.0)]
)
@pytest.mark.parametrize("augment", [None, Augment(), SAFE])
def test_a_box_outside_its_picture_is_refused(rows, box, augment):
    mine = rows(augment, scenes=one(box), pictures=Grey(40, 30))
    with pytest.raises(DataError, match="outside") as refused:
        mine.draw(0, 1)
    assert all(said in str(refused.value) for said in ("s-1", "s.png", f"{box[2]:g}", "40 x 30"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_keeps_its_kind_on_its_way_out_of_a_worker(rows, workers):
    mine = rows(SAFE, scenes=one((99.0, 1.0, 120.0, 9.0)), pictures=Grey(40, 30))
    with pytest.raises(DataError, match="s-1") as refused:
        drawn(mine, workers)
    assert "Traceback" not in str(refused.value)
    with pytest.raises(DataError, match=r"^s\.png: broken or cut short$"):
        drawn(rows(SAFE, scenes=one((1.0, 1.0, 2.0, 2.0)), pictures=Broken(1, 1)), workers)


def test_official_boxes_are_whole_pixels_clean_ones_are_not(rows):
    box = (3.7, 4.2, 20.9, 21.6)  # as x, y, width, height: 3.7, 4.2, 17.2, 17.4
    scenes, grey = one(box, 32, 32), Grey(32, 32)

    def corners(style, dataset):
        target = rows(scenes=scenes, pictures=grey, style=style, dataset=dataset).draw(0, 1).target * 32
        x, y, w, h = target.tolist()
        return [pytest.approx(v) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)]

    assert corners("clean", "refcoco") == list(box)
    assert corners("official", "refcoco") == [3, 4, 3 + 17, 4 + 17]
    assert corners("official", "referit") == [3, 4, 20, 21]  # held as corners, which are cut one by one


@pytest.mark.parametrize(
    ("form", "box", "width"), [("box_xyxy", [10.9, 20.9, 16.8, 26.8], 6), ("box_xywh", [10.9, 20.9, 5.9, 5.9], 5)]
)
def test_a_row_of_ones_own_is_cut_in_the_form_it_was_given_in(rows, tmp_path, form, box, width):
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"image": "a.png", "text": "it", form: box}) + "\n")
    own = rows(scenes=read_jsonl(file), pictures=Grey(32, 32), style="official", dataset="file")
    assert float(own.draw(0, 0).target[2]) * 32 == pytest.approx(width)


def test_nothing_to_train_on(rows):
    with pytest.raises(DataError, match="no expression"):
        rows(scenes=())
