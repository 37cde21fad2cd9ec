"""The ranker: cosines summed over views and models, score subtraction, and rules where an expression compares."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from bench.errors import SettingsError
from bench.grounding import LoadedScene, Query
from pipelines.two_stage.clip.ranking import BANK, Ranker, RankerOptions, softmax
from pipelines.two_stage.proposers.proposals import Proposals

CLOCK = SimpleNamespace(stage=lambda name: nullcontext())
BOXES = np.array([[0, 0, 20, 20], [40, 0, 60, 20], [80, 0, 100, 20]], float)
SCENE = LoadedScene("s", np.random.default_rng(0).integers(0, 255, (20, 100, 3), np.uint8), ())


class Encoder:
    """An encoder whose vectors are known: of a view its mean colour, of a text what the table says."""

    device = torch.device("cpu")

    def __init__(self, texts, size=8, scale=10.0, model="known"):
        self.table, self.image_size, self.scale = texts, size, scale
        self.options = SimpleNamespace(model=model, pretrained="none")

    def encode_images(self, views):
        return F.normalize(views.mean((2, 3)), dim=1)

    def encode_texts(self, texts):
        return F.normalize(
            torch.stack([torch.as_tensor(self.table(text), dtype=torch.float32) for text in texts]), dim=1
        )

    def cut(self, text):
        return "cut" if len(text) > 30 else ""


def ranked(options, encoders, *texts, boxes=BOXES, image=SCENE.image):
    queried = LoadedScene("s", image, tuple(Query(str(n), text) for n, text in enumerate(texts)))
    proposals = Proposals(boxes, np.ones(len(boxes)), ("",) * len(boxes))
    return Ranker(RankerOptions(**options), encoders, CLOCK).rank([queried], [proposals])[0]


def colours(text):
    return [("red" in text) + 0.1, ("green" in text) + 0.1, ("blue" in text) + 0.1]


def painted(*rgb):
    """An image whose boxes of BOXES have these colours."""
    image = np.full((20, 100, 3), 127, np.uint8)
    for (x, *_), colour in zip(BOXES.astype(int), rgb, strict=True):
        image[:, x : x + 20] = colour
    return image


def test_logits_are_summed_over_views_and_models():
    few = Encoder(colours), Encoder(lambda text: colours(text)[::-1], size=12, scale=3.0)
    together = ranked({"views": ["crop", "blur"]}, few, "red thing", "blue thing")
    apart = [ranked({"views": [view]}, [e], "red thing", "blue thing") for e in few for view in ("crop", "blur")]
    assert together.shape == (2, 3)
    np.testing.assert_allclose(together, softmax(sum(np.log(p) for p in apart)), atol=1e-5)
    np.testing.assert_allclose(together.sum(1), 1)


def test_subtraction_takes_away_what_every_caption_likes():
    """Every caption of the bank likes red; the text likes it a little, and blue a little less."""

    def table(text):
        return [1.0, 0, 0] if text in BANK else [0.75, 0, 0.66]

    image, options = painted((255, 0, 0), (0, 255, 0), (0, 0, 255)), {"views": ["crop"], "prompt": "{}"}
    plain, less, both = (
        ranked(options | {"subtract": weight}, [Encoder(table)] * models, "it", image=image)[0]
        for weight, models in ((0.0, 1), (1.0, 1), (1.0, 2))
    )
    assert plain.argmax() == 0 and less.argmax() == 2
    np.testing.assert_allclose(both, softmax(2 * np.log(less)), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "index"),
    [("red thing", None), ("left red thing", 0), ("red thing on the right", 2), ("second red thing from the left", 1)],
)
def test_rules_single_one_out_of_equals(text, index):
    image = painted(*[(255, 0, 0)] * 3)
    off, on = (
        ranked({"views": ["crop"], "relations": r}, [Encoder(colours)], text, image=image)[0] for r in ("off", "rules")
    )
    np.testing.assert_allclose(off, 1 / 3, atol=5e-3)
    if index is None:
        np.testing.assert_array_equal(on, off)
    else:
        assert on.argmax() == index and np.isclose(on.sum(), 1)


def test_rules_find_the_other_thing():
    """The red one right of the blue one, not the one left of it: CLIP alone cannot tell them apart."""
    image = painted((255, 0, 0), (0, 0, 255), (250, 0, 0))
    texts, options = [f"red thing {side} of the blue thing" for side in ("right", "left")], {"relations": "rules"}
    chances = ranked({"views": ["crop"], **options}, [Encoder(colours)], *texts, image=image)
    assert chances.argmax(1).tolist() == [2, 0]


def test_one_box_or_none_is_ranked_all_the_same():
    one = ranked({"relations": "rules"}, [Encoder(colours)], "left red thing", "the biggest", boxes=BOXES[:1])
    np.testing.assert_allclose(one, 1)
    none = ranked({"relations": "rules"}, [Encoder(colours)], "left red thing", boxes=np.zeros((0, 4)))
    assert none.shape == (1, 0)


def test_a_cut_text_is_noted_with_its_model():
    long, one, two = "x" * 40, Encoder(colours), Encoder(colours, model="other")
    assert Ranker(RankerOptions(), [one], CLOCK).note(long) == "cut"
    assert Ranker(RankerOptions(prompt="{}"), [one], CLOCK).note("x") == ""
    assert Ranker(RankerOptions(), [one, two], CLOCK).note(long) == "known: cut; other: cut"


def test_masks_that_are_not_there_are_asked_for():
    with pytest.raises(SettingsError, match=r"mask-blur.*masks"):
        ranked({"views": ["mask-blur"]}, [Encoder(colours)], "red thing")


@pytest.mark.parametrize(
    "wrong", [{"views": []}, {"relations": "on"}, {"temperature": 0}, {"prompt": "x"}, {"vews": 1}]
)
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValidationError):
        RankerOptions(**wrong)


def test_the_roi_view_needs_the_whole_image():
    with pytest.raises(ValidationError, match=r"roi.*whole image"):
        RankerOptions(views=("crop", "roi"), resize="center")
