"""YOLO proposals: of an image whatever its neighbours, in the pixels of the original, as the package's own."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.boxes import iou_pairwise
from bench.grounding import LoadedScene
from pipelines.two_stage.proposers.yolo import YoloOptions, YoloProposer, decode_in_float32, read_model

pytestmark = pytest.mark.slow

TINY = {"weights": "pipelines/weights/tiny-yolo.safetensors", "image_size": 192}


def test_pillow_stays_as_it_was(context):
    YoloProposer(YoloOptions(**TINY), context())
    assert Image.open.__module__ == "PIL.Image"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["yolov8n", "yolo11n", "yolo26n"])
def test_published_formats_load_without_running_anything(context, tmp_path, family, loaded):
    """Checkpoints as ultralytics writes them, with random weights: with and without a head that needs no NMS."""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel(f"{family}.yaml", ch=3, nc=80, verbose=False)
    torch.save({"epoch": -1, "model": None, "ema": model.half(), "train_args": {}}, tmp_path / f"{family}.pt")
    options = YoloOptions(weights=str(tmp_path / f"{family}.pt"), image_size=160, confidence=0.0, top_k=5)
    proposer = YoloProposer(options, context())
    scenes = loaded[1][:3]
    results = proposer.propose(scenes)
    assert all(2 <= len(p) <= 6 and np.isfinite(p.boxes).all() for p in results)
    assert proposer.parameters == sum(p.numel() for p in model.parameters())
    for alone, together in zip((proposer.propose([s])[0] for s in scenes), results, strict=True):
        assert np.allclose(alone.boxes, together.boxes, atol=0.01)


@pytest.mark.slow
def test_real_images_with_a_real_detector(context, real):
    """The package's own boxes on real images, and most of the real referents among them."""
    from ultralytics import YOLO

    weights = real / "weights" / "yolov8n.pt"
    if not weights.is_file():
        pytest.skip("no real detector beside this checkout")
    rows = [json.loads(line) for line in (real / "pictures" / "expressions.jsonl").read_text().splitlines()]
    names = sorted({row["image"] for row in rows})
    images = [np.asarray(Image.open(real / "pictures" / name).convert("RGB")) for name in names]
    proposer = YoloProposer(YoloOptions(weights=str(weights), whole_image=False), context())
    scenes = [LoadedScene(name, image, ()) for name, image in zip(names, images, strict=True)]
    ours = dict(zip(names, proposer.propose(scenes), strict=True))
    package = YOLO(weights)
    for name, image in zip(names, images, strict=True):
        theirs = package.predict(image[..., ::-1], conf=0.1, iou=0.6, agnostic_nms=True, verbose=False)[0].boxes
        assert len(theirs) == len(ours[name])
        # They resize with OpenCV in 8 bits, we with torch in floats.
        assert iou_pairwise(ours[name].boxes, theirs.xyxy.numpy()).max(1).min() > 0.93
    results = [iou_pairwise([r["box_xyxy"]], ours[r["image"]].boxes).max() >= 0.5 for r in rows]
    assert np.mean(results) >= 0.85


def test_a_half_head_decodes_boxes_in_float32():
    """The same raw outputs at 640 pixels, decoded as float16 and as float32."""
    head = read_model(Path(TINY["weights"])).model[-1].eval()
    torch.manual_seed(0)
    sides = [640 // int(stride) for stride in head.stride]
    number = sum(side**2 for side in sides)
    raw = {
        "boxes": 2 * torch.randn(1, 4 * head.reg_max, number).half(),
        "scores": torch.randn(1, head.nc, number).half(),
        "feats": [torch.zeros(1, 8, side, side).half() for side in sides],
    }
    exact = head._inference({k: [f.float() for f in v] if k == "feats" else v.float() for k, v in raw.items()})[:, :4]
    half = copy.deepcopy(head).half()
    assert (half._inference(raw)[:, :4].float() - exact).abs().max() > 0.2
    decode_in_float32(half := copy.deepcopy(head).half())
    boxes = half._inference(raw)[:, :4]
    assert boxes.dtype == torch.float32 and (boxes - exact).abs().max() < 0.05


def test_images_of_one_size_are_scaled_together(context):
    """Exactly the pixels of each alone."""
    proposer = YoloProposer(YoloOptions(**TINY), context())
    images = list(np.random.default_rng(0).integers(0, 256, (3, 90, 131, 3), np.uint8))
    canvas = proposer._canvas(images[0])
    alone = [proposer._letterboxed([image], canvas)[0] for image in images]
    assert torch.equal(proposer._letterboxed(images, canvas), torch.stack(alone))
