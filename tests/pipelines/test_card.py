"""Cards: true of the weights in force, whoever named them."""

import json
import tomllib
from fnmatch import fnmatch

import pytest

from bench.errors import UsageError
from bench.grounding import PipelineCard
from bench.settings import PROJECT, shipped_options
from pipelines.card import CardOptions, card_in_force

OURS = {"proposer": ["yolo11x.pt"], "clip": ["openai"]}


def written(name="yolo-clip", dataset="refcoco"):
    table = tomllib.loads((PROJECT / "bench.toml").read_text())["pipelines"][name]
    return CardOptions(**(table["card"] if dataset != "shapes" else table["on"]["shapes"]["card"]))


def test_the_weights_it_was_written_for(context):
    facts = card_in_force(written(), OURS, context(dataset="refcoco"))
    assert facts == written().model_dump() and facts["saw_test_images"] == "yes"
    tiny = {"proposer": ["tiny-yolo.safetensors"], "clip": ["/somewhere/tiny-clip.safetensors"]}
    assert card_in_force(written(dataset="shapes"), tiny, context()) == written(dataset="shapes").model_dump()


@pytest.mark.parametrize(
    ("proposer", "saw", "trained_on"),
    [("yolov8x-worldv2.pt", "no", "proposer: Objects365, GoldG; clip: WebImageText"),
     ("PekingU/rtdetr_v2_r18vd/model.safetensors", "yes", "proposer: COCO train2017; clip: WebImageText"),
     ("ustc-community/dfine-xlarge-obj365/model.safetensors", "no", "proposer: Objects365; clip: WebImageText"),
     ("my-own.pt", "unknown", "proposer: not known; clip: WebImageText"),
     ("my_yolo11x.pt", "unknown", "proposer: not known; clip: WebImageText")],
)  # fmt: skip
def test_other_weights(context, proposer, saw, trained_on):
    facts = card_in_force(written(), OURS | {"proposer": [proposer]}, context(dataset="refcoco"))
    assert (facts["saw_test_images"], facts["trained_on"]) == (saw, trained_on)


STATED = {"trained_on": "my images", "saw_test_images": "no"}


@pytest.mark.parametrize(
    ("stated", "parts", "facts"),  # trained_on, licence, saw_test_images, supervision
    [pytest.param({}, {"proposer": [], "clip": ["openai"]}, ("WebImageText", "MIT", "no", "zero-shot"), id="gone"),
     pytest.param({}, {"proposer": ["my-own.pt"]}, ("", "", "unknown", "unknown"), id="one unknown part"),
     pytest.param({}, {"proposer": []}, ("nothing", "", "no", "none"), id="no weights"),
     pytest.param(STATED, OURS | {"proposer": ["my-own.pt"]},
                  ("my images", "proposer: not known; clip: MIT", "no", "unknown"), id="the user's word stands")],
)  # fmt: skip
def test_parts_that_are_gone_or_unknown(context, stated, parts, facts):
    card = card_in_force(written().model_copy(update=stated), parts, context(dataset="refcoco"))
    assert card == dict(zip(("trained_on", "licence", "saw_test_images", "supervision"), facts, strict=True))


def test_a_pipeline_of_somebody_else(context):
    somebody = context(name="mine", dataset="refcoco", options={})
    assert card_in_force(CardOptions(), {"model": ["x.pt"]}, somebody)["saw_test_images"] == "unknown"
    assert card_in_force(CardOptions(saw_test_images="no"), {"model": ["x.pt"]}, somebody)["saw_test_images"] == "no"
    assert card_in_force(CardOptions(), {"model": ["yolo11n.pt"]}, somebody)["saw_test_images"] == "yes"


