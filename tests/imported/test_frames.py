"""Boxes in another coordinate frame than declared are refused with the frame in which they would be boxes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bench.datasets.split import Split
from bench.errors import DataError
from bench.grounding import Expression, Scene
from bench.imported.frames import FRAMES, to_pixels
from bench.imported.scoring import import_boxes

SIZES = ((640, 480), (480, 640), (500, 375), (640, 427))


def split(images=200, sized=True):
    """Two expressions an image, about boxes of all sizes, some of which touch the right or lower edge."""
    draw = np.random.default_rng(0)
    scenes = []
    for n in range(images):
        size = np.array(SIZES[n % len(SIZES)])
        corners = np.sort(np.round(draw.uniform(0, 1, (2, 2, 2)) * size), axis=1)
        corners[:, 1] = np.minimum(np.maximum(corners[:, 1], corners[:, 0] + 20), size)
        corners[:, 0] = np.minimum(corners[:, 0], corners[:, 1] - 15)
        if n % 10 < len(SIZES):
            corners[0, 1] = size
        expressions = tuple(Expression(f"{n}-{k}", "x", tuple(corners[k].ravel().tolist())) for k in range(2))
        scenes.append(Scene(f"p{n}", f"p{n}.jpg", *(size.tolist() if sized else (None, None)), expressions))
    return Split("mine-val", "Mine", tuple(scenes), SimpleNamespace())


def written(name, data):
    """The split's own boxes as a model would write them in a frame, by expression id: the frame's inverse."""
    boxes = {}
    for scene in data.scenes:
        size = np.array(SIZES[int(scene.id[1:]) % len(SIZES)], float)[None]
        layout, unit = FRAMES[name]
        scale, origin = unit(size) if unit else (np.ones((1, 2)), np.zeros((1, 2)))
        # A layout is linear, so its matrix is its answer to the unit vectors.
        back = np.linalg.inv(layout(np.eye(4)))
        for e in scene.expressions:
            corners = (np.array(e.box)[None] - np.tile(origin, 2)) / np.tile(scale, 2)
            boxes[e.id] = (corners @ back)[0].tolist()
    return boxes


def refused(tmp_path, data, boxes, **options):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(boxes))
    with pytest.raises(DataError) as caught:
        import_boxes(path, data, tmp_path / "results", **options)
    assert not (tmp_path / "results").exists() and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_and_its_inverse(name):
    data, sizes = split(20), np.repeat([SIZES[n % len(SIZES)] for n in range(20)], 2, axis=0).astype(float)
    pixels = to_pixels(name, np.array([*written(name, data).values()]), sizes)
    assert np.allclose(pixels, [e.box for scene in data.scenes for e in scene.expressions])


@pytest.mark.parametrize(("factor", "size", "resized"), [
    (28, (640, 480), (644, 476)),  # Qwen2.5-VL: multiples of 28
    (28, (6000, 4000), (4368, 2912)),  # at most 16,384 squares of 28 pixels
    (28, (40, 30), (84, 56)),  # at least 4
    (32, (640, 427), (640, 416)),
])  # fmt: skip
def test_resized_pixels_are_those_of_qwens_processor(factor, size, resized):
    box = to_pixels(f"resized pixels ({factor})", np.array([[0, 0, *resized]], float), np.array([size], float))
    assert np.allclose(box, [[0, 0, *size]])


@pytest.mark.parametrize(("name", "sized", "advice"), [
    ("pixels, x y w h", True, "pass --xywh"),
    ("pixels, x y w h", False, "pass --xywh"),
    ("pixels, y first", True, "'pixels, y first'"),
    ("0-1", True, "'0-1'"),
    ("0-1", False, "'0-1'"),
    ("0-1, x y w h", True, "'0-1, x y w h'"),
    ("0-1, centre and size", True, "'0-1, centre and size'"),
    ("0-1000", True, "'0-1000'"),
    ("0-1000", False, "'0-1000'"),
    ("0-999", True, "'0-999'"),
    ("0-1000, y first", True, "'0-1000, y first'"),
    ("padded square, 0-1000", True, "'padded square, 0-1000'"),
])  # fmt: skip
def test_boxes_in_another_frame_are_refused_with_it(tmp_path, name, sized, advice):
    data = split(sized=sized)
    message = refused(tmp_path, data, written(name, data))
    assert "They would be boxes as" in message and advice in message
    assert "of 400 boxes" in message and "Write null" in message


def test_plain_boxes_declared_xywh_are_refused(tmp_path):
    for sized in (True, False):
        data = split(sized=sized)
        assert "leave --xywh out" in refused(tmp_path, data, written("pixels", data), xywh=True)
    few = split(50, sized=False)  # nothing is known of sizes, and nothing is inverted
    (tmp_path / "few.json").write_text(json.dumps(written("pixels", few)))
    assert import_boxes(tmp_path / "few.json", few, tmp_path, xywh=True)[0].metrics.n == 100


def test_no_frame_is_named_where_none_fits(tmp_path):
    data = split()
    nonsense = {key: [9, 9, -3, 1e7] for key in written("pixels", data)}
    assert "No usual frame" in refused(tmp_path, data, nonsense)


def test_a_few_bad_boxes_are_misses(tmp_path):
    data = split()
    boxes = written("pixels", data)
    for key in [*boxes][:8]:  # 2 % of 400, as a chat model may answer
        boxes[key] = boxes[key][2:] + boxes[key][:2]
    boxes["199-1"] = [-30, -30, 500, 300]  # a little outside is no other frame
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(boxes))
    metrics = import_boxes(path, data, tmp_path)[0].metrics
    assert (metrics.n, metrics.no_box) == (400, 8) and metrics.hits >= 391
    more = tmp_path / "more"
    more.mkdir()
    boxes["8-0"] = boxes["8-0"][2:] + boxes["8-0"][:2]
    assert "9 of 400 boxes (2.2 %)" in refused(more, data, boxes)
