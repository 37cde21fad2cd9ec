"""Samples of the augmentation: boxes follow their pixels, windows are each policy's, the generator alone decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_images import CORNERS, PLAIN, SEEDS, SIDES, SIZE, STILL, corners, extent, noise, painted
from PIL import Image

from bench.boxes import box_area_xyxy, clip_xyxy
from bench.errors import DataError
from pipelines import augmentation
from pipelines.augmentation import Augment, augmented
from pipelines.canvas import letterboxed


@pytest.mark.slow
@given(SIDES, SIDES, CORNERS, SEEDS, st.booleans())
@settings(max_examples=80)
def test_a_safe_window_holds_the_referent_and_the_box_is_where_its_pixels_are(width, height, part, seed, flip):
    image, box = painted(width, height, part)
    options = Augment(crop="safe", crop_share=1, flip_share=float(flip), **STILL)
    canvas, out, _ = augmented(image, box, "a dog", SIZE, options, "clean", np.random.default_rng(seed))
    np.testing.assert_allclose(corners(out), extent(canvas.pixels), atol=1.5)
    assert box_area_xyxy(corners(out)) > 0
    # All of it, not a part: as large on the canvas as the ratio says.
    whole = (np.array([box[2] - box[0], box[3] - box[1]]) * canvas.ratio) / SIZE
    np.testing.assert_allclose(out[2:], whole, rtol=1e-9)
    edges = np.array([canvas.left, canvas.top, canvas.right, canvas.bottom])
    assert (corners(out) * [1, 1, -1, -1] >= edges * [1, 1, -1, -1] - 1e-6).all()


@pytest.mark.slow
@given(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.001, 0.1), SEEDS)
def test_a_safe_window_holds_the_fractions_of_a_box_too(x, y, side, seed):
    box = (x * 300, y * 200, (x + side) * 300, (y + side) * 200)
    options = Augment(crop="safe", crop_share=1, short_sides=(400,), crop_sides=(1, 40), **STILL)  # small windows
    canvas, out, _ = augmented(noise(300, 200), box, "dog", SIZE, options, "clean", np.random.default_rng(seed))
    left, top, right, bottom = corners(out)
    assert canvas.left - 1e-6 <= left < right <= canvas.right + 1e-6
    assert canvas.top - 1e-6 <= top < bottom <= canvas.bottom + 1e-6


@pytest.mark.slow
@given(SIDES, SIDES, CORNERS, SEEDS, st.sampled_from(["official", "off"]), st.sampled_from(["official", "clean"]))
@settings(max_examples=80)
def test_a_box_is_where_its_pixels_are(width, height, part, seed, crop, style):
    image, box = painted(width, height, part)
    options = Augment(crop=crop, crop_share=1, scales=(SIZE, 160), **STILL)
    canvas, out, _ = augmented(image, box, "a dog", SIZE, options, style, np.random.default_rng(seed))
    left, top, right, bottom = corners(out)
    if min(right - left, bottom - top) < 2:  # cut to nothing, or nearly
        assert crop == "official"
        return
    # The official ratio is the other side's, so the short side of a flat image may be off by its rounding: half a
    # pixel of the 160, and before it half a pixel of the enlarged image.
    np.testing.assert_allclose([left, top, right, bottom], extent(canvas.pixels), atol=1.5 if style == "clean" else 2)


@pytest.mark.slow
def test_the_place_is_any_place_and_the_middle_without_translation():
    image, options = noise(300, 200), Augment(crop="off", scales=(64,), jitter_share=0)
    rng = np.random.default_rng(1)
    canvases = [augmented(image, (1, 1, 9, 9), "a", 68, options, "official", rng)[0] for _ in range(300)]
    assert {c.left for c in canvases} == set(range(5))  # 64 of 68 pixels: both ends are drawn
    assert {c.top for c in canvases} == set(range(68 - 43 + 1))
    still = options.model_copy(update={"translate": False})
    canvas, _, _ = augmented(image, (1, 1, 9, 9), "a", 67, still, "official", rng)
    assert (canvas.left, canvas.top) == (1, 12)  # 1.5 rounds down


@pytest.mark.parametrize("style", ["official", "clean"])
@pytest.mark.parametrize("size", [(90, 70), (70, 91), (640, 427)])
def test_with_everything_off_it_is_the_letterbox(style, size):
    image, box = noise(*size), (5.25, 6.5, 40.0, 50.0)
    canvas, out, text = augmented(image, box, "Left Dog", SIZE, PLAIN, style, np.random.default_rng(0))
    wanted = letterboxed(image, SIZE, style)
    np.testing.assert_array_equal(canvas.pixels, wanted.pixels)
    for edge in ("left", "top", "right", "bottom", "ratio"):
        assert getattr(canvas, edge) == getattr(wanted, edge), edge
    np.testing.assert_allclose(out, wanted.to_canvas(box), atol=1e-12)
    assert text == "Left Dog"


@given(SEEDS, st.sampled_from(["official", "safe", "off"]))
@settings(max_examples=15)
def test_the_generator_alone_decides(seed, crop):
    image, options = noise(), Augment(crop=crop, blur_share=0.5, flip_share=0.5)
    first, second = (
        augmented(image, (10, 10, 60, 60), "dog in a hat", 64, options, "clean", np.random.default_rng(seed))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first[0].pixels, second[0].pixels)
    assert first[1].tolist() == second[1].tolist() and first[2] == second[2]
    before = image.copy()
    augmented(image, (10, 10, 60, 60), "dog", 64, options, "clean", np.random.default_rng(seed + 1))
    np.testing.assert_array_equal(image, before)


@pytest.mark.slow
def test_official_windows_lose_what_the_official_ones_lose():
    rng, kept = np.random.default_rng(7), []
    for _ in range(4000):
        ratio = rng.choice([400, 500, 600]) / 480
        width, height = round(640 * ratio), round(480 * ratio)
        side = rng.uniform(0.1, 0.6, 2) * [width, height]
        start = rng.uniform(0, 1, 2) * ([width, height] - side)
        box = np.concatenate([start, start + side])
        window = augmentation._official_window(box[None], width, height, (384, 600), rng)
        if window is None:
            kept.append(1.0)
            continue
        left, top, right, bottom = window
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert 384 <= right - left <= 600 and 384 <= bottom - top <= 600
        cut = clip_xyxy(box - [left, top, left, top], right - left, bottom - top)
        kept.append(float(box_area_xyxy(cut) / box_area_xyxy(box)))
    share = np.array(kept)
    assert 0.08 < (share < 0.5).mean() < 0.16
    assert 0.015 < (share == 0).mean() < 0.045
    assert 0.38 < (share > 0.999).mean() < 0.58


def test_a_image_smaller_than_the_least_window_is_a_window():
    image, options = noise(90, 60), Augment(crop_share=1, short_sides=(60,), scales=(SIZE,), **STILL)
    canvas, out, _ = augmented(image, (30, 20, 60, 40), "dog", SIZE, options, "official", np.random.default_rng(0))
    assert (canvas.right - canvas.left, canvas.bottom - canvas.top) == (224, 149)
    np.testing.assert_allclose(out[2:] * SIZE, np.array([30, 20]) * 224 / 90)


def test_the_official_test_has_its_axes_swapped():
    class Fixed:
        """Windows of 384 of an 800 x 400 image with their corner at (left 300, top 10)."""

        def integers(self, low, high=None):
            return {401: 384, 601: 384, 17: 10, 417: 300}[high or low]

    at = lambda x, y: augmentation._official_window(np.array([[x, y, x, y]]), 800, 400, (384, 600), Fixed())  # noqa: E731
    assert at(11, 301) == (300, 10, 684, 394)  # the box is left of the window, and still passes
    assert at(600, 299) is None  # the box is in the middle of it, and does not
    assert at(float("nan"), 301) is None


@pytest.mark.slow
def test_an_official_box_cut_to_nothing_or_not_finite_is_handed_on():
    image, options = noise(640, 480), Augment(crop_share=1, jitter_share=0)
    rng = np.random.default_rng(0)
    boxes = [augmented(image, (600, 400, 638, 478), "dog", SIZE, options, "official", rng)[1] for _ in range(60)]
    areas = [out[2:].prod() for out in boxes]
    assert min(areas) == 0 < max(areas)
    _, out, _ = augmented(image, (float("nan"), 0, 5, 5), "dog", SIZE, options, "official", rng)
    assert not np.isfinite(out).all()


@pytest.mark.parametrize("crop", ["official", "safe"])
@pytest.mark.parametrize("size", [(600, 1), (1, 600), (30_000, 20), (3, 2)])
def test_images_of_any_shape(crop, size):
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    box = (0.0, 0.0, float(size[0]), float(size[1]))
    for seed in range(4):
        options = Augment(crop=crop, crop_share=1, **STILL)
        canvas, out, _ = augmented(image, box, "dog", 32, options, "official", np.random.default_rng(seed))
        assert np.isfinite(out).all()
        assert (canvas.pixels[canvas.top : canvas.bottom, canvas.left : canvas.right] == 200).all()


def test_a_window_of_a_huge_enlargement_is_the_same_window(monkeypatch):
    # Smooth, so that a wrong place would show.
    ramp = np.linspace(0, 255, 300)[None, :, None] * np.linspace(0.2, 1, 200)[:, None, None]
    image = np.broadcast_to(ramp, (200, 300, 3)).astype(np.uint8)
    options = Augment(crop_share=1, scales=(SIZE,), **STILL)
    run = lambda: augmented(image, (90, 60, 200, 150), "dog", SIZE, options, "official", np.random.default_rng(5))  # noqa: E731
    whole, box, _ = run()
    monkeypatch.setattr(augmentation, "MOST_PIXELS", 0)
    part, other, _ = run()
    assert box.tolist() == other.tolist()
    assert np.abs(whole.pixels.astype(int) - part.pixels.astype(int)).max() <= 1


@pytest.mark.parametrize("box", [(-20.0, -10.0, 50.0, 40.0), (60.0, 50.0, 150.0, 99.0)])
def test_a_box_over_the_edge_is_left_alone_or_clipped(box):
    image, rng = noise(90, 70), np.random.default_rng(0)
    _, out, _ = augmented(image, box, "dog", 90, PLAIN.model_copy(update={"scales": (90,)}), "official", rng)
    np.testing.assert_allclose(corners(out, 90), np.add(box, [0, 10, 0, 10]), atol=1e-9)
    for style, crop in (("clean", "off"), ("clean", "safe"), ("official", "safe")):
        options = Augment(crop=crop, scales=(90,), translate=False, crop_share=0, jitter_share=0)
        _, out, _ = augmented(image, box, "dog", 90, options, style, rng)
        np.testing.assert_allclose(corners(out, 90), np.add(clip_xyxy(box, 90, 70), [0, 10, 0, 10]), atol=1e-9)


@pytest.mark.parametrize(
    "box", [(100, 10, 120, 20), (10, 10, 10, 30), (30, 10, 20, 20), (float("nan"), 0, 5, 5), (0, 0, 9, float("nan"))]
)
def test_a_box_with_nothing_in_the_image_is_refused_where_targets_are_safe(box):
    for style, options in (("clean", Augment(crop="off")), ("official", Augment(crop="safe"))):
        with pytest.raises(DataError, match="90 x 70"):
            augmented(noise(90, 70), box, "dog", 64, options, style, np.random.default_rng(0))


def test_an_official_crop_step_by_step(monkeypatch):
    monkeypatch.setattr(augmentation, "_official_window", lambda *_: (100, 30, 500, 414))
    image, box = noise(640, 480), (90.0, 60.0, 300.0, 500.0)
    options = Augment(crop_share=1, short_sides=(500,), scales=(160,), translate=False, jitter_share=0)
    canvas, out, _ = augmented(image, box, "dog", SIZE, options, "official", np.random.default_rng(0))
    enlarged = Image.fromarray(image).resize((667, 500), Image.Resampling.BILINEAR)
    small = enlarged.crop((100, 30, 500, 414)).resize((160, 154), Image.Resampling.BILINEAR)  # 153.6 rows
    np.testing.assert_array_equal(canvas.pixels[35:189, 32:192], np.asarray(small))
    # x: 90 and 300 times 500/480, less 100, times 160/400, plus 32; the foot is cut at the window's 384.
    x1, x2 = ((x * 500 / 480 - 100) * 0.4 + 32 for x in (90, 300))
    y1, y2 = (60 * 500 / 480 - 30) * 0.4 + 35, 384 * 0.4 + 35
    assert x1 < 32  # beyond the window's left edge, and so cut too
    np.testing.assert_allclose(corners(out), [32, y1, x2, y2], atol=1e-9)


def test_where_no_window_passes_the_image_is_enlarged_and_stays_whole(monkeypatch):
    monkeypatch.setattr(augmentation, "_official_window", lambda *_: None)
    image, box = noise(320, 240), (30.0, 60.0, 300.0, 200.0)
    options = Augment(crop_share=1, short_sides=(600,), scales=(SIZE,), translate=False, jitter_share=0)
    canvas, out, _ = augmented(image, box, "dog", SIZE, options, "official", np.random.default_rng(0))
    enlarged = Image.fromarray(image).resize((800, 600), Image.Resampling.BILINEAR)
    small = enlarged.resize((224, 168), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(canvas.pixels[28:196], np.asarray(small))
    np.testing.assert_allclose(corners(out), np.multiply(box, 0.7) + np.array([0, 28, 0, 28]), atol=1e-9)
    assert canvas.ratio == pytest.approx((0.7, 0.7))


@pytest.mark.parametrize("crop", ["official", "safe"])
def test_an_image_with_several_expressions_is_drawn_once_for_all(crop):
    image, texts = noise(300, 200), ["dog", "Left cat", "bird"]
    boxes = [(20, 20, 60, 60), (200, 100, 260, 160), (90, 30, 140, 80)]
    options = Augment(crop=crop, crop_share=1.0, flip_share=0.5, crop_sides=(60, 200), short_sides=(200,))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        canvas, targets, out = augmentation.augmented_image(image, boxes, texts, SIZE, options, "clean", rng)
        mirrored = out != texts
        assert out in (texts, ["dog", "Right cat", "bird"]) and targets.shape == (3, 4)
        # "Left" forbids a window; without that text there may be one, which holds all safe boxes whole.
        assert (canvas.right - canvas.left) / (canvas.bottom - canvas.top) == pytest.approx(1.5, rel=0.03)
        if not mirrored:
            back = canvas.to_image(targets)
            assert np.abs(back - boxes).max() < 1e-6
    plain = [(box, text) for box, text in zip(boxes, texts, strict=True) if text != "Left cat"]
    windows = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        canvas, targets, _ = augmentation.augmented_image(
            image, *zip(*plain, strict=True), SIZE, options.model_copy(update={"flip_share": 0.0}), "clean", rng
        )
        if abs((canvas.right - canvas.left) / (canvas.bottom - canvas.top) - 1.5) < 0.03:
            continue
        windows += 1
        if crop == "safe":
            sides = targets[:, 2:] * SIZE / np.array(canvas.ratio)
            assert np.abs(sides - [(40, 40), (50, 50)]).max() < 1e-6
    assert windows > 10
