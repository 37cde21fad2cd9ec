"""The letterbox there and back, the masks against a slow reading of the rule, and the official integers."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.canvas import (
    STATISTICS,
    integer_box,
    kept_patches,
    letterboxed,
    masked_patches,
    pasted,
    stacked,
    to_images,
)

CPU = torch.device("cpu")
SIDES = st.integers(1, 900)
STYLES = st.sampled_from(["official", "clean"])


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(SIDES, SIDES, STYLES, st.sampled_from([64, 224, 225]), st.lists(st.floats(-2, 3), min_size=4, max_size=4))
@example(600, 1, "official", 224, [0, 0, 1, 1])
@example(1, 600, "clean", 225, [0, 0, 1, 1])
@settings(max_examples=40)
def test_a_box_goes_there_and_comes_back(width, height, style, size, part):
    canvas = letterboxed(np.zeros((height, width, 3), np.uint8), size, style)
    box = tuple(np.array(part) * [width, height, width, height])
    there = canvas.to_canvas(box)
    assert there.shape == (4,) and there.dtype == np.float64
    np.testing.assert_allclose(canvas.to_image(there[None])[0], box, rtol=1e-9, atol=1e-9 * max(width, height))


@given(SIDES, SIDES, STYLES, st.sampled_from([64, 224, 225]))
@example(600, 1, "official", 224)
@example(1, 600, "official", 224)
@example(1, 1, "clean", 225)
@settings(max_examples=40)
def test_the_image_fills_the_long_side_and_lies_in_the_middle(width, height, style, size):
    canvas = letterboxed(np.full((height, width, 3), 255, np.uint8), size, style)
    wide, tall = canvas.right - canvas.left, canvas.bottom - canvas.top
    assert max(wide, tall) == size and min(wide, tall) >= 1
    assert (wide >= tall) if width > height else (tall >= wide)
    for before, after in ((canvas.left, size - canvas.right), (canvas.top, size - canvas.bottom)):
        assert after - before in (0, 1)  # the odd pixel goes right and down
    white = np.zeros((size, size, 3), np.uint8)
    white[canvas.top : canvas.bottom, canvas.left : canvas.right] = 255
    np.testing.assert_array_equal(canvas.pixels, white)
    # The whole image's box is the image's place: exactly in the clean style, to a rounding in the other.
    cx, cy, w, h = canvas.to_canvas((0.0, 0.0, float(width), float(height))) * size
    edges = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    room = 1e-9 * size if style == "clean" else 1 - 1e-9  # the thinnest image has a row of its own
    np.testing.assert_allclose(edges, [canvas.left, canvas.top, canvas.right, canvas.bottom], atol=room)


def test_ratios():
    image = noise(300, 101)
    assert letterboxed(image, 224, "official").ratio == (224 / 300, 224 / 300)
    assert letterboxed(image, 224, "clean").ratio == (224 / 300, 75 / 101)


@pytest.mark.parametrize(
    ("size", "place"),  # left, top, right, bottom by hand, on 224
    [
        ((640, 480), (0, 28, 224, 196)),
        ((480, 640), (28, 0, 196, 224)),
        ((500, 500), (0, 0, 224, 224)),
        ((640, 427), (0, 37, 224, 186)),  # 149.45 rows, 37.5 above: rounded down
        ((640, 433), (0, 36, 224, 188)),  # 151.55 rows
        ((600, 1), (0, 111, 224, 112)),
        ((1, 1), (0, 0, 224, 224)),
    ],
)
def test_places_worked_out_by_hand(size, place):
    canvas = letterboxed(noise(*size), 224, "official")
    assert (canvas.left, canvas.top, canvas.right, canvas.bottom) == place
    small = Image.fromarray(noise(*size)).resize((place[2] - place[0], place[3] - place[1]), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(canvas.pixels[place[1] : place[3], place[0] : place[2]], np.asarray(small))


def test_a_box_worked_out_by_hand():
    canvas = letterboxed(noise(448, 224), 224, "official")  # halved, 56 rows down
    np.testing.assert_allclose(canvas.to_canvas((10, 20, 50, 100)) * 224, [15, 86, 20, 40])
    np.testing.assert_allclose(canvas.to_image(np.array([[15, 86, 20, 40]]) / 224), [[10, 20, 50, 100]])
    outside = canvas.to_image(np.array([[0.5, 0.5, 2.0, 2.0]]))  # unclipped
    np.testing.assert_allclose(outside, [[-224, -336, 672, 560]])


def slow_mask(padding, patch, style):
    """(S, S) bool -> (P,) by loops: the four pixels at the centre, or the whole patch."""
    out = []
    for row in range(len(padding) // patch):
        for column in range(len(padding) // patch):
            block = padding[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            middle = slice(patch // 2 - 1, patch // 2 + 1)
            out.append(block.all() if style == "clean" else block[middle, middle].sum() > 2)
    return out


@pytest.mark.slow
@given(
    st.sampled_from([(64, 8), (224, 16), (224, 32), (224, 14)]),
    STYLES,
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=60)
def test_masks_agree_with_the_slow_reading(sizes, style, part):
    size, patch = sizes
    (left, right), (top, bottom) = (sorted((int(part[i] * size), int(part[i + 1] * size))) for i in (0, 2))
    padding = np.ones((size, size), bool)
    padding[top : bottom + 1, left : right + 1] = False
    ours = masked_patches(torch.from_numpy(padding)[None], patch, style)
    assert ours.shape == (1, (size // patch) ** 2) and ours.dtype == torch.bool
    assert ours[0].tolist() == slow_mask(padding, patch, style)


@pytest.mark.parametrize("style", ["official", "clean"])
def test_a_batch_of_canvases_is_as_each_alone(style):
    rng = np.random.default_rng(0)
    shapes = ((30, 64, 3), (64, 64, 3), (64, 17, 3), (30, 64, 3))
    canvases = [letterboxed(rng.integers(0, 256, shape, np.uint8), 64, style) for shape in shapes]
    _, masked = stacked(canvases, 8, style, torch.device("cpu"))
    assert kept_patches(canvases, 8, style).tolist() == (~masked).tolist()
    owners, boxes = rng.integers(0, 4, 20), rng.random((20, 4))
    wanted = [canvases[owner].to_image(boxes[n : n + 1])[0] for n, owner in enumerate(owners)]
    np.testing.assert_array_equal(to_images(boxes, canvases, owners), wanted)


@pytest.mark.parametrize(
    ("size", "official", "clean"),  # masked patches of 14 x 14
    [
        ((224, 168), 56, 28),  # 28 rows above and below: a patch and three quarters
        ((224, 224), 0, 0),
        ((224, 208), 0, 0),  # 8 above: the patch's centre rows are 7 and 8, a tie that is kept
        ((224, 206), 28, 0),  # 9 above and below
        ((600, 1), 14 * 14, 14 * 14 - 14),  # row 111, the last of its patch
    ],
)
def test_how_many_patches_are_masked(size, official, clean):
    canvas = letterboxed(noise(*size), 224, "official")
    for style, wanted in (("official", official), ("clean", clean)):
        _, mask = stacked([canvas], 16, style, CPU)
        assert int(mask.sum()) == wanted, style


@pytest.mark.parametrize("style", ["official", "clean"])
def test_pixels_by_their_statistics_and_zero_outside(style):
    image = noise(100, 60)
    canvas = letterboxed(image, 64, style)
    pixels, mask = stacked([canvas], 16, style, CPU)
    assert pixels.shape == (1, 3, 64, 64) and pixels.dtype == torch.float32 and mask.shape == (1, 16)
    mean, std = STATISTICS[style]
    for row, column in ((canvas.top, 0), (canvas.bottom - 1, 63), (30, 30)):
        wanted = (canvas.pixels[row, column] / 255 - mean) / std
        np.testing.assert_allclose(pixels[0, :, row, column].numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert not pixels[0, :, : canvas.top].any() and not pixels[0, :, canvas.bottom :].any()
    # A black image is not padding.
    black, _ = stacked([letterboxed(np.zeros_like(image), 64, style)], 16, style, CPU)
    np.testing.assert_allclose(black[0, :, 32, 32].numpy(), -np.array(mean) / std, rtol=1e-5)


def test_the_statistics_are_imagenets_and_clips():
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    assert STATISTICS["official"] == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert STATISTICS["clean"] == (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)


@pytest.mark.parametrize("style", ["official", "clean"])
def test_together_as_one_by_one(style):
    canvases = [letterboxed(noise(w, h, seed=w), 64, style) for w, h in ((100, 60), (60, 100), (64, 64), (90, 2))]
    canvases.append(pasted(Image.fromarray(noise(20, 11)), 40, 5, 64, (1.0, 1.0)))
    pixels, masks = stacked(canvases, 8, style, CPU)
    assert pixels.shape == (5, 3, 64, 64) and masks.shape == (5, 64)
    for i, canvas in enumerate(canvases):
        one, mask = stacked([canvas], 8, style, CPU)
        assert torch.equal(pixels[i], one[0]) and torch.equal(masks[i], mask[0])


def test_integers_where_a_list_holds_sides_or_edges():
    # Width 30: the edge is 3 + 30, although 3.16 + 30.0 - 3.16 is a little under 30.
    assert 3.16 + 30.0 - 3.16 < 30
    assert integer_box((3.16, 3.23, 3.16 + 30.0, 3.23 + 30.0), "xywh") == (3.0, 3.0, 33.0, 33.0)
    assert integer_box((12.34, 7.0, 12.34 + 100.0, 7.0 + 30.0), "xywh") == (12.0, 7.0, 112.0, 37.0)
    assert integer_box((10.9, 20.9, 10.9 + 5.9, 20.9 + 5.9), "xywh") == (10.0, 20.0, 15.0, 25.0)
    assert integer_box((303.58, 69.03, 303.58 + 293.29, 69.03 + 425.79), "xywh") == (303.0, 69.0, 596.0, 494.0)
    assert integer_box((-0.7, 0.0, 4.3, 3.0), "xywh") == (0.0, 0.0, 5.0, 3.0)  # towards zero
    # A list of edges.
    assert integer_box((10.9, 20.9, 16.8, 26.8), "xyxy") == (10.0, 20.0, 16.0, 26.0)
    assert integer_box((-0.7, -1.2, 4.3, 3.0), "xyxy") == (0.0, -1.0, 4.0, 3.0)


@given(st.lists(st.integers(0, 99_999) | st.integers(0, 999).map(lambda whole: whole * 100), min_size=4, max_size=4))
def test_integers_of_every_list_with_two_decimals(hundredths):
    x, y, w, h = (value / 100 for value in hundredths)
    wanted = [value // 100 for value in hundredths]
    box = integer_box((x, y, x + w, y + h), "xywh")
    assert box == (wanted[0], wanted[1], wanted[0] + wanted[2], wanted[1] + wanted[3])
    assert all(type(edge) is float for edge in box)
