"""Attention maps: levels, what a file may have, drawings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.attention import AttentionMap
from bench.reporting.drawing import draw_answer


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_a_map_keeps_shares_of_the_largest(rows, columns, seed):
    weights = np.random.default_rng(seed).random((rows, columns))
    made = AttentionMap.of(weights)
    assert AttentionMap.stored(list(made)) == made
    np.testing.assert_allclose(made.shares, weights / weights.max(), atol=0.5 / 63 + 1e-9)


def test_weights_that_are_nothing_or_not_finite():
    assert AttentionMap.of(np.zeros((1, 2))).cells == "AA"
    assert AttentionMap.of(np.array([[np.nan, np.inf, 3.0]])).cells == "AA/"


@pytest.mark.parametrize("values", [[1, 2, "A"], [1, 1, "?"], [1, 1, 5], [1, 2]])
def test_what_is_no_map_is_refused(values):
    with pytest.raises(ValueError, match=r"attention map of|unpack"):
        AttentionMap.stored(values)


def test_an_image_is_coloured_where_attention_went():
    image = np.full((40, 60, 3), 100, np.uint8)
    there = AttentionMap.of(np.array([[0.0, 1.0]]))
    plain, heated = (np.asarray(draw_answer(image, None, "x", attention=which)) for which in (None, there))
    assert (heated[20, 5] == plain[20, 5]).all() and heated[20, 55, 0] > 180 > heated[20, 55, 2] + 100
