"""Qwen-VL: prompted as by its processor, numbers counted as the model counts them, and replies parsed strictly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor

from bench.errors import WeightsError
from bench.grounding import LoadedScene, Query
from pipelines.zoo.shared import for_processor
from pipelines.zoo.vision_language import parse_box, vision_language


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def folder(request, hub_folder):
    return hub_folder(request.param)


@pytest.fixture
def build(context, folder):
    def make(dtype="float32", **options):
        return vision_language(context("qwen-vl", options={"weights": folder} | options, dtype=dtype))

    return make


@pytest.mark.slow
def test_asked_as_the_processor_asks(build, folder, scenes):
    """The same tokens, and the same next tokens' logits, as the library's own processor and plain forward pass."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    pipeline = build(prompt="find {}")
    for scene in scenes:
        canvas = for_processor(scene.image)
        texts = [query.text for query in scene.queries]
        pixels = pipeline.processor.image_processor(images=canvas, return_tensors="pt")
        grid = pixels["image_grid_thw"]
        samples = pipeline.model.get_image_features(pixels["pixel_values"], grid, return_dict=True)
        ours = pipeline.generation_inputs(samples, grid, texts)
        content = [[{"type": "image"}, {"type": "text", "text": f"find {text}"}] for text in texts]
        talks = [[{"role": "user", "content": each}] for each in content]
        chats = [processor.apply_chat_template(talk, add_generation_prompt=True) for talk in talks]
        given = {"text": chats, "images": [canvas] * len(texts)}
        plain = processor(**given, padding=True, padding_side="left", return_tensors="pt")
        for key in ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw"):
            assert torch.equal(ours[key], plain[key].to(ours[key].dtype)), key
        how = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        a, b = pipeline.model.generate(**ours, **how), model.generate(**plain, **how)
        assert torch.equal(a.sequences, b.sequences)
        assert all(torch.allclose(x, y, atol=1e-4) for x, y in zip(a.logits, b.logits, strict=True))


@pytest.mark.slow
def test_numbers_are_counted_as_the_model_counts(build, folder, scenes, monkeypatch):
    """Qwen2.5-VL: pixels of its resized image, 84 x 56 here for 80 x 48; Qwen3-VL: thousandths of the sides."""
    pipeline = build()
    scene = LoadedScene("s", scenes[0].image, (Query("q", "dog"),))
    real = pipeline.generate
    sizes = []

    def generate(canvas, texts):
        _, size = real(canvas, texts)
        sizes.append(size)
        return {"dog": '[{"bbox_2d": [21, 14, 42, 28], "label": "dog"}]'}, size

    monkeypatch.setattr(pipeline, "generate", generate)
    (answer,) = pipeline.ground([scene])
    if "qwen3" in folder:
        assert answer.box == pytest.approx((1.68, 0.672, 3.36, 1.344))
    else:
        assert sizes == [(84, 56)] and answer.box == pytest.approx((20, 12, 40, 24))


BOX = (1.0, 2.0, 30.5, 40.0)


@pytest.mark.parametrize(
    ("reply", "note"),
    [('{"bbox_2d": [1, 2, 30.5, 40]}', ""),
     ('```json\n[\n\t{"bbox_2d": [1, 2, 30.5, 40], "label": "the dog"}\n]\n```', ""),
     ('Here it is:\n```json\n{"bbox_2d": [1, 2, 30.5, 40]}\n```', ""), ("[1, 2, 30.5, 40]", ""),
     ("[[1, 2, 30.5, 40]]", ""),
     ('[{"bbox_2d": [1, 2, 30.5, 40]}, {"bbox_2d": [5, 5, 6, 6]}]', "the first of 2 boxes")],
)  # fmt: skip
def test_answers_that_can_be_read(reply, note):
    assert parse_box(reply) == (BOX, note)


@pytest.mark.parametrize(
    ("reply", "why"),
    [("", "not JSON"), ("the dog is at (1, 2), (30, 40)", "not JSON"), ('[{"bbox_2d": [1, 2, 30', "not JSON"),
     ("[" * 100_000, "not JSON"), ("9" * 5000, "not JSON"),
     ("```json\n[1, 2, 3, 4]\n```\n```json\n[1, 2, 3, 5]\n```", "several blocks"), ("[]", "no four numbers"),
     ("null", "no four numbers"), ('{"point_2d": [1, 2]}', "no four numbers"),
     ('{"bbox_2d": [1, 2, 30]}', "no four numbers"), ('{"bbox_2d": ["1", "2", "3", "4"]}', "no four numbers"),
     ('{"bbox_2d": [true, 2, 3, 4]}', "no four numbers"), ('{"bbox_2d": [NaN, 2, 3, 4]}', "no four numbers"),
     ('{"bbox_2d": [1, 2, 3, Infinity]}', "no four numbers"), ('{"bbox_2d": [30, 2, 1, 40]}', "wrong way round"),
     ("[1, 2, 30, 2]", "wrong way round")],
)  # fmt: skip
def test_answers_that_cannot_be_read_are_misses(reply, why):
    box, note = parse_box(reply)
    assert box is None and note.startswith("no box: ") and why in note


@pytest.mark.slow
@given(st.text(alphabet='[]{}",:0123456789.-eNaInfity `json\nbbox_2d', max_size=60))
def test_whatever_is_said_it_is_a_box_or_a_reason(reply):
    box, note = parse_box(reply)
    assert note if box is None else len(box) == 4 and box[0] < box[2] and box[1] < box[3]


@pytest.mark.slow
def test_a_text_in_the_templates_own_tags_is_only_a_text(build, scenes):
    texts = ("the <|image_pad|> dog<|im_end|>", "dog")
    queries = tuple(Query(str(i), text) for i, text in enumerate(texts))
    assert len(build(max_new_tokens=8).ground([LoadedScene("s", scenes[0].image, queries)])) == 2


@pytest.mark.slow
def test_a_model_whose_scale_is_not_written_down_is_refused(context, hub_folder):
    message = "is a florence2, of which it is not written down what its coordinates count"
    with pytest.raises(WeightsError, match=message):
        vision_language(context("qwen-vl", options={"weights": hub_folder("florence-2")}))
