"""What every detector keeps, the shipped ones of each kind: right boxes, alone as in a batch, and never a crash."""

import numpy as np
import pytest
import torch

from bench.boxes import iou_pairwise
from bench.datasets.shapes import ShapesImages, make_scene
from bench.errors import SettingsError, WeightsError
from bench.grounding import LoadedScene
from pipelines import weights
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


def without_queries(image):
    return LoadedScene("s", image, ())


@pytest.fixture(scope="module")
def scene():
    return make_scene(2026, "val", 3)


@pytest.mark.slow
def test_nearly_every_object_is_found_whatever_the_neighbours(opened, loaded):
    """Boxes and class names of an image alone are those of a batch."""
    proposer, overlaps = opened(whole_image=False), []
    for scene, image, mine in zip(*loaded, proposer.propose(loaded[1]), strict=True):
        (alone,) = proposer.propose([image])
        assert np.allclose(mine.boxes, alone.boxes, atol=1e-3) and mine.labels == alone.labels
        assert set(mine.labels) <= set(proposer.names.values() if hasattr(proposer.names, "values") else proposer.names)
        overlaps.append(iou_pairwise([e.box for e in scene.expressions], mine.boxes).max(1))
    assert (np.concatenate(overlaps) >= 0.5).mean() > 0.95


@pytest.mark.slow
def test_a_thing_in_a_long_strip_is_found_where_it_lies(opened):
    """One square near the right end of 50 x 2000: its box is in the strip's own pixels, not the detector's."""
    image = np.full((50, 2000, 3), 230, np.uint8)
    image[5:45, 1500:1900] = (220, 58, 62)
    (proposals,) = opened(confidence=0.01, whole_image=False, top_k=5).propose([without_queries(image)])
    centres = (proposals.boxes[:, 0] + proposals.boxes[:, 2]) / 2
    assert len(proposals) and np.abs(centres - 1700).min() < 100


@pytest.mark.slow
def test_a_detector_that_finds_nothing(opened):
    flat = without_queries(np.full((40, 60, 3), 128, np.uint8))
    (nothing,) = opened(confidence=1.0, whole_image=False).propose([flat])
    assert len(nothing) == 0 and nothing.boxes.shape == (0, 4)
    (whole,) = opened(confidence=1.0).propose([flat])
    assert whole.boxes.tolist() == [[0, 0, 60, 40]] and whole.labels == ("",)
    assert opened().propose([]) == []


@pytest.mark.slow
def test_a_detector_that_says_everything(opened, scene):
    image = without_queries(ShapesImages(2026).load(scene))
    (few,) = opened(confidence=0.0, top_k=7).propose([image])
    assert len(few) <= 8
    (many,) = opened(confidence=0.0, top_k=5000, same_iou=1.0).propose([image])
    assert len(many) >= len(few) and np.isfinite(many.boxes).all()


@pytest.mark.slow
def test_a_detector_that_says_nan(opened, scene):
    """Weights that went wrong answer NaN everywhere: what is left is the whole image."""
    proposer = opened(confidence=0.0)
    with torch.no_grad():
        for parameter in proposer.model.parameters():
            parameter.fill_(float("nan"))
    (proposals,) = proposer.propose([without_queries(ShapesImages(2026).load(scene))])
    assert proposals.boxes.tolist() == [[0, 0, scene.width, scene.height]]


def test_an_unknown_option_and_a_file_of_another_kind_are_refused(opened, tmp_path):
    with pytest.raises(SettingsError, match=r"confidense.*confidence"):
        opened(confidense=0.1)
    weights.write_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"format": "bench-other"})
    with pytest.raises(WeightsError, match=r"no format 'bench-(yolo|ssd|detr)'"):
        opened(weights=str(tmp_path / "x.safetensors"))
