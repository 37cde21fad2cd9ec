"""SSD proposals: the model's own boxes in the pixels of the original, whatever its sides and its neighbours."""

import numpy as np
import pytest
import torch
from torchvision.models import get_model, get_model_weights

from bench.boxes import iou_pairwise
from bench.errors import WeightsError
from bench.grounding import LoadedScene
from pipelines import weights
from pipelines.card import CardOptions, card_in_force
from pipelines.two_stage.proposers.ssd import FORMAT, SsdOptions, SsdPlan, SsdProposer, read_model, small_ssd

TINY = "pipelines/weights/tiny-ssd.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """torchvision's SSDlite with random weights that say something, as a state dict on disk; and the model."""
    torch.manual_seed(0)
    model = get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None).eval()
    for module in model.modules():  # without this every map is the same everywhere
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2.0)
            module.bias.data.normal_(0, 0.5)
    path = tmp_path_factory.mktemp("ssd") / "mine.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    return model, path


def wide_image():
    """Asymmetric in every way: 90 high, 410 wide, something in one corner only."""
    rng = np.random.default_rng(0)
    image = np.full((90, 410, 3), (30, 60, 120), np.uint8)
    image[8:40, 330:400] = rng.integers(120, 255, (32, 70, 3))
    return image


@pytest.mark.slow
def test_boxes_are_the_models_own_in_pixels_of_the_original(context, published):
    """torchvision's own forward pass maps its boxes back; ours are among them, with the same score and class."""
    model, path = published
    image = wide_image()
    options = SsdOptions(weights=str(path), confidence=0.0, nms_iou=1.0, top_k=10, whole_image=False)
    (ours,) = SsdProposer(options, context()).propose([LoadedScene("s", image, ())])
    model.nms_thresh, model.score_thresh, model.detections_per_img = 1.0, 0.0, 10**6
    with torch.inference_mode():
        theirs = model([torch.tensor(image).permute(2, 0, 1).float() / 255])[0]
    assert len(ours) == 10
    names = get_model_weights("ssdlite320_mobilenet_v3_large")["COCO_V1"].meta["categories"]
    for box, score, label in zip(ours.boxes, ours.scores, ours.labels, strict=True):
        apart = np.abs(theirs["boxes"].numpy() - box).max(axis=1)
        same = (apart < 0.02) & (theirs["labels"].numpy() == names.index(label))
        assert same.any() and np.abs(theirs["scores"].numpy()[same] - score).min() < 1e-4


@pytest.mark.slow
def test_a_thing_is_found_where_it_is_however_the_image_is_stretched(context, loaded):
    """The same scene twice as wide, and twice as high: the boxes stretch with it."""
    proposer = SsdProposer(SsdOptions(weights=TINY, whole_image=False), context())
    for scene in loaded[1][:4]:
        (plain,) = proposer.propose([scene])
        for across, down in ((2, 1), (1, 2)):
            image = np.repeat(np.repeat(scene.image, across, axis=1), down, axis=0)
            (stretched,) = proposer.propose([LoadedScene("s", image, ())])
            sure = plain.boxes[plain.scores > 0.5] * [across, down, across, down]
            assert len(sure) and iou_pairwise(sure, stretched.boxes).max(axis=1).min() > 0.8


def test_a_image_that_breaks_the_network_breaks_no_other(context, loaded, monkeypatch):
    """Offsets of NaN for the first image of two: the second one's boxes stay what they are alone."""
    proposer = SsdProposer(SsdOptions(weights=TINY), context())
    (alone,) = proposer.propose(loaded[1][1:2])
    head = proposer.model.head.forward

    def broken(maps):
        out = head(maps)
        out["bbox_regression"][0] = float("nan")
        return out

    monkeypatch.setattr(proposer.model.head, "forward", broken)
    first, second = proposer.propose(loaded[1][:2])
    assert len(first) == 1 and np.allclose(second.boxes, alone.boxes, atol=1e-3)


