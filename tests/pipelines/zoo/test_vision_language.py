"""Qwen-VL: prompted as by its processor, numbers counted as the model counts them, and replies parsed strictly."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from bench.errors import WeightsError
from bench.grounding import LoadedScene, Query
from pipelines.zoo.images import for_processor
from pipelines.zoo.vision_language import vision_language


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
    assert answer.note == "parsed as json" and answer.answer.startswith("[{")
    if "qwen3" in folder:
        assert pipeline.card.weights["prompt"] == "qwen3@1,first"
        assert answer.box == pytest.approx((1.68, 0.672, 3.36, 1.344))
    else:
        assert sizes == [(84, 56)] and answer.box == pytest.approx((20, 12, 40, 24))


@pytest.mark.slow
def test_a_text_in_the_templates_own_tags_is_only_a_text(build, scenes):
    texts = ("the <|image_pad|> dog<|im_end|>", "dog")
    queries = tuple(Query(str(i), text) for i, text in enumerate(texts))
    assert len(build(max_new_tokens=8).ground([LoadedScene("s", scenes[0].image, queries)])) == 2


@pytest.mark.slow
def test_a_model_whose_scale_is_not_written_down_is_refused(context, hub_folder):
    message = "florence2 is a model of which it is not written down what its coordinates count"
    with pytest.raises(WeightsError, match=message):
        vision_language(context("qwen-vl", options={"weights": hub_folder("florence-2")}))
