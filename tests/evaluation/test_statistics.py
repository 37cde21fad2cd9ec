"""The bootstrap: equal to a slow loop, the same on every call, and honest about what it does not know."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.evaluation.statistics import drawn_images, ratio_intervals, resampled_sums


def slow_intervals(hits, sizes, draws, seed, confidence=0.95):
    """The definition, draw by draw, with the same draws."""
    drawn = np.concatenate(list(drawn_images(len(hits), draws, seed)))
    out = []
    for column in range(hits.shape[1]):
        ratios = []
        for images in drawn:
            above = sum(hits[p, column] for p in images)
            below = sum(sizes[p, column] for p in images)
            if below:
                ratios.append(above / below)
        tail = (1 - confidence) / 2
        out.append(tuple(np.quantile(ratios, [tail, 1 - tail])))
    return out


@pytest.mark.parametrize("images", [2, 3, 11, 40])
def test_equals_a_slow_loop_over_the_same_draws(images):
    rng = np.random.default_rng(images)
    sizes = rng.integers(0, 9, (images, 3)).astype(float)
    sizes[:2] += 1  # every column in at least two images
    hits = np.floor(rng.random((images, 3)) * (sizes + 1))
    assert ratio_intervals(hits, sizes, 200, 7) == slow_intervals(hits, sizes, 200, 7)


@pytest.mark.slow
@given(st.integers(1, 60), st.integers(1, 50), st.integers(0, 2**31), st.integers(1, 500))
def test_draws_are_images_and_do_not_depend_on_the_block(images, draws, seed, chunk):
    whole = np.concatenate(list(drawn_images(images, draws, seed)))
    pieces = np.concatenate(list(drawn_images(images, draws, seed, chunk)))
    assert whole.shape == (draws, images) and np.array_equal(whole, pieces)
    assert whole.min() >= 0 and whole.max() < images


def test_the_stream_is_pinned():
    """Raw words of PCG64 are the same in every numpy; a change here would move every published interval."""
    first = next(drawn_images(1500, 1, 0))[0, :6].tolist()
    assert first == [int(w * 1500 >> 32) for w in np.random.PCG64(0).random_raw(3).view(np.uint32).astype(object)]
    assert first == [1275, 955, 766, 404, 461, 61]


def test_sums_of_counts_are_exact_and_repeatable():
    table = np.arange(60.0).reshape(20, 3)
    once, again = resampled_sums(table, 300, 3), resampled_sums(table, 300, 3, chunk=100)
    assert once.tobytes() == again.tobytes() and np.array_equal(once, np.rint(once))


def test_little_is_known_from_fewer_than_two_images():
    assert ratio_intervals([[3.0]], [[4.0]]) == [(0.0, 1.0)]
    assert ratio_intervals(np.zeros((0, 1)), np.zeros((0, 1))) == [(0.0, 1.0)]
    # The second column's samples are all in one image.
    narrow, unknown = ratio_intervals([[1, 2], [0, 0]], [[1, 4], [1, 0]], draws=100)
    assert narrow == (0.0, 1.0) and unknown == (0.0, 1.0)


def test_covers_the_truth_about_as_often_as_it_says():
    """Clustered data: images differ in difficulty (Beta), expressions of one image share it."""
    rng = np.random.default_rng(0)
    repetitions, images = 200, 120
    sizes = rng.integers(1, 12, (images, repetitions)).astype(float)
    hits = rng.binomial(sizes.astype(int), rng.beta(1.4, 0.6, (images, repetitions))).astype(float)
    intervals = ratio_intervals(hits, sizes, draws=600)
    covered = np.mean([low <= 0.7 <= high for low, high in intervals])
    assert 0.90 <= covered <= 0.99
    # An interval that took expressions for independent would be too narrow here.
    naive = [1.96 * np.sqrt(0.7 * 0.3 / n) for n in sizes.sum(axis=0)]
    assert np.mean([high - low for low, high in intervals]) > 1.5 * 2 * np.mean(naive)


def test_a_rare_column_that_no_draw_holds_is_as_uncertain_as_can_be():
    """Two images of 400 hold it, and validation draws once."""
    hits, sizes = np.zeros((400, 2)), np.zeros((400, 2))
    sizes[:, 0], sizes[:2, 1] = 1, 1
    hits[:, 0] = 1
    intervals = [ratio_intervals(hits, sizes, draws=1, seed=seed) for seed in range(20)]
    assert all(one[0] == (1.0, 1.0) for one in intervals)
    assert (0.0, 1.0) in [one[1] for one in intervals] and (0.0, 0.0) in [one[1] for one in intervals]
