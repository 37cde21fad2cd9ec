"""Florence-2: prompted as by its processor, features shared, and boxes out of the tokens it writes."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from bench.grounding import LoadedScene
from pipelines.zoo.florence import TASK, florence
from pipelines.zoo.images import for_processor

NONE = "no box: the answer cannot be parsed"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(hub_folder):
    return hub_folder("florence-2")


@pytest.fixture(scope="module")
def library(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoProcessor.from_pretrained(folder), model


@pytest.fixture
def build(context, folder):
    def make(dtype="float32", **options):
        return florence(context("florence-2", options={"weights": folder} | options, dtype=dtype))

    return make


@pytest.mark.slow
def test_asked_as_the_processor_asks(build, library, scenes):
    """The same tokens, and the same next token's logits, as the library's own processor and plain forward pass."""
    processor, model = library
    pipeline = build()
    for scene in scenes:
        canvas = for_processor(scene.image)
        texts = [query.text for query in scene.queries]
        pixels = pipeline.processor.image_processor(images=canvas, return_tensors="pt")
        samples = pipeline.model.get_image_features(pixels["pixel_values"], return_dict=True)
        ours = pipeline.generation_inputs(samples, texts)
        given = {"text": [TASK + text for text in texts], "images": [canvas] * len(texts)}
        plain = processor(**given, padding=True, return_tensors="pt")
        assert torch.equal(ours["input_ids"], plain["input_ids"])
        assert torch.equal(ours["attention_mask"], plain["attention_mask"])
        how = {"max_new_tokens": 3, "num_beams": 1, "do_sample": False}
        how |= {"output_logits": True, "return_dict_in_generate": True}
        a, b = pipeline.model.generate(**ours, **how), model.generate(**plain, **how)
        assert torch.equal(a.sequences, b.sequences)
        assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a.logits, b.logits, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replies", "boxes"),
    [
        ("</s><s>red box<loc_0><loc_0><loc_999><loc_999></s>", [(0.1, 0.05, 199.9, 99.95)]),
        (
            "<s>dog<loc_100><loc_200><loc_300><loc_400><loc_1><loc_2><loc_3><loc_4>cat<loc_500><loc_500><loc_600><loc_600></s>",
            [(20.1, 20.05, 60.1, 40.05), (0.3, 0.25, 0.7, 0.45), (100.1, 50.05, 120.1, 60.05)],
        ),
        ("<s>it<loc_1><loc_2><loc_3><loc_4>dog<loc_5><loc_6><loc_7><loc_8></s>", [(1.1, 0.65, 1.5, 0.85)]),
        ("<s>a dog and nothing more</s><pad>", []),
        ("<s>dog<loc_1><loc_2><loc_3></s>", []),
        ("", []),
    ],
)
def test_boxes_of_what_is_written(build, replies, boxes):
    """Bin n of a thousand is (n + 1/2) thousandths of a side, to the last digit; banned phrases are passed over."""
    assert np.allclose(build().boxes(replies, (200, 100)), boxes)


def test_the_first_box_or_a_miss_that_says_so(build, scenes, monkeypatch):
    replies = {
        scenes[0].queries[0].text: "<s>box<loc_0><loc_0><loc_500><loc_500>cat<loc_1><loc_2><loc_3><loc_4></s>",
        scenes[0].queries[1].text: "<s>dog<loc_0><loc_0><loc_500><loc_500></s>",
        scenes[0].queries[2].text: "<s>man</s>",
    }
    pipeline = build()
    monkeypatch.setattr(pipeline, "generate", lambda canvas, texts: replies)
    scene = LoadedScene("s", scenes[0].image, scenes[0].queries[:3])
    answers = pipeline.ground([scene])
    assert [a.note for a in answers] == ["parsed as tags; the first of 2 boxes", "parsed as tags", NONE]
    assert answers[0].box == answers[1].box == pytest.approx((0.04, 0.024, 40.04, 24.024)) and answers[2].box is None
