"""Training data in one word: the card's own, else read off what it says, else unknown."""

import tomllib

import pytest

from bench.reporting.supervision import WORDS, supervision
from bench.settings import PROJECT


@pytest.mark.parametrize(
    ("trained_on", "split", "word"),
    [
        ("nothing", "refcoco-val", "none"),
        ("", "refcoco-val", "unknown"),
        ("YOLO: COCO train2017; CLIP: WebImageText", "refcoco-val", "zero-shot"),
        ("DETR: COCO train2017 (ResNet: ImageNet); CLIP: WebImageText", "refcoco+-testA", "zero-shot"),
        ("shapes-train", "shapes-val", "full"),
        ("CLIP: shapes-train", "shapes-test", "full"),
        ("shapes-train", "refcoco-val", "unknown"),
        ("refcoco+-train", "refcoco+-val", "full"),
        ("refcoco+-train", "refcoco-val", "unknown"),
        ("refcoco-train", "refcoco+-val", "unknown"),
        ("CLIP: WebImageText; CLIP-VG: the train split of the data set", "referit-test", "full"),
        ("CLIP: WebImageText; pseudo-labels of refcoco-train", "refcoco-val", "pseudo"),
        ("Objects365, GoldG, Cap4M", "refcoco-val", "zero-shot"),
        ("Objects365, GoldG, Cap4M", "flickr30k-test", "mixed"),
        ("COCO, Visual Genome, Flickr30k Entities without RefCOCO's val and test pictures", "refcoco-val", "unknown"),
        ("proposer: not known; clip: WebImageText", "refcoco-val", "unknown"),
        ("my pictures", "refcoco-val", "unknown"),
    ],
)
def test_read_off_what_the_card_says(trained_on, split, word):
    assert supervision({"trained_on": trained_on}, split) == word


def test_the_cards_own_word_wins():
    assert supervision({"trained_on": "shapes-train", "supervision": "pseudo"}, "shapes-val") == "pseudo"
    assert supervision({"trained_on": "shapes-train", "supervision": ""}, "shapes-val") == "full"
    assert supervision({"trained_on": "shapes-train", "supervision": "cheated"}, "shapes-val") == "full"


def test_cards_are_data():
    for value in (None, 3, ["COCO"], {"a": 1}, float("nan")):
        assert supervision({"trained_on": value, "supervision": value}, "refcoco-val") in WORDS


def test_the_zero_shot_pipelines_of_the_project():
    """Those whose cards name all they were trained on are known; a new source in bench.toml must be added here."""
    tables = tomllib.loads((PROJECT / "bench.toml").read_text(encoding="utf-8"))["pipelines"]
    words = {name: supervision(table.get("card", {}), "refcoco-val") for name, table in tables.items()}
    zero = {"yolo-clip", "detr-clip", "ssd-clip", "seg-clip", "clip-pooling", "reclip", "grounding-dino", "owlv2"}
    assert {name for name in zero if words[name] != "zero-shot"} == set()
    assert words["clipvg"] == "full" and words["qwen-vl"] == "unknown"
