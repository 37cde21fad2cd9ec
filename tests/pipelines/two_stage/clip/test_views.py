"""Region views against Pillow, and what must hold for any box."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torch.utils._python_dispatch import TorchDispatchMode

from bench.errors import SettingsError
from pipelines.two_stage.clip.views import LINE, Tint, as_columns, make_views, resample

CPU = torch.device("cpu")


def photo(width=310, height=205):
    """An image with edges, gradients and noise, asymmetric in every way."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    channels = np.stack([(x * 255 // width), (y * 255 // height), ((x // 9 + y // 5) % 2) * 180], axis=2)
    return np.clip(channels + noise, 0, 255).astype(np.uint8)


def views_of(image, boxes, views, size, margin, device, resize="squash", masks=None):
    """The views of one image's boxes."""
    return make_views([image], [boxes], views, size, margin, device, resize, [masks])


@pytest.mark.parametrize("box", [(10, 20, 300, 200), (100, 50, 140, 90), (0, 0, 310, 205), (5, 100, 305, 112)])
@pytest.mark.parametrize("size", [64, 224])
def test_a_crop_is_pillows_bicubic(box, size):
    image = photo()
    ours = views_of(image, np.array([box], float), ["crop"], size, 0.0, CPU)[0, 0].permute(1, 2, 0).numpy() * 255
    theirs = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
    difference = np.abs(ours - np.asarray(theirs, float))
    # Pillow rounds and clips to 8 bits between its two passes, we do neither.
    assert difference.mean() < 0.6 and np.quantile(difference, 0.99) < 3


@pytest.mark.slow
@given(st.tuples(st.floats(-20, 300), st.floats(-20, 200), st.floats(0.2, 400), st.floats(0.2, 300)))
def test_any_box_gives_a_finite_view(box):
    x, y, w, h = box
    views = views_of(photo(), np.array([[x, y, x + w, y + h]]), ["crop", "blur"], 32, 0.1, CPU)
    assert views.shape == (2, 1, 3, 32, 32)
    assert torch.isfinite(views).all() and views.min() >= 0 and views.max() <= 1


def test_a_flat_image_stays_flat():
    flat = as_columns(torch.full((1, 60, 80, 3), 0.25))
    boxes = torch.tensor([[-10.0, -10, 30, 30], [70, 50, 95, 70], [10, 10, 11, 11]])
    assert torch.allclose(resample(flat, boxes, torch.zeros(3), 16), torch.tensor(0.25), atol=1e-5)


def test_blur_keeps_the_box_sharp_and_loses_the_rest():
    image = photo()
    whole = views_of(image, np.array([[0, 0, 310, 205.0]]), ["blur"], 64, 0.0, CPU)[0, 0]
    box = np.array([[0, 0, 155, 205.0]])  # the left half
    half = views_of(image, box, ["blur"], 64, 0.0, CPU)[0, 0]
    assert torch.allclose(half[:, :, :32], whole[:, :, :32], atol=1e-5)
    assert half[:, :, 36:].diff(dim=2).abs().mean() < 0.3 * whole[:, :, 36:].diff(dim=2).abs().mean()


def test_a_margin_shows_the_surroundings():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 40:60] = 255
    box = np.array([[40, 40, 60, 60.0]])
    tight = views_of(image, box, ["crop"], 32, 0.0, CPU).mean()
    wide = views_of(image, box, ["crop"], 32, 0.5, CPU).mean()
    assert tight > 0.95 and wide == pytest.approx(0.25, abs=0.03)


ALL = ("crop", "blur", "mask-blur", "red-ellipse", "tint")


def masks_of(boxes, width=310, height=205):
    """Each box as a mask, whole pixels."""
    masks = np.zeros((len(boxes), height, width), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["squash", "pad", "center"])
def test_every_view_of_boxes_together_is_that_of_boxes_alone(resize):
    boxes = np.array([[0, 0, 50, 50], [100, 20, 300, 200], [30, 30, 40, 180]], float)
    masks = masks_of(boxes)
    together = views_of(photo(), boxes, ALL, 48, 0.0, CPU, resize, masks)
    alone = [
        views_of(photo(), boxes[i : i + 1], ALL, 48, 0.0, CPU, resize, masks[i : i + 1]) for i in range(len(boxes))
    ]
    assert together.shape == (5, 3, 3, 48, 48) and together.min() >= 0 and together.max() <= 1
    assert torch.allclose(together, torch.cat(alone, dim=1), atol=1e-5)


def test_a_batch_of_several_sizes_has_the_views_of_each_image():
    images = [photo(), photo()[::-1].copy(), photo(120, 90), photo(90, 120), photo()[:, ::-1].copy()]
    boxes = [np.array([[3, 4, 60, 70], [10.5, 0, 89, 90]], float)[: 2 - (number == 1)] for number in range(5)]
    boxes[2] = np.zeros((0, 4))
    masks = [masks_of(own, image.shape[1], image.shape[0]) for own, image in zip(boxes, images, strict=True)]
    together = make_views(images, boxes, ALL, 24, 0.1, CPU, "pad", masks)
    each = [views_of(*one, ALL, 24, 0.1, CPU, "pad", mask) for *one, mask in zip(images, boxes, masks, strict=True)]
    assert together.shape == (5, 7, 3, 24, 24)
    assert torch.allclose(together, torch.cat(each, dim=1), atol=1e-6)


