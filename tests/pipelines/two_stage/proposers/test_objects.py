"""What a detector's training gets: boxes that stay on their objects, mirrored by the seed alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.datasets.shapes import make_scene
from bench.errors import DataError
from bench.grounding import SceneObject
from pipelines.two_stage.proposers.objects import (
    class_names,
    collate,
    object_dataset,
    referent,
    scene_descriptions,
    scene_objects,
)

NAMES = ["circle", "cross", "heart", "moon", "ring", "square", "star", "triangle"]
side = st.floats(0, 0.45)


def whole(image):
    """The image as it is, (3, H, W)."""
    return torch.tensor(image).permute(2, 0, 1)


class OneImage:
    """A source of one image, with one object."""

    def __init__(self, image):
        self.image = image

    def load(self, scene):
        return self.image


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(side, side, side, side))
def test_a_mirrored_image_takes_its_boxes_along(job, corners):
    """A box is painted; wherever the image goes, the paint is where the box says."""
    x, y, w, h = corners
    left, top, right, bottom = (round(40 * v) for v in (x, y, x + w + 0.1, y + h + 0.1))
    painted = np.zeros((40, 40, 3), np.uint8)
    painted[top:bottom, left:right] = 200
    mine = job("ssd-clip", images=OneImage(painted))
    box = (left, top, right, bottom)
    scenes = [replace(scene, objects=(SceneObject("thing", box),)) for scene in mine.scenes]
    data = object_dataset(replace(mine, scenes=scenes), ["thing"], whole)
    mirrored = 0
    for epoch in range(8):
        pixels, boxes, labels = data.sample(epoch, 0)
        rows, columns = torch.nonzero(pixels[0], as_tuple=True)
        edges = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        assert torch.allclose(edges, boxes[0].float() * 40, atol=1e-3) and labels.tolist() == [0]
        mirrored += not torch.equal(pixels, whole(painted))
    assert mirrored < 8


def test_a_sample_depends_on_seed_epoch_and_index_alone(job):
    def flips(seed, keep=False):
        data = object_dataset(job("ssd-clip", seed=seed), NAMES, lambda p: whole(p)[:, :32, :32], in_memory=keep)
        return torch.stack([data.sample(epoch, index)[0] for index in (3, 0, 3) for epoch in (1, 0)])

    first = flips(1)
    assert torch.equal(first, flips(1, keep=True)) and not torch.equal(first, flips(2))
    assert not torch.equal(first[0], first[2]) and torch.equal(first[0], first[4])  # the same of index 3


def test_images_of_several_sizes_are_padded(job):
    small, large = torch.full((3, 4, 6), 9, dtype=torch.uint8), torch.full((3, 5, 2), 7, dtype=torch.uint8)
    boxes, labels = torch.zeros(1, 4), torch.zeros(1, dtype=torch.long)
    batch = collate([(small, boxes, labels), (large, boxes, labels)])
    assert batch.pixels.shape == (2, 3, 5, 6) and batch.mask.sum(dim=(1, 2)).tolist() == [24, 10]
    assert (batch.pixels[:, 0] * (1 - batch.mask) == 0).all() and batch.pixels[1, 0, 4, 1] == 7
    assert collate([(small, boxes, labels)]).pixels.shape[0] == 2  # a lone image twice, for batch normalisation


def test_every_object_of_a_scene_is_there(job):
    data = object_dataset(job("ssd-clip"), NAMES, whole, mirror=False)
    for index, scene in enumerate(data.scenes[:3]):
        _, boxes, labels = data.sample(0, index)
        known = [(one.category, one.box) for one in scene.objects]
        size = np.array([scene.width, scene.height] * 2)
        assert np.allclose(boxes.numpy() * size, [box for _, box in known], atol=1e-3)
        assert [NAMES[int(i)] for i in labels] == [name for name, _ in known]
        assert len(scene_descriptions(scene)) == len(known)


def test_a_split_that_knows_no_objects_lends_the_referred_ones(caplog):
    scene = replace(make_scene(2026, "val", 0), objects=())
    assert {box for _, box in scene_objects(scene)} == {e.box for e in scene.expressions}
    assert scene_descriptions(scene) == []
    with caplog.at_level("WARNING", "bench.train"):
        class_names([scene])
    assert "only the referred objects" in caplog.text


def test_mistakes_are_named():
    with pytest.raises(DataError, match="no object"):
        class_names([])
    with pytest.raises(DataError, match=r"val-000000\.png, expression val-000000-0: its box .* no annotated object"):
        referent(make_scene(2026, "val", 0), 0, [(0.0, 0.0, 1.0, 1.0)])
