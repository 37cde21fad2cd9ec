import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.places import PlaceReader, covered, grid_of

share = st.floats(0, 1, width=32)


@given(share, share, share, share, st.integers(1, 9), st.integers(1, 9))
def test_covered_cells_are_those_whose_centre_is_inside(cx, cy, w, h, rows, columns):
    cells = covered(torch.tensor([[cx, cy, w, h]]), (rows, columns))[0]
    own = (min(rows - 1, int(cy * rows)), min(columns - 1, int(cx * columns)))
    for i in range(rows):
        for j in range(columns):
            x, y = (j + 0.5) / columns, (i + 0.5) / rows
            across, down = abs(x - cx) - w / 2, abs(y - cy) - h / 2
            if min(abs(across), abs(down)) > 1e-5:  # on the edge itself, either answer is right
                in_columns = across < 0 or j == own[1]
                in_rows = down < 0 or i == own[0]
                assert bool(cells[i, j]) == (in_rows and in_columns)
    assert cells[own]


@pytest.mark.parametrize("size", [(112, 149), (800, 1333), (33, 47), (1, 1)])
@pytest.mark.parametrize("halvings", [3, 4, 5])
def test_the_grid_is_the_one_that_strided_convolutions_make(size, halvings):
    height, width = size
    for _ in range(halvings):
        height, width = (height + 1) // 2, (width + 1) // 2
    assert grid_of(torch.zeros(1, 3, *size), height * width) == (height, width)


def test_no_grid_of_that_many_places():
    with pytest.raises(ValueError, match=r"7 places.*64 x 64"):
        grid_of(torch.zeros(1, 3, 64, 64), 7)


def test_the_reader_gives_logits_and_boxes():
    said, boxes = PlaceReader(8, 3)(torch.randn(2, 5, 6, 8))
    assert said.shape == (2, 5, 6, 3) and boxes.shape == (2, 5, 6, 4) and boxes.min() >= 0 and boxes.max() <= 1
