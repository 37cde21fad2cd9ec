"""From what regions score to a box: exact, the same for every scale, and never NaN."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.two_stage.segments.score_map import MapOptions, best_on_maps, cells, score_maps
from pipelines.two_stage.segments.segmentation import segmentation_of

CLASSIC = MapOptions()
LI = MapOptions(temperature=1.0, quantile=0.0, threshold=0.0, area=0.8)


def one_thing(box, shape=(24, 32)):
    """A cut in two: region 1 is the box (in the level's pixels), region 0 the rest."""
    labels = np.zeros(shape, int)
    labels[box[1] : box[3], box[0] : box[2]] = 1
    return labels


@pytest.mark.slow
@pytest.mark.parametrize("options", [CLASSIC, LI])
@pytest.mark.parametrize("size", [(32, 24), (640, 480), (100, 51)])
@given(st.integers(0, 28), st.integers(0, 20), st.integers(2, 30), st.integers(2, 22))
def test_the_likely_region_is_the_box_to_the_pixel(size, options, x, y, w, h):
    box = [x, y, min(x + w, 32), min(y + h, 24)]
    if (box[2] - box[0]) * (box[3] - box[1]) > 150:  # under a quarter of the image, as the quantile supposes
        return
    cut = segmentation_of(size, [one_thing(box)])
    boxes, scores = best_on_maps(np.array([[0.02, 0.98]]), cut, options)
    assert boxes[0] == pytest.approx(_scaled(box, size))
    assert scores[0] == pytest.approx(1)


def _scaled(box, size):
    return np.array(box) * np.array([size[0] / 32, size[1] / 24] * 2)


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.sampled_from([CLASSIC, LI]))
def test_any_chances_give_a_box_inside_the_image(chances, options):
    halves = one_thing([0, 0, 16, 24])
    cut = segmentation_of((64, 48), [halves, one_thing([8, 8, 20, 20]), one_thing([20, 2, 30, 20])])
    boxes, scores = best_on_maps(np.array([chances, chances[::-1]]), cut, options)
    assert np.isfinite(boxes).all() and np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1 + 1e-9).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all() and (boxes >= 0).all() and (boxes <= [64, 48, 64, 48]).all()


def test_the_map_is_scaled_as_a_whole():
    """Column by column, as the classic pipeline does it by mistake, every column would reach 1."""
    columns = np.arange(8)[None].repeat(4, 0)
    cut = segmentation_of((8, 4), [columns])
    maps = score_maps(np.exp(np.arange(8.0))[None], cut.brush(4, 8), MapOptions(quantile=0.0))
    assert maps[0, 0] == pytest.approx(np.arange(8) / 7)
    cut_off = score_maps(np.exp(np.arange(8.0))[None], cut.brush(4, 8), MapOptions(quantile=0.5))
    assert cut_off[0, 0] == pytest.approx(np.maximum(np.arange(8) - 3.5, 0) / 3.5)


def test_a_image_that_tells_nothing_is_answered_with_itself():
    nothing = segmentation_of((90, 60), [np.zeros((6, 9), int)])
    alike = segmentation_of((90, 60), [one_thing([2, 2, 5, 5], (6, 9))])
    for cut, chances in ((nothing, np.ones((2, 1))), (alike, np.full((2, 2), 0.5))):
        boxes, scores = best_on_maps(chances, cut, CLASSIC)
        assert boxes.tolist() == [[0, 0, 90, 60]] * 2 and scores.tolist() == [0, 0]


def test_a_higher_price_makes_a_smaller_box():
    rings = np.maximum(np.abs(np.arange(20) - 9.5)[:, None], np.abs(np.arange(20) - 9.5)[None]).astype(int)
    cut = segmentation_of((20, 20), [rings])
    chances = np.exp(-0.4 * np.arange(10.0))[None]
    areas = []
    for area in (0.5, 1.0, 2.0, 4.0):
        (box,), _ = best_on_maps(chances, cut, LI.model_copy(update={"area": area}))
        areas.append((box[2] - box[0]) * (box[3] - box[1]))
    assert areas == sorted(areas, reverse=True) and areas[0] > areas[-1]


@pytest.mark.parametrize(
    ("shape", "expected"), [((240, 320), (30, 40)), ((320, 240), (40, 30)), ((50, 10000), (1, 40)), ((1, 1), (1, 1)),
                            ((6, 9), (6, 9))]
)  # fmt: skip
def test_cells_are_nearly_square_and_none_is_smaller_than_a_pixel(shape, expected):
    assert cells(shape, 40) == expected


def test_a_thing_that_fills_the_image_is_boxed_whole():
    """Where the map's mean makes a cell dearer than the best one is worth, the best region still is the answer."""
    cut = segmentation_of((320, 240), [one_thing([1, 1, 31, 23])])
    options = MapOptions(temperature=1.0, quantile=0.0, threshold=0.0, area=2.5)
    boxes, _ = best_on_maps(np.array([[0.02, 0.98]]), cut, options)
    assert boxes[0] == pytest.approx(_scaled([1, 1, 31, 23], (320, 240)))


def test_noise_of_the_encoder_does_not_choose_between_equal_boxes():
    cut = segmentation_of((64, 48), [one_thing([4, 4, 12, 12])])
    options = MapOptions(temperature=1.0, quantile=0.0, threshold=0.0, area=2.5)
    plain = best_on_maps(np.array([[0.3, 0.7]]), cut, options)[0]
    for noise in (1e-9, -1e-9, 3e-10):
        assert (best_on_maps(np.array([[0.3 - noise, 0.7 + noise]]), cut, options)[0] == plain).all()
