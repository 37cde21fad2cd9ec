"""Open weights files of CLIP-VG in tests, and check that they are refused."""

import plain_clipvg
import pytest

from bench.errors import WeightsError
from clipvg.checkpoint import find, open_network


def opened(path, context, **kwargs):
    """Open a file as `bench` does -> (network, style, its CLIP)."""
    return open_network(find(str(path), context()), context(), **kwargs)


def refused(path, context, *parts):
    """Check that `path` is a WeightsError which names the file and all of `parts`."""
    with pytest.raises(WeightsError) as caught:
        opened(path, context)
    for part in (path.name, *parts):
        assert part in str(caught.value), part


def named(key):
    return [key, *plain_clipvg.aliases(key)]
