"""What a detector's training sees: boxes that stay on their things, and batches that the seed decides."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.shapes import ShapesPictures, make_scene
from bench.errors import DataError
from pipelines.training.objects import Objects, class_names, gather, scene_objects
from pipelines.training.ssd import squashed

side = st.floats(0, 0.45)


@settings(max_examples=20)
@given(st.lists(st.tuples(side, side, side, side), min_size=1, max_size=6), st.integers(0, 99))
def test_a_mirrored_picture_takes_its_boxes_along(corners, seed):
    """Every box is painted in a tone of its own; wherever the picture goes, the tone is where the box says."""
    size = 40
    boxes = torch.tensor([[x, y, x + w + 0.1, y + h + 0.1] for x, y, w, h in corners])
    painted = torch.zeros(len(boxes), 3, size, size, dtype=torch.uint8)
    for number, (x1, y1, x2, y2) in enumerate((boxes * size).round().int().tolist()):
        painted[number, :, y1:y2, x1:x2] = 200
    objects = Objects(painted, [b[None] for b in boxes], [torch.tensor([n]) for n in range(len(boxes))], ["thing"])
    seen = []
    for pictures, found, labels in objects.batches(3, 2, torch.Generator().manual_seed(seed)):
        for picture, box, label in zip(pictures, found, labels, strict=True):
            rows, columns = torch.nonzero(picture[0], as_tuple=True)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.allclose(np.array(edges, float), box[0].numpy() * size, atol=0.51)
            seen.append(int(label))
    assert len(seen) == min(2, len(boxes)) * objects.steps(3, 2)
    assert torch.equal(objects.boxes[0], boxes[:1])  # the originals are not turned


def test_the_seed_decides(loaded):
    scenes = loaded[0]
    objects = gather(scenes, ShapesPictures(2026), lambda picture: squashed(picture, 32))
    one, same, other = (
        torch.cat([p for p, _, _ in objects.batches(1, 4, torch.Generator().manual_seed(seed))]) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_every_thing_of_a_scene_is_there(loaded):
    scenes = loaded[0][:3]
    objects = gather(scenes, ShapesPictures(2026), lambda picture: squashed(picture, 32))
    for scene, boxes, labels in zip(scenes, objects.boxes, objects.labels, strict=True):
        size = np.array([scene.width, scene.height] * 2)
        assert np.allclose(boxes.numpy() * size, [each.box for each in scene.objects], atol=1e-3)
        assert [objects.names[int(i)] for i in labels] == [each.category for each in scene.objects]


def test_a_source_that_knows_no_objects_lends_the_referred_ones():
    scene = replace(make_scene(2026, "val", 0), objects=())
    assert {box for _, box in scene_objects(scene, object())} == {e.box for e in scene.expressions}


def test_nothing_to_learn_from_is_said():
    with pytest.raises(DataError, match="no object"):
        class_names([[], []])
