"""Masks by the libraries' own models, tiny and with random weights, so that every step around them is the real one."""

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_models import sam, sam2
from torchvision.ops import masks_to_boxes

from bench.errors import WeightsError
from bench.grounding import LoadedScene, Query
from bench.settings import merged
from pipelines.two_stage.proposers.proposals import open_proposer
from pipelines.two_stage.segments.masks import MaskModel, MaskOptions
from pipelines.two_stage.segments.pipeline import seg_clip
from pipelines.two_stage.segments.segmentation import boxes_of_masks

LAST = np.array([0, 0, 1, 1])  # torchvision names the last pixel, a box ends after it
NAMES = {0: "star", 1: "moon"}
# Random masks are poor ones.
KEPT = {"threshold": 0.0, "overlap": 0.0, "predicted_iou": 0.0, "stability": 0.0, "points": 4}
NONE = {"threshold": 1.0, "predicted_iou": 1.0, "stability": 1.0, "points": 4}


def mask2former(folder):
    swin = hf.SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, image_size=64)
    swin.out_features = ["stage1", "stage2", "stage3", "stage4"]
    small = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
    small |= {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 32}
    config = hf.Mask2FormerConfig(backbone_config=swin, num_queries=30, id2label=NAMES, **small)
    model = hf.Mask2FormerForUniversalSegmentation(config)
    for weight in (p for p in model.parameters() if p.ndim > 1):
        torch.nn.init.normal_(weight, std=0.3)  # as it comes, every mask is under its threshold everywhere
    model.save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 96}
    hf.Mask2FormerImageProcessor(size=size, size_divisor=32, ignore_index=255).save_pretrained(folder)


def eomt(folder):
    config = hf.EomtConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8, num_blocks=1,
        num_queries=30, num_upscale_blocks=1, id2label=NAMES,
    )  # fmt: skip
    hf.EomtForUniversalSegmentation(config).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 64}
    hf.EomtImageProcessor(size=size, do_split_image=False, do_pad=True).save_pretrained(folder)


FAMILIES = {"sam": sam, "sam2": sam2, "mask2former": mask2former, "eomt": eomt}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    """A model of each family in a folder of its own."""
    place = tmp_path_factory.mktemp("models") / request.param
    torch.manual_seed(0)
    hf.utils.logging.disable_progress_bar()
    FAMILIES[request.param](place)
    return place


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (50, 90, 3)).astype(np.uint8)


@pytest.mark.slow
def test_masks_are_the_images_own_size_with_their_boxes(folder, image, context):
    proposals = MaskModel(MaskOptions(weights=str(folder), **KEPT), context()).find(image)
    assert len(proposals) >= 1
    assert proposals.masks.shape == (len(proposals), 50, 90) and proposals.masks.dtype == bool
    inclusive = masks_to_boxes(torch.tensor(proposals.masks)).numpy()
    assert np.array_equal(proposals.boxes, inclusive + LAST)
    assert (np.diff(proposals.scores) <= 0).all() and np.isfinite(proposals.scores).all()
    assert set(proposals.labels) <= ({""} if "sam" in folder.name else {"star", "moon"})


@pytest.mark.slow
def test_a_image_in_which_nothing_is_found(folder, image, context):
    proposals = MaskModel(MaskOptions(weights=str(folder), **NONE), context()).find(image)
    assert len(proposals) == 0 and proposals.boxes.shape == (0, 4) and proposals.masks.shape == (0, 50, 90)


@pytest.mark.slow
def test_as_a_proposer_masks_and_boxes_are_kept_in_step(folder, image, context):
    table = {"kind": "masks", "weights": str(folder), "top_k": 3, **KEPT}
    proposer = open_proposer(table, "here", context())
    turned = np.ascontiguousarray(image.transpose(1, 0, 2))
    scenes = [LoadedScene(str(i), p, ()) for i, p in enumerate((image, turned, image))]
    first, second, third = proposer.propose(scenes)
    assert np.array_equal(first.masks, third.masks) and second.masks.shape[1:] == (90, 50)
    assert 2 <= len(first) <= 4 and first.masks[-1].all() and first.boxes[-1].tolist() == [0, 0, 90, 50]
    assert np.array_equal(first.boxes, boxes_of_masks(first.masks))
    assert proposer.sha256.keys() == {f"{folder.name}/model.safetensors"} and proposer.parameters > 5000


@pytest.mark.slow
def test_masks_are_regions_of_seg_clip(folder, image, context):
    base = context("seg-clip")
    segments = {"method": "masks", "masks": {"weights": str(folder), **KEPT}}
    pipeline = seg_clip(context("seg-clip", options=merged(base.options, {"segments": segments})))
    assert set(pipeline.card.sha256) == {"clip", "segments"}
    (answer,) = pipeline.ground([LoadedScene("s", image, (Query("a", "the red star"),))])
    x1, y1, x2, y2 = answer.box
    assert 0 <= x1 < x2 <= 90 and 0 <= y1 < y2 <= 50


@pytest.mark.slow
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8)).flatmap(lambda shape: arrays(np.bool_, shape))
)
def test_a_box_ends_one_after_the_last_pixel(masks):
    masks[:, 0, 0] |= ~masks.any(axis=(1, 2))
    assert np.array_equal(boxes_of_masks(masks), masks_to_boxes(torch.tensor(masks)).numpy() + LAST)


def test_what_makes_no_masks_is_refused_and_a_hub_that_is_not_reached_says_where_to_put_what(context, tmp_path):
    hf.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(WeightsError, match="'bert', which makes no masks"):
        MaskModel(MaskOptions(weights=str(tmp_path / "bert")), context())

    with pytest.raises(WeightsError, match=r"(?s)facebook/sam2\.1-hiera-tiny are not there.*huggingface.*hf download"):
        MaskModel(MaskOptions(), context())
