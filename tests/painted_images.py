"""Images whose boxes can be read off their pixels, and the options with which nothing moves."""

import numpy as np
from hypothesis import strategies as st

from bench.boxes import box_cxcywh_to_xyxy
from pipelines.augmentation import Augment

SIZE = 224
STILL = {"jitter_share": 0.0}
PLAIN = Augment(crop="off", scales=(SIZE,), translate=False, jitter_share=0.0)
CORNERS = st.tuples(st.floats(0, 0.7), st.floats(0, 0.7), st.floats(0.15, 1), st.floats(0.15, 1))
SIDES = st.integers(60, 700)
SEEDS = st.integers(0, 2**32)


def painted(width, height, part):
    """A black image with one white box, (left, top, width, height) as parts of it; and that box in whole pixels."""
    left, top = int(part[0] * width), int(part[1] * height)
    right, bottom = min(width, left + int(part[2] * width) + 1), min(height, top + int(part[3] * height) + 1)
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = 255
    return image, (float(left), float(top), float(right), float(bottom))


def noise(width=90, height=70, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def extent(pixels):
    """The first and past-the-last column and row of what is at least half white: left, top, right, bottom."""
    rows, columns = (np.flatnonzero((pixels[..., 0] > 127).any(axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def corners(box, size=SIZE):
    return box_cxcywh_to_xyxy(box) * size
