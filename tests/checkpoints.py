"""Opening weights files of CLIP-VG in tests, and seeing them refused."""

import plain_clipvg
import pytest

from bench.errors import WeightsError
from clipvg.checkpoint import open_network


def opened(path, context, **kwargs):
    return open_network(str(path), context(), **kwargs)


def refused(path, context, *said):
    """That `path` is a WeightsError which names the file and says all of `said`."""
    with pytest.raises(WeightsError) as caught:
        opened(path, context)
    for part in (path.name, *said):
        assert part in str(caught.value), part


def named(key):
    return [key, *plain_clipvg.aliases(key)]
