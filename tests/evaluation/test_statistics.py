"""The intervals: the bootstrap equal to a slow loop, few images by hand, and nothing said that is not known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.evaluation.statistics import drawn_images, few_images_interval, ratio_intervals, resampled_sums
from tools.benchmarks.interval_simulation import LEAST, World, coverage


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


@pytest.mark.parametrize("images", [60, 75])
def test_equals_a_slow_loop_over_the_same_draws(images):
    rng = np.random.default_rng(images)
    sizes = rng.integers(0, 9, (images, 3)).astype(float)
    hits = np.floor(rng.random((images, 3)) * (sizes + 1))
    assert ratio_intervals(hits, sizes, 200, 7) == [(each, "") for each in slow_intervals(hits, sizes, 200, 7)]


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


def test_nothing_is_known_from_fewer_than_two_images():
    assert ratio_intervals([[3.0]], [[4.0]]) == [(None, "1 image")]
    assert ratio_intervals(np.zeros((0, 1)), np.zeros((0, 1))) == [(None, "0 images")]
    # The second column's samples are all in one image.
    wide, unknown = ratio_intervals([[1, 2], [0, 0]], [[1, 4], [1, 0]], draws=100)
    assert wide[1] == "2 images" and wide[0][0] < 0.01 and wide[0][1] > 0.99 and unknown == (None, "1 image")


def test_few_images_by_hand():
    """Four images of four: the jackknife's and the textbook's error agree where sizes are equal."""
    hits, sizes = np.array([1.0, 3, 4, 2]), np.full(4, 4.0)
    rate = 10 / 16
    error = np.std(hits / 4, ddof=1) / 2
    half = stats.t.ppf(0.975, 3) * error / (rate * (1 - rate))
    expected = 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + np.array([-half, half]))))
    assert few_images_interval(hits, sizes) == pytest.approx(expected, abs=1e-6)
    # As independent as can be, images tell no more than independent expressions.
    half = stats.t.ppf(0.975, 3) * np.sqrt(0.25 / 16) / 0.25
    assert few_images_interval(np.full(4, 2.0), sizes)[1] == pytest.approx(1 / (1 + np.exp(-half)), abs=1e-6)
    # Without a miss: Wilson's interval of four images, with Student's quantile.
    assert few_images_interval(sizes, sizes) == pytest.approx((1 / (1 + stats.t.ppf(0.975, 3) ** 2 / 4), 1), abs=1e-6)
    low, high = few_images_interval(sizes - hits, sizes)
    assert (1 - high, 1 - low) == pytest.approx(few_images_interval(hits, sizes), abs=2e-6)
    assert few_images_interval(np.append(hits, 0), np.append(sizes, 0)) == few_images_interval(hits, sizes)


def test_what_counts_as_few():
    sizes = np.ones((200, 4))
    hits = np.ones_like(sizes)
    hits[:9, 0], hits[:10, 1] = 0, 0
    hits[9:, 2] = 0
    sizes[0, 3], hits[:20, 3] = 60, 0  # one image with a quarter of all: 18 of equal size would tell as much
    notes = [note for _, note in ratio_intervals(hits, sizes, draws=100)]
    assert notes == ["9 images with a miss", "", "9 images with a hit", "200 images"]


@pytest.mark.slow
@pytest.mark.parametrize("images", [3, 5, 10, 20, 30])
def test_few_images_cover_the_truth_and_the_bootstrap_alone_would_not(images):
    """The worst worlds of tools/benchmarks/interval_simulation.py, which has them all."""
    worlds = [
        World(images, accuracy, alike, expressions, crowded)
        for accuracy, alike in ((0.5, 0.1), (0.9, 0.3), (0.9, 0.6), (0.97, 0.3))
        for expressions, crowded in ((7, False), (20, True))
    ]
    covered, plain, left_out, _ = np.array([coverage(world, 1000, 300, seed=1) for world in worlds]).T
    assert covered.min() >= LEAST and left_out.max() == 0
    assert plain.min() < 0.8 and plain.mean() < LEAST


def test_covers_the_truth_about_as_often_as_it_says():
    """Clustered data: images differ in difficulty (Beta), expressions of one image share it."""
    rng = np.random.default_rng(0)
    repetitions, images = 200, 120
    sizes = rng.integers(1, 12, (images, repetitions)).astype(float)
    hits = rng.binomial(sizes.astype(int), rng.beta(1.4, 0.6, (images, repetitions))).astype(float)
    intervals = ratio_intervals(hits, sizes, draws=600)
    covered = np.mean([low <= 0.7 <= high for (low, high), _ in intervals])
    assert 0.90 <= covered <= 0.99
    # An interval that took expressions for independent would be too narrow here.
    naive = [1.96 * np.sqrt(0.7 * 0.3 / n) for n in sizes.sum(axis=0)]
    assert np.mean([high - low for (low, high), _ in intervals]) > 1.5 * 2 * np.mean(naive)


def test_a_rare_column_that_no_draw_holds_has_no_interval():
    """Validation draws once; here none of the images with the second column."""
    drawn = next(drawn_images(400, 1, 0))[0]
    hits, sizes = np.zeros((400, 2)), np.ones((400, 2))
    sizes[drawn, 1], hits[::2] = 0, 1
    hits = np.minimum(hits, sizes)
    (whole, _), rare = ratio_intervals(hits, sizes, draws=1)
    assert whole[0] == whole[1] and rare == (None, "")