class Counting(TorchDispatchMode):
    """Counts operators."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **kwargs or {})


def test_images_of_one_size_cost_no_more_operators_than_one():
    def operators(count):
        boxes = [np.array([[3, 4, 60, 70.0]])] * count
        with Counting() as counting:
            make_views([photo(90, 80)] * count, boxes, ["crop", "blur"], 16, 0.0, CPU)
        return counting.count

    assert operators(8) <= operators(1) + 8  # one each to lay its boxes beside the others


def test_a_mask_that_is_the_box_blurs_as_the_box_does():
    boxes = np.array([[31, 41, 155, 123], [0, 0, 310, 205]], float)
    both = views_of(photo(), boxes, ["blur", "mask-blur"], 62, 0.0, CPU, "squash", masks_of(boxes))
    # The box's edge is exact, the mask's goes through the resize filter: they differ in a pixel along the edge.
    assert (both[0] - both[1]).abs().amax(1).gt(0.02).float().mean() < 0.1
    assert torch.allclose(both[0, 1], both[1, 1], atol=1e-5)


def test_without_masks_the_mask_view_is_refused():
    with pytest.raises(SettingsError, match=r"mask-blur.*masks"):
        views_of(photo(), np.array([[0, 0, 9, 9.0]]), ["mask-blur"], 32, 0.0, CPU)


def test_the_ellipse_is_red_thin_and_inscribed():
    grey = np.full((200, 300, 3), 127, np.uint8)
    size = 100
    (view,) = views_of(grey, np.array([[30, 40, 270, 160.0]]), ["red-ellipse"], size, 0.0, CPU)[0]
    red = (view[0] - 127 / 255) / (1 - 127 / 255)  # how much of the line each pixel holds
    assert torch.allclose(view[1], view[2]) and view[1].min() < 0.01
    rows, columns = torch.nonzero(red > 0.5, as_tuple=True)
    # 10 to 90 % across, 20 to 80 % down, a hundredth larger, and half of the line outside.
    assert abs(columns.min() - (10 - 0.4 - LINE / 2)) <= 1 and abs(columns.max() + 1 - (90 + 0.4 + LINE / 2)) <= 1
    assert abs(rows.min() - (20 - 0.3 - LINE / 2)) <= 1 and abs(rows.max() + 1 - (80 + 0.3 + LINE / 2)) <= 1
    a, b = 40.4, 30.3
    around = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))  # Ramanujan's circumference
    assert float(red.sum()) == pytest.approx(LINE * around, rel=0.05)
    assert red[50, 50].abs() < 1e-5 and red[2, 2].abs() < 1e-5


def test_padding_keeps_the_shape_of_things():
    """A bright square in a long box stays a square when padded, and is squashed otherwise."""
    image = np.zeros((100, 300, 3), np.uint8)
    image[30:70, 130:170] = 255
    box = np.array([[50, 20, 250, 80.0]])

    def extent(resize):
        bright = views_of(image, box, ["crop"], 100, 0.0, CPU, resize)[0, 0].mean(0) > 0.8
        return int(bright.any(0).sum()), int(bright.any(1).sum())

    padded = views_of(image, box, ["crop"], 100, 0.0, CPU, "pad")[0, 0]
    assert extent("pad") == (20, 20) and extent("center") == pytest.approx((67, 67), abs=2)
    assert extent("squash") == pytest.approx((20, 67), abs=2)
    assert torch.allclose(padded[:, :30], torch.tensor(0.5)) and torch.allclose(padded[:, 70:], torch.tensor(0.5))
    # The centre loses the ends.
    image = np.zeros((60, 300, 3), np.uint8)
    image[:, :100], image[:, 200:] = 255, 255
    whole = np.array([[0, 0, 300, 60.0]])
    assert views_of(image, whole, ["crop"], 32, 0.0, CPU, "center").max() < 0.05
    assert views_of(image, whole, ["crop"], 32, 0.0, CPU, "squash").mean() > 0.6


@pytest.mark.parametrize("tint", [Tint(), Tint((200, 10, 90), 0.25, 3.0), Tint(alpha=1.0), Tint(line=0.0)])
@pytest.mark.parametrize("box", [(16, 8, 40, 52), (0, 0, 64, 64), (30, 30, 33, 40)])
def test_a_tint_is_pillows_composite(tint, box):
    """Boxes at whole pixels of the square: a fill, and a line inside its edge."""
    image = photo(64, 64)  # of the square's size: nothing is resampled
    (ours,) = make_views([image], [np.array([box], float)], ["tint"], 64, 0.0, CPU, tint=tint)[0]
    picture = Image.fromarray(image).convert("RGBA")
    layer = Image.new("RGBA", picture.size)
    corners = (box[0], box[1], box[2] - 1, box[3] - 1)  # Pillow's last pixel is drawn too
    draw, width = ImageDraw.Draw(layer), int(tint.line)
    draw.rectangle(corners, (*tint.colour, round(tint.alpha * 255)), (*tint.colour, 255) if width else None, width)
    theirs = np.asarray(Image.alpha_composite(picture, layer).convert("RGB"), float)
    assert np.abs(ours.permute(1, 2, 0).numpy() * 255 - theirs).max() <= 1  # their alpha has 8 bits


def test_an_image_is_resized_once_for_all_its_tints(monkeypatch):
    from pipelines.two_stage.clip import views

    sizes = []
    monkeypatch.setattr(views, "resample", lambda *words: sizes.append(len(words[1])) or resample(*words))
    make_views([photo()], [np.array([[5.0, 5, 60, 60]] * 40)], ["tint"], 32, 0.0, CPU)
    assert sizes == [1]
