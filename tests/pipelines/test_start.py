"""A pipeline that goes on from another's boxes: its table of bench.toml, and one card for both."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_world import make_context

from bench.errors import SettingsError
from bench.evaluation.opening import pipeline_context
from bench.grounding import LoadedScene, PipelineCard, Query
from bench.settings import PROJECT, load_settings
from pipelines.start import joined_caches, joined_card, open_start


def context(tmp_path, start, table=""):
    path = tmp_path / "bench.toml"
    path.write_text(f"[pipelines.centre-box]\nshare = 0.25\n{table}")
    return pipeline_context("refiner", "shapes", load_settings(path), {"start": start})


def test_the_table_of_the_pipeline_lies_under_what_start_says(tmp_path):
    assert context(tmp_path, "centre-box").options["start"] == {"kind": "centre-box", "share": 0.25}
    changed = context(tmp_path, {"kind": "centre-box", "share": 0.75}).options["start"]
    assert changed == {"kind": "centre-box", "share": 0.75}
    clipvg = context(tmp_path, "clipvg").options["start"]
    assert clipvg["weights"] == "clipvg/weights/tiny-clipvg.safetensors"  # those for the data set
    chain = context(tmp_path, "centre-box", "start = 'clipvg'\n").options["start"]
    assert chain["start"]["kind"] == "clipvg" and chain["start"]["clip"]["model"] == "tiny-clip-120"


@pytest.mark.parametrize("word", ["noise", 0.5, {"steps": 2}])
def test_what_names_no_pipeline_stays(tmp_path, word):
    assert context(tmp_path, word).options["start"] == word


def test_no_pipeline_starts_from_itself(tmp_path):
    message = (
        r"refiner\]: start: refiner starts from centre-box starts from clipvg starts from centre-box; name another"
    )
    with pytest.raises(SettingsError, match=message):
        context(tmp_path, "centre-box", "start = 'clipvg'\n[pipelines.clipvg]\nstart = 'centre-box'\n")


def test_it_is_opened_with_its_own_options(tmp_path):
    whole = make_context(PROJECT, name="refiner", options=context(tmp_path, "centre-box").options)
    opened = open_start(whole.options["start"], whole)
    scene = LoadedScene("s", np.zeros((40, 80, 3), np.uint8), (Query("q", "it"),))
    assert opened.card.name == "centre-box" and opened.ground([scene])[0].box == (30.0, 15.0, 50.0, 25.0)
    for wrong in ("noise", {"share": 0.5}):
        with pytest.raises(SettingsError, match=r"refiner\]: start: .* is no pipeline; name one of .*centre-box"):
            open_start(wrong, whole)


def test_the_card_of_both_has_the_worse_words_and_all_weights():
    own = PipelineCard("refiner", "moves boxes", weights={"policy": "p"}, sha256={"policy": "1"}, trained_on="a",
                       licence="MIT", saw_test_images="no", parameters=3, supervision="full",
                       accelerated=frozenset({"compile", "dtype"}))  # fmt: skip
    before = PipelineCard("other", "finds boxes", weights={"policy": "q"}, sha256={"policy": "2"}, trained_on="b",
                          licence="MIT", saw_test_images="yes", parameters=4, supervision="zero-shot",
                          proposals="gt", accelerated=frozenset({"dtype"}))  # fmt: skip
    card = joined_card(own, before)
    assert card.weights == {"policy": "p", "start policy": "q"} and card.sha256 == {"policy": "1", "start policy": "2"}
    assert (card.saw_test_images, card.supervision, card.proposals) == ("yes", "full", "gt")
    assert (card.trained_on, card.licence, card.parameters, card.accelerated) == ("a; b", "MIT", 7, {"dtype"})
    assert card.summary == "moves boxes; from the boxes of other (finds boxes)" and card.name == "refiner"
    assert joined_card(own, replace(before, supervision="unknown", parameters=None)).parameters is None


def test_caches_of_one_name_are_emptied_together():
    emptied = []
    start = SimpleNamespace(caches={"texts": lambda: emptied.append("start"), "boxes": lambda: emptied.append("boxes")})
    both = joined_caches({"texts": lambda: emptied.append("own")}, start)
    both["texts"](), both["boxes"]()
    assert emptied == ["own", "start", "boxes"] and set(joined_caches({"texts": emptied.clear}, None)) == {"texts"}
