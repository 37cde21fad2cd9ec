"""Attention pooling: with nothing masked it is CLIP, and what is masked counts for nothing."""

import numpy as np
import open_clip
import pytest
import torch

from bench.errors import SettingsError
from pipelines.two_stage.clip.encoder import ClipEncoder, ClipOptions, empty_model
from pipelines.two_stage.clip.pooling import PoolingOptions, RegionPooling, members
from pipelines.two_stage.clip.views import make_views
from pipelines.two_stage.segments.pipeline import covered
from pipelines.two_stage.segments.segmentation import segmentation_of

TINY = ClipOptions(model="tiny-clip", pretrained="pipelines/weights/tiny-clip.safetensors")
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
VISION = {
    "resnet": {"image_size": 128, "layers": [1, 1, 1, 1], "width": 8},
    "scaled": VIT | {"layers": 3, "ls_init_value": 0.5},
    "last": VIT | {"final_ln_after_pool": True},
    "averaged": VIT | {"pool_type": "avg"},
    "timm": {"image_size": 32, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear"},
}
MADE: dict[str, ClipEncoder] = {}  # a tokenizer takes a second to build


@pytest.fixture
def encoder(context, monkeypatch, tmp_path):
    """encoder(name): the tiny CLIP, or one of VISION with random weights."""

    def make(name="tiny-clip"):
        if name in MADE:
            return MADE[name]
        if name == "tiny-clip":
            return MADE.setdefault(name, ClipEncoder(TINY, context()))
        monkeypatch.setitem(
            open_clip.factory._MODEL_CONFIGS, name, {"embed_dim": 24, "vision_cfg": VISION[name], "text_cfg": TEXT}
        )
        torch.manual_seed(0)
        model = empty_model(name)
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            torch.nn.init.normal_(norm.weight)  # open_clip starts the last one of each block at zero
        file = tmp_path / f"{name}.pt"
        torch.save(model.state_dict(), file)
        return MADE.setdefault(name, ClipEncoder(ClipOptions(model=name, pretrained=str(file)), context()))

    return make


@pytest.fixture
def image(loaded):
    return loaded[1][0].image


def pooling_of(encoder, **options):
    return RegionPooling(encoder.model, encoder.options.model, PoolingOptions(**options))


@torch.inference_mode()
def pooled(pooling, image, segmentation):
    """The vectors of the regions of one image."""
    return pooling.encode([image], [covered(segmentation, pooling.side)])


def stripes(image, count=4):
    """A cut into vertical stripes."""
    return segmentation_of((image.shape[1], image.shape[0]), [np.arange(count * 4)[None].repeat(16, 0) // 4])


def everything(image):
    """Two masks, each of the whole image."""
    return segmentation_of((image.shape[1], image.shape[0]), [np.ones((2, 16, 16), bool)])


def whole(encoder, image):
    """CLIP's own vector of the image, squashed."""
    box = np.array([[0, 0, image.shape[1], image.shape[0]]], float)
    return encoder.encode_images(make_views([image], [box], ["crop"], encoder.image_size, 0.0, encoder.device)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-clip", "resnet", "scaled", "last"])
def test_with_nothing_masked_it_is_the_ordinary_vector(encoder, image, name):
    clip = encoder(name)
    vectors = pooled(pooling_of(clip, fine=1), image, everything(image))
    assert vectors.shape == (2, clip.encode_texts(["a"]).shape[1])
    assert torch.allclose(vectors, whole(clip, image).expand(2, -1), atol=1e-5)


@pytest.mark.parametrize(("name", "fine"), [("tiny-clip", 1), ("tiny-clip", 2), ("resnet", 1), ("resnet", 2)])
def test_a_regions_vector_is_its_own(encoder, image, name, fine):
    """Other regions beside it change nothing; another region is another vector."""
    pooling = pooling_of(encoder(name), fine=fine)
    together = pooled(pooling, image, stripes(image))
    pairs = [
        pooled(pooling, image, segmentation_of((9, 9), [stripes(image).masks()[pair]])) for pair in ([0, 1], [2, 3])
    ]
    assert torch.allclose(together, torch.cat(pairs), atol=1e-5)
    assert (together @ together.T).fill_diagonal_(0).max() < 0.999


def test_what_is_masked_counts_for_nothing_in_the_pool(encoder, image):
    """A ResNet's cells are mixed by convolutions, its pool's are not: cells outside a region may be anything."""
    pooling = pooling_of(encoder("resnet"), fine=1)
    inside = torch.tensor([[True, True, False, False] * 4])
    images = []
    for noise in (0.0, 100.0):
        cells = torch.randn(1, 256, 4, 4, generator=torch.Generator().manual_seed(0))
        cells[..., 2:] += noise
        hook = pooling.visual.layer4.register_forward_hook(lambda *_, cells=cells: cells)
        images.append(pooling._pool_cells(torch.zeros(1, 3, 128, 128), inside[None]))
        hook.remove()
    assert torch.allclose(images[0], images[1], atol=1e-5)


def test_a_image_without_regions_has_its_own_vector(encoder, image):
    clip = encoder()
    nothing = segmentation_of((9, 9), [np.zeros((3, 3), int)])
    vectors = pooled(pooling_of(clip, fine=1), image, nothing)
    assert torch.allclose(vectors, whole(clip, image), atol=1e-5)


def test_finer_patches_see_about_the_same(encoder, image):
    clip = encoder()
    fine = pooled(pooling_of(clip, fine=2), image, everything(image))
    assert float(fine[0] @ whole(clip, image)[0]) > 0.7


def test_a_region_holds_the_patches_it_half_covers_or_its_best_one():
    shares = torch.tensor([[0.5, 0.9, 0.1], [0.1, 0.05, 0.3]])
    assert members(shares).tolist() == [[True, True, False], [False, False, True]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("averaged", {}, "class token"), ("timm", {}, "not TimmModel"), ("tiny-clip", {"fine": 3}, "does not divide"),
     ("tiny-clip", {"from_block": 4}, "4 blocks")],
)  # fmt: skip
def test_what_cannot_be_pooled_is_refused(encoder, name, options, message):
    with pytest.raises(SettingsError, match=message):
        pooling_of(encoder(name), **options)


def boxes_in(image, *shares):
    """Boxes by shares of the sides."""
    return np.array(shares, float) * np.tile(image.shape[1::-1], 2)


@pytest.mark.parametrize("name", ["tiny-clip", "resnet"])
@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_boxes_are_pooled_from_one_pass_of_each_image(encoder, loaded, name, resize):
    images = [scene.image for scene in loaded[1][:3]]
    boxes = [boxes_in(images[0], [0, 0, 1, 1], [0, 0, 0.4, 0.5], [0.3, 0.3, 1, 0.9])]
    boxes += [np.zeros((0, 4)), boxes_in(images[2], [0.1, 0, 0.2, 0.9])]
    clip, encoded = encoder(name), []
    pooling = pooling_of(clip, fine=1)
    hook = pooling.visual.conv1.register_forward_hook(lambda module, inputs, out: encoded.append(len(inputs[0])))
    with torch.inference_mode():
        together = pooling.encode_boxes(images, boxes, 0.0, resize)
        if name == "resnet":  # a ViT's first convolution is applied by its weight
            assert encoded == [3]
        hook.remove()
        alone = [pooling.encode_boxes([image], [own], 0.0, resize) for image, own in zip(images, boxes, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5) and len(together) == 4
    if resize == "squash":  # a box that is the image is CLIP's own vector of it
        assert torch.allclose(together[0], whole(clip, images[0])[0], atol=1e-5)
    assert float(together[1] @ together[2]) < 0.99
    # A margin is a larger box.
    x1, y1, x2, y2 = own = boxes[0][1]
    wide = [x1 - 0.3 * (x2 - x1), y1 - 0.3 * (y2 - y1), x2 + 0.3 * (x2 - x1), y2 + 0.3 * (y2 - y1)]
    with torch.inference_mode():
        first, second = (
            pooling.encode_boxes(images[:1], [np.array([box])], margin, resize)
            for box, margin in ((own, 0.3), (wide, 0.0))
        )
    assert torch.allclose(first, second, atol=1e-5)
