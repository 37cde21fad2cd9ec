"""YOLO proposals: of a picture whatever its neighbours, in the pixels of the original, as the package's own."""

import json

import numpy as np
import pytest
from PIL import Image

from bench.boxes import iou_pairwise
from pipelines.proposers.yolo import YoloOptions, YoloProposer

TINY = {"weights": "pipelines/weights/tiny-yolo.safetensors", "image_size": 192}


def test_neighbours_do_not_matter(context, loaded):
    _, seen = loaded
    proposer = YoloProposer(YoloOptions(**TINY), context())
    together = proposer.propose([s.picture for s in seen])
    for scene, mine in zip(seen, together, strict=True):
        (alone,) = proposer.propose([scene.picture])
        assert np.allclose(mine.boxes, alone.boxes, atol=1e-3) and mine.labels == alone.labels


def test_nearly_every_object_is_found(context, loaded):
    scenes, seen = loaded
    proposer = YoloProposer(YoloOptions(**TINY, whole_picture=False), context())
    found = [
        iou_pairwise([e.box for e in scene.expressions], mine.boxes).max(1) >= 0.5
        for scene, mine in zip(scenes, proposer.propose([s.picture for s in seen]), strict=True)
    ]
    assert np.concatenate(found).mean() > 0.95


@pytest.mark.parametrize("shape", [(1, 1), (10, 400), (400, 10), (33, 47)])
def test_pictures_of_any_shape(context, shape):
    proposer = YoloProposer(YoloOptions(**TINY), context())
    (found,) = proposer.propose([np.zeros((*shape, 3), np.uint8)])
    height, width = shape
    assert found.boxes[-1].tolist() == [0, 0, width, height]
    assert (found.boxes <= [width, height, width, height]).all()


def test_real_pictures_with_a_real_detector(context, shared):
    """The package's own boxes on real pictures, and most of the real referents among them."""
    from ultralytics import YOLO

    weights = shared / "weights" / "yolov8n.pt"
    if not weights.is_file():
        pytest.skip("no real detector beside this checkout")
    rows = [json.loads(line) for line in (shared / "pictures" / "expressions.jsonl").read_text().splitlines()]
    names = sorted({row["image"] for row in rows})
    pictures = [np.asarray(Image.open(shared / "pictures" / name).convert("RGB")) for name in names]
    proposer = YoloProposer(YoloOptions(weights=str(weights), whole_picture=False), context())
    ours = dict(zip(names, proposer.propose(pictures), strict=True))
    package = YOLO(weights)
    for name, picture in zip(names, pictures, strict=True):
        theirs = package.predict(picture[..., ::-1], conf=0.1, iou=0.6, agnostic_nms=True, verbose=False)[0].boxes
        assert len(theirs) == len(ours[name])
        # They resize with OpenCV in 8 bits, we with torch in floats.
        assert iou_pairwise(ours[name].boxes, theirs.xyxy.numpy()).max(1).min() > 0.93
    found = [iou_pairwise([r["box_xyxy"]], ours[r["image"]].boxes).max() >= 0.5 for r in rows]
    assert np.mean(found) >= 0.85
