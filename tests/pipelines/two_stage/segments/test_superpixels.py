"""What scikit-image makes of images, plain and odd."""

import numpy as np
import pytest

from pipelines.two_stage.segments.segmenters import reduced, superpixels

LEVELS = (4, 8, 16)


def two_colours():
    """A red square of 24 pixels on blue, of the same brightness to a grey eye: no edge but in colour."""
    image = np.empty((48, 64, 3), np.uint8)
    image[:] = (0, 60, 200)
    image[12:36, 20:44] = (182, 0, 0)
    return image


@pytest.mark.parametrize("method", ["slic", "watershed"])
@pytest.mark.parametrize("shape", [(48, 64), (1, 1), (1, 30), (400, 3)])
def test_every_pixel_has_a_region_and_every_number_a_pixel(method, shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
    for labels in superpixels(image, method, LEVELS, None, 1.0):
        assert labels.shape == shape
        assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


def test_more_are_asked_for_and_more_come():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    few, some, many = (labels.max() + 1 for labels in superpixels(image, "slic", (4, 16, 64), None, 2.0))
    assert few < some < many


@pytest.mark.parametrize(("method", "compactness"), [("slic", 1.0), ("watershed", 0.0)])
def test_regions_end_where_the_colour_changes(method, compactness):
    (labels,) = superpixels(two_colours(), method, (16,), compactness, 0.0)
    inside = np.zeros(labels.shape, bool)
    inside[12:36, 20:44] = True
    mixed = sum(min((inside & (labels == r)).sum(), (~inside & (labels == r)).sum()) for r in range(labels.max() + 1))
    assert labels.max() >= 2 and mixed <= 100  # of 3072 pixels: half a pixel along the square's sides at most


def test_larger_images_are_reduced_and_smaller_ones_left():
    image = two_colours()
    assert reduced(image, 32).shape == (24, 32, 3) and reduced(image.transpose(1, 0, 2), 32).shape == (32, 24, 3)
    assert reduced(image, 64) is image and reduced(image, 0) is image
    assert reduced(np.zeros((2, 1000, 3), np.uint8), 10).shape == (1, 10, 3)
