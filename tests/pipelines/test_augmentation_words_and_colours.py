"""Samples of the augmentation: words that forbid a crop or change with a flip; colours, blur and scales."""

import numpy as np
import pytest
from painted_images import PLAIN, SIZE, STILL, corners, extent, noise, painted
from PIL import ImageEnhance

from bench.errors import SettingsError
from bench.evaluation.perturbation import mirrored
from bench.settings import parse_table
from pipelines.augmentation import Augment, augmented, has_position

NEITHER = ("the dog", "clock", "flower behind the vase", "")
OFFICIAL = ("bright shirt", "stop sign", "laptop")  # with a word of position inside another
SAFE = ("dog in the corner", "lower dog", "second dog", "guy at 3 o'clock", "the 'center' one")
BOTH = ("left dog", "LEFT dog", "leftmost dog")


@pytest.mark.slow
@pytest.mark.parametrize("text", [*NEITHER, *OFFICIAL, *SAFE, *BOTH])
def test_which_words_forbid_a_crop(text):
    official, safe = text in OFFICIAL + BOTH, text in SAFE + BOTH
    assert (has_position(text, "official"), has_position(text, "safe")) == (official, safe)
    image, box = painted(300, 200, (0.4, 0.4, 0.1, 0.1))
    for crop, forbidden in (("official", official), ("safe", safe)):
        options = Augment(crop=crop, crop_share=1, scales=(SIZE,), **STILL)
        sides = {
            augmented(image, box, text, SIZE, options, "clean", np.random.default_rng(seed))[0].ratio[0] * 300
            for seed in range(6)
        }
        assert all(value == pytest.approx(SIZE) for value in sides) == forbidden


@pytest.mark.slow
def test_how_often_a_crop_is_drawn():
    image, box = painted(300, 200, (0.4, 0.4, 0.1, 0.1))
    options = Augment(crop="safe", crop_share=0.25, scales=(SIZE,), **STILL)
    rng = np.random.default_rng(3)
    whole = [augmented(image, box, "dog", SIZE, options, "clean", rng)[0].ratio[0] * 300 < 225 for _ in range(400)]
    assert 0.68 < np.mean(whole) < 0.82


def test_scales():
    assert Augment().long_sides(224) == (224, 192, 160, 128, 96, 64, 32)
    assert Augment(crop="off").long_sides(64) == (64, 32)
    assert Augment(crop="safe").long_sides(224) == (224, 196, 168, 140)
    assert Augment(scales=(100, 90)).long_sides(224) == (100, 90)
    with pytest.raises(SettingsError, match=r"scales: 256 .* 224"):
        Augment(scales=(256, 90)).long_sides(224)
    rng, options = np.random.default_rng(0), Augment(crop="off", jitter_share=0)
    drawn = [augmented(noise(), (1, 1, 9, 9), "a", 224, options, "official", rng)[0] for _ in range(120)]
    assert {c.right - c.left for c in drawn} == {224, 192, 160, 128, 96, 64, 32}


@pytest.mark.parametrize(
    "table", [{"crop_sides": [600, 384]}, {"short_sides": []}, {"scales": [0]}, {"jitter": 1.5}, {"crops": "safe"}]
)
def test_options_that_make_no_sense_are_refused(table):
    with pytest.raises(SettingsError, match=r"train\.clipvg\.augment"):
        parse_table(Augment, table, "[train.clipvg.augment]")


def test_jitter_stays_within_its_strength(monkeypatch):
    factors = {"Brightness": [], "Contrast": [], "Color": []}
    orders = set()
    for name, values in factors.items():
        real = getattr(ImageEnhance, name)

        def enhance(self, factor, values=values, name=name, real=real):
            values.append(factor)
            orders.add((name, sum(map(len, factors.values())) % 3))
            return super(real, self).enhance(factor)

        monkeypatch.setattr(real, "enhance", enhance, raising=False)
    image, options = noise(), PLAIN.model_copy(update={"jitter_share": 0.8, "scales": (16,)})
    rng = np.random.default_rng(0)
    for _ in range(300):
        augmented(image, (1, 1, 9, 9), "a", 16, options, "official", rng)
    for values in factors.values():
        assert 0.72 < len(values) / 300 < 0.88
        assert 0.6 <= min(values) < 0.65 and 1.35 < max(values) <= 1.4
    assert len(orders) == 9  # each of the three comes first, second and last at times


def test_blur_softens_and_moves_nothing():
    image, box = painted(SIZE, SIZE, (0.25, 0.25, 0.5, 0.5))
    options = PLAIN.model_copy(update={"blur_share": 1.0})
    canvas, out, _ = augmented(image, box, "a", SIZE, options, "official", np.random.default_rng(2))
    np.testing.assert_allclose(corners(out), box, atol=1e-9)
    np.testing.assert_allclose(extent(canvas.pixels), box, atol=1)
    assert ((canvas.pixels > 0) & (canvas.pixels < 255)).any()


def test_a_flip_turns_image_box_and_words():
    image, box = painted(200, 100, (0.1, 0.2, 0.3, 0.4))
    options = Augment(crop="off", scales=(200,), translate=False, jitter_share=0, flip_share=1)
    canvas, out, text = augmented(image, box, "dog on the left", 200, options, "clean", np.random.default_rng(0))
    assert text == "dog on the right"
    wanted = np.array([200 - box[2], box[1] + 50, 200 - box[0], box[3] + 50])
    np.testing.assert_allclose(corners(out, 200), wanted, atol=1e-9)
    np.testing.assert_array_equal(extent(canvas.pixels), wanted)
    # A text that a flip would make false stays as it is, and so does its image.
    canvas, out, text = augmented(image, box, "dog at 3 o'clock", 200, options, "clean", np.random.default_rng(0))
    np.testing.assert_allclose(corners(out, 200), np.add(box, [0, 50, 0, 50]), atol=1e-9)
    assert text == "dog at 3 o'clock"


@pytest.mark.parametrize(
    ("text", "swapped"),
    [("left of the right dog", "right of the left dog"), ("Leftmost, RIGHT", "Rightmost, LEFT"),
     ("bright, upright copyright cleft leftover", "bright, upright copyright cleft leftover"),
     ("right-hand lefthand leftside", "left-hand righthand rightside"), ("the dog", "the dog")],
)  # fmt: skip
def test_left_and_right_change_places_as_words(text, swapped):
    assert mirrored(text) == swapped
    assert mirrored(swapped) == text


def test_inside_words_too_as_the_official_code_of_transvg_has_it():
    assert mirrored("bright, upright LEFT Right", whole=False) == "bleft, upleft RIGHT Left"
    image, box = painted(200, 100, (0.1, 0.2, 0.3, 0.4))
    options = Augment(crop="off", scales=(200,), translate=False, jitter_share=0, flip_share=1, flip_words="inside")
    for text, swapped in (("bright dog at 3 o'clock", "bleft dog at 3 o'clock"), ("left", "right")):
        _, out, other = augmented(image, box, text, 200, options, "official", np.random.default_rng(0))
        assert other == swapped  # no word keeps an image from its flip
        np.testing.assert_allclose(corners(out, 200)[[0, 2]], [200 - box[2], 200 - box[0]], atol=1e-9)