def test_every_card_of_bench_toml_agrees_with_what_is_known():
    """Where a table names weights that known_weights.toml knows, the two must not tell different stories."""
    known = tomllib.loads((PROJECT / "pipelines" / "known_weights.toml").read_text())["weights"]
    checked = 0
    for name, table in tomllib.loads((PROJECT / "bench.toml").read_text())["pipelines"].items():
        weights = table.get("weights") or table.get("proposer", {}).get("weights")
        entry = next((e for e in known if weights and any(fnmatch(weights, p) for p in e["patterns"])), None)
        if entry and "card" in table:
            assert table["card"]["saw_test_images"] == entry["saw_test_images"], name
            checked += 1
    assert checked >= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pipeline", "dataset", "weights", "word"),
    [
        ("mdetr", "refcoco", ["refcoco_resnet101_checkpoint.pth"], "full"),  # those of bench.toml
        ("mdetr", "referit", ["pretrained_resnet101_checkpoint.pth"], "mixed"),
        ("mdetr", "refcoco", ["pretrained_EB5_checkpoint.pth"], "mixed"),  # others, which are known
        ("mdetr", "refcoco", ["mine.pth"], "unknown"),
        ("grounding-dino", "refcoco", ["IDEA-Research/grounding-dino-tiny"], "zero-shot"),
        ("grounding-dino", "flickr30k", ["IDEA-Research/grounding-dino-tiny"], "mixed"),
        ("mm-grounding-dino", "flickr30k", ["IDEA-Research/grounding-dino-tiny"], "mixed"),
        ("mm-grounding-dino", "refcoco", ["IDEA-Research/grounding-dino-base"], "mixed"),
        ("clipvg", "refcoco", ["clipvg-refcoco+.pth"], "full"),
        ("clipvg", "shapes", ["tiny-clipvg.safetensors", "tiny-other.safetensors"], "full"),
        ("clipvg", "refcoco", ["tiny-clipvg.safetensors"], "unknown"),
        ("yolo-clip", "refcoco", ["yolov8n.pt", "openai"], "zero-shot"),
        ("yolo-clip", "refcoco", ["yolov8n.pt", "mine.pt"], "unknown"),  # one part that nobody knows may hold anything
        ("yolo-clip", "refcoco", [], "none"),
    ],
)
def test_supervision_of_the_weights_in_force(context, pipeline, dataset, weights, word):
    card = CardOptions(**shipped_options(pipeline, dataset)["card"])
    here = context(name=pipeline, dataset=dataset)
    assert card_in_force(card, {"model": weights}, here)["supervision"] == word
    stated = card.model_copy(update={"supervision": "pseudo"})
    assert card_in_force(stated, {"model": weights}, here)["supervision"] == "pseudo"


def test_every_card_of_bench_toml_names_its_supervision():
    tables = tomllib.loads((PROJECT / "bench.toml").read_text())["pipelines"]
    cards = [
        t["card"] for table in tables.values() for t in (table, table.get("on", {}).get("shapes", {})) if "card" in t
    ]
    assert len(cards) > 20 and all("supervision" in card for card in cards)
    with pytest.raises(UsageError, match="supervision = 'cheated'; expected one of none, zero-shot, pseudo"):
        PipelineCard("x", "", supervision="cheated")
    with pytest.raises(TypeError, match="supervision"):
        PipelineCard("x", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("record", "trained_on", "supervision"),
    [
        ({"trained_on": {"split": "refcoco-train"}}, "refcoco-train", "full"),
        ({"trained_on": {"split": "refcoco-train", "labels": [{}]}}, "pseudo-labels of refcoco-train", "pseudo"),
        ({"trained_on": {"split": "refcoco+-train"}}, "refcoco+-train", "unknown"),
        (
            {
                "trained_on": {"split": "refcoco-train", "labels": [{}]},
                "started_from": {"trained_on": {"split": "refcoco-train"}, "started_from": "clip.safetensors"},
            },
            "weights not known; refcoco-train; pseudo-labels of refcoco-train",
            "full",
        ),
        (  # weights of others at the end of the chain: what is known of them
            {"trained_on": {"split": "refcoco-train", "labels": [{}]}, "started_from": "clipvg-refcoco.pth"},
            None,
            "full",
        ),
        (
            {"trained_on": {"split": "refcoco-train", "labels": [{}]}, "started_from": "somebodys.pth"},
            "weights not known; pseudo-labels of refcoco-train",
            "unknown",
        ),
        ({"trained_on": "refcoco-train"}, "", "unknown"),
        ([1], "", "unknown"),
    ],
)
def test_weights_that_bench_trained(context, tmp_path, record, trained_on, supervision):
    """Their record says what on; labels that a machine made are not annotations."""
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"")
    weights.with_suffix(".json").write_text(json.dumps(record))
    facts = card_in_force(written(), {"clipvg": [str(weights)]}, context(dataset="refcoco"))
    assert facts["supervision"] == supervision and facts["trained_on"] == (trained_on or facts["trained_on"])
    assert facts["saw_test_images"] == "unknown"