@pytest.mark.slow
def test_the_same_box_is_one_proposal_whatever_its_classes(context, published):
    """A random SSD says dozens of boxes at every place; what is left overlaps no more than the options allow."""
    options = SsdOptions(weights=str(published[1]), confidence=0.0, nms_iou=0.5, top_k=50, whole_image=False)
    (kept,) = SsdProposer(options, context()).propose([LoadedScene("s", wide_image(), ())])
    overlap = iou_pairwise(kept.boxes, kept.boxes)[~np.eye(len(kept), dtype=bool)]
    assert len(kept) > 5 and overlap.max() <= 0.5 + 1e-6


@pytest.mark.slow
def test_the_large_architecture_reads_its_state_dict(context, tmp_path):
    with torch.device("meta"):
        shapes = get_model("ssd300_vgg16", weights=None, weights_backbone=None).state_dict()
    torch.save({k: torch.zeros(1).expand(v.shape) for k, v in shapes.items()}, tmp_path / "vgg.pth")  # a small file
    read, names, _ = read_model(tmp_path / "vgg.pth")
    assert read.transform.fixed_size == (300, 300) and names[0] == "__background__" and names[1] == "person"


@pytest.mark.slow
def test_a_state_dict_of_something_else_is_told_apart(published, tmp_path):
    state = published[0].state_dict()
    gone = state.pop("backbone.features.0.0.0.weight")
    state["extra.weight"] = gone
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"read as ssdlite320.*1 keys missing: backbone\.features.*extra\.weight"):
        read_model(tmp_path / "other.pth")


def test_weights_that_are_nowhere_say_how_to_get_them(context):
    with pytest.raises(WeightsError, match=r"(?s)ssd300_vgg16.*offline.*weights/torchvision.*https://\S+b556d3b4\.pth"):
        SsdProposer(SsdOptions(), context())
    with pytest.raises(WeightsError, match=r"(?s)nowhere\.pth.*ssdlite320"):
        SsdProposer(SsdOptions(weights="nowhere.pth"), context())


@pytest.mark.slow
def test_published_weights_are_found_in_the_cache(context, published):
    """Copied from elsewhere into the cache under the published file's name, they are taken without a network."""
    given = context("ssd-clip", "refcoco")
    file = get_model_weights("ssdlite320_mobilenet_v3_large")["COCO_V1"].url.rpartition("/")[2]
    place = given.home / "weights" / "torchvision" / file
    place.parent.mkdir(parents=True)
    place.write_bytes(published[1].read_bytes())
    proposer = SsdProposer(SsdOptions(weights="ssdlite320_mobilenet_v3_large"), given)
    card = card_in_force(CardOptions(**given.options["card"]), {"proposer": proposer.sha256}, given)
    assert card.pop("supervision") == "zero-shot"
    assert card == {"trained_on": "COCO train2017", "licence": "BSD-3-Clause", "saw_test_images": "yes"}
    assert set(proposer.sha256) == {f"ssdlite320_mobilenet_v3_large/{file}"}
    assert proposer.parameters == sum(p.numel() for p in published[0].parameters())


def test_the_small_one_goes_through_its_file(tmp_path):
    """Plan and names in the metadata are all it takes; another plan's weights are refused."""
    plan = SsdPlan(image_size=128, stem=8, channels=(16, 16, 24, 24), pyramid=16)
    model = small_ssd(plan, 2).eval()
    path = tmp_path / "small.safetensors"
    metadata = {"format": FORMAT, "plan": plan.model_dump(), "names": ["cat", "dog"]}
    weights.write_safetensors(path, model.state_dict(), metadata)
    read, names, _ = read_model(path)
    assert names == ("", "cat", "dog") and read.transform.fixed_size == (128, 128)
    weights.write_safetensors(path, model.state_dict(), metadata | {"plan": SsdPlan().model_dump()})
    with pytest.raises(WeightsError, match="of another shape"):
        read_model(path)
