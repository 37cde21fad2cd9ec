import pytest

from bench.errors import SettingsError, UnknownName
from pipelines.proposers.proposals import open_proposer


def test_a_table_without_a_kind_says_which_there_are(context):
    with pytest.raises(SettingsError, match=r"proposer\]: `kind`.*yolo"):
        open_proposer({"weights": "x.pt"}, "bench.toml [pipelines.mine.proposer]", context())


def test_an_unknown_kind_is_refused_with_the_nearest(context):
    with pytest.raises(UnknownName, match="yolo"):
        open_proposer({"kind": "yollo"}, "here", context())
