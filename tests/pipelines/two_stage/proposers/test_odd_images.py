"""Odd images and odd detectors, the same for every kind: right boxes in annotation coordinates, and never a crash."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bench.boxes import iou_pairwise
from bench.datasets.images import Images
from bench.datasets.shapes import ShapesImages, make_scene
from bench.grounding import LoadedScene, Scene
from pipelines.two_stage.proposers.proposals import open_proposer

WEIGHTS = "pipelines/weights/tiny-{}.safetensors"
KINDS = {"yolo": {"image_size": 192}, "ssd": {}, "detr": {}}


@pytest.fixture(params=list(KINDS))
def opened(request, context):
    """(table) -> the tiny proposer of a kind, its options changed by the table."""

    def open_tiny(**table):
        if request.param == "yolo":
            pytest.importorskip("ultralytics")
        table = {"kind": request.param, "weights": WEIGHTS.format(request.param)} | KINDS[request.param] | table
        return open_proposer(table, "test", context())

    return open_tiny


def shown(image):
    return LoadedScene("s", image, ())


@pytest.fixture(scope="module")
def scene():
    return make_scene(2026, "val", 3)


def turned(image):
    """With the camera's flag that a viewer turns by; annotations are of the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return image, {"exif": exif}


STORED = {
    "plain.png": lambda image: (image, {}),
    "grey.png": lambda image: (image.convert("L"), {}),
    "grey16.png": lambda image: (Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), {}),
    "palette.png": lambda image: (image.quantize(64), {}),
    "cmyk.jpg": lambda image: (image.convert("CMYK"), {"quality": 95}),
    "turned.jpg": turned,
    "alpha.png": lambda image: (image.convert("RGBA"), {}),
}


def stored(file, scene, folder):
    """The scene's image written as the file's name says and read back as a data set's images are."""
    image, options = STORED[file](Image.fromarray(ShapesImages(2026).load(scene)))
    image.save(folder / file, **options)
    return Images([folder]).load(Scene("s", file, scene.width, scene.height, ()))


@pytest.mark.parametrize("file", ["plain.png", "palette.png", "cmyk.jpg", "turned.jpg", "alpha.png"])
def test_boxes_are_right_however_the_image_is_stored(opened, scene, tmp_path, file):
    (found,) = opened(whole_image=False).propose([shown(stored(file, scene, tmp_path))])
    overlap = iou_pairwise([each.box for each in scene.objects], found.boxes).max(axis=1)
    assert (overlap >= 0.5).all() and np.median(overlap) > 0.8


@pytest.mark.parametrize("file", ["grey.png", "grey16.png"])
def test_a_grey_image_is_seen_as_the_same_greys_in_colour(opened, scene, tmp_path, file):
    """The tiny detectors were shown colours only, so what they find in greys is no measure; that it is the same is."""
    proposer = opened(confidence=0.01)
    greys = np.asarray(Image.fromarray(ShapesImages(2026).load(scene)).convert("L"))
    (found,) = proposer.propose([shown(stored(file, scene, tmp_path))])
    (expected,) = proposer.propose([shown(np.stack([greys] * 3, axis=-1))])
    assert len(found) > 2 and np.array_equal(found.boxes, expected.boxes) and found.labels == expected.labels


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 3), (50, 10000), (10000, 50), (1, 600), (600, 1)])
def test_images_of_any_shape(opened, shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    (found,) = opened(confidence=0.0).propose([shown(image)])
    height, width = shape
    assert found.boxes[-1].tolist() == [0, 0, width, height]
    assert (found.boxes >= 0).all() and (found.boxes <= [width, height, width, height]).all()
    assert len(found) == len(found.labels) == len(found.scores) <= 21


def test_a_thing_in_a_long_strip_is_found_where_it_lies(opened):
    """One square near the right end of 50 x 2000: its box is in the strip's own pixels, not the detector's."""
    image = np.full((50, 2000, 3), 230, np.uint8)
    image[5:45, 1500:1900] = (220, 58, 62)
    (found,) = opened(confidence=0.01, whole_image=False, top_k=5).propose([shown(image)])
    centres = (found.boxes[:, 0] + found.boxes[:, 2]) / 2
    assert len(found) and np.abs(centres - 1700).min() < 100


def test_a_detector_that_finds_nothing(opened):
    flat = shown(np.full((40, 60, 3), 128, np.uint8))
    (nothing,) = opened(confidence=1.0, whole_image=False).propose([flat])
    assert len(nothing) == 0 and nothing.boxes.shape == (0, 4)
    (whole,) = opened(confidence=1.0).propose([flat])
    assert whole.boxes.tolist() == [[0, 0, 60, 40]] and whole.labels == ("",)


def test_a_detector_that_says_everything(opened, scene):
    image = shown(ShapesImages(2026).load(scene))
    (few,) = opened(confidence=0.0, top_k=7).propose([image])
    assert len(few) <= 8
    (many,) = opened(confidence=0.0, top_k=5000, same_iou=1.0).propose([image])
    assert len(many) >= len(few) and np.isfinite(many.boxes).all()


def test_a_detector_that_says_nan(opened, scene):
    """Weights that went wrong answer NaN everywhere: what is left is the whole image."""
    proposer = opened(confidence=0.0)
    with torch.no_grad():
        for parameter in proposer.model.parameters():
            parameter.fill_(float("nan"))
    (found,) = proposer.propose([shown(ShapesImages(2026).load(scene))])
    assert found.boxes.tolist() == [[0, 0, scene.width, scene.height]]


def test_no_images_are_no_proposals(opened):
    assert opened().propose([]) == []


def test_the_bytes_decide_not_the_name(tmp_path):
    """A fixture of this file is worth what it stores: every odd image really is what its name says."""
    modes = {}
    for file, store in STORED.items():
        out = io.BytesIO()
        image, options = store(Image.new("RGB", (8, 6), (200, 30, 40)))
        image.save(out, "JPEG" if file.endswith("jpg") else "PNG", **options)
        modes[file] = Image.open(out).mode
    assert modes["grey.png"] == "L" and modes["palette.png"] == "P" and modes["cmyk.jpg"] == "CMYK"
    assert modes["grey16.png"].startswith("I;16") and modes["alpha.png"] == "RGBA"
