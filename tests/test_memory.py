"""Chunks that halve where memory runs out: every item once, in order, and the smaller size reported."""

import pytest

from bench.errors import DeviceError
from bench.memory import in_chunks

pytestmark = pytest.mark.slow


def limited(most):
    def work(chunk):
        if len(chunk) > most:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return list(chunk)

    return work


@pytest.mark.parametrize(("most", "sizes"), [(9, []), (4, [(8, 4)]), (1, [(8, 4), (4, 2), (2, 1)])])
def test_every_item_comes_once_in_order(most, sizes):
    halved = []
    chunks = list(in_chunks(range(11), 8, limited(most), lambda *sizes: halved.append(sizes)))
    assert [item for chunk in chunks for item in chunk] == list(range(11)) and halved == sizes


def test_a_single_item_that_does_not_fit_and_other_errors():
    with pytest.raises(DeviceError, match="a single item"):
        list(in_chunks(range(3), 2, limited(0)))
    with pytest.raises(RuntimeError, match="shape"):
        list(in_chunks(range(3), 2, lambda _: (_ for _ in ()).throw(RuntimeError("shape"))))
