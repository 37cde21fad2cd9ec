"""A training's job: what is refused before anything is opened."""

from dataclasses import replace

import pytest

from bench.datasets.split import Split
from bench.errors import UsageError
from bench.settings import Resolved, Settings
from bench.training.setup import make_job


def test_a_split_of_none_and_several_is_refused(tmp_path):
    plain = Split("x-train", "", (), None)
    several = replace(plain, name="y-val", several=True)
    for pair in ((plain, several), (several, plain)):
        with pytest.raises(UsageError, match=r"y-val: some expressions refer to nothing .* needs one box for each"):
            make_job("clipvg", *pair, Resolved(Settings()), {}, tmp_path)
