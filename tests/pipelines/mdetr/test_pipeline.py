"""The pipeline: the plain answer in pixels of the image, whatever else is in the batch; phrases; its mistakes."""

from dataclasses import replace

import numpy as np
import plain_mdetr
import pytest
import torch
from operators import Operators

from bench.errors import SettingsError, WeightsError
from bench.grounding import Caption, LoadedScene, Query
from pipelines.mdetr.checkpoint import open_network
from pipelines.mdetr.pipeline import MdetrPipeline, mdetr
from pipelines.tokens import Tokenizer, small_tokenizer
from pipelines.weights import write_safetensors

TEXTS = ("the red star", "two dogs above a big square on the left", "the red star", "Yellow")
SENTENCE = "a big Yellow square, above it two dogs"


def image(width, height, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def scenes():
    sizes = [(90, 61), (61, 90), (90, 61), (40, 40)]
    return [
        LoadedScene(f"s{i}", image(*size, i), tuple(Query(f"{i}.{n}", t) for n, t in enumerate(TEXTS[: i + 1])))
        for i, size in enumerate(sizes)
    ]


@pytest.fixture
def opened(context, official, roberta_folder):
    """opened(**options): the pipeline on official weights, images of 64 pixels."""

    def make(dataset="refcoco", dtype="float32", several=False, **options):
        table = {"weights": str(official()), "tokenizer": str(roberta_folder), "short": 64, "long": 107}
        return mdetr(context("mdetr", dataset, table | options, dtype=dtype, several=several))

    return make


def test_answers_are_the_plain_ones(opened, network, scenes):
    pipeline = opened()
    answers = iter(pipeline.ground(scenes))
    weights = network().state_dict()
    with torch.inference_mode():
        for scene in scenes:
            height, width = scene.image.shape[:2]
            pixels = plain_mdetr.preprocessed(scene.image, 64, 107)
            for query in scene.queries:
                tokens = pipeline.tokenizer([query.text])[0][0]
                index, score, box = plain_mdetr.best(*plain_mdetr.forward(weights, pixels, tokens), width, height)
                answer = next(answers)
                assert (answer.id, answer.query_index, answer.note) == (query.id, index, "")
                assert answer.score == pytest.approx(score, abs=1e-5)
                assert answer.box == pytest.approx(box, abs=1e-5 * max(width, height))


def test_all_queries_boxes_where_several_are_wanted(opened, scenes):
    for one, every in zip(opened().ground(scenes), opened(several=True).ground(scenes), strict=True):
        assert (one.id, one.note) == (every.id, every.note) and np.allclose(one.box, every.box, atol=1e-6)
        scores = [each.score for each in every.boxes]
        assert one.score == pytest.approx(every.score) and 1 < len(scores) <= 9
        assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"images": 3, "texts": 64}, {"images": 1, "texts": 1}, {"texts": 3}])
def test_neither_batches_nor_chunks_matter(opened, scenes, options):
    alone = [answer for scene in scenes for answer in opened().ground([scene])]
    together = opened(**options).ground(scenes)
    assert [(a.id, a.query_index) for a in alone] == [(a.id, a.query_index) for a in together]
    np.testing.assert_allclose([a.box for a in together], [a.box for a in alone], atol=1e-3)
    np.testing.assert_allclose([a.score for a in together], [a.score for a in alone], atol=1e-5)


def test_a_scene_without_queries_and_the_same_text_twice(opened, scenes):
    pipeline = opened()
    assert pipeline.ground([LoadedScene("empty", image(50, 40, 9), ())]) == []
    answers = pipeline.ground(scenes[2:3])
    assert answers[0].box == answers[2].box and answers[0].id != answers[2].id


def test_images_and_texts_are_encoded_once(opened, scenes, monkeypatch):
    pipeline = opened(images=2)
    shapes, texts = [], []
    encode_image, encode_text = pipeline.model.encode_image, pipeline.model.encode_text
    monkeypatch.setattr(pipeline.model, "encode_image", lambda p: (shapes.append(tuple(p.shape)), encode_image(p))[1])
    monkeypatch.setattr(pipeline.model, "encode_text", lambda t, p: (texts.append(len(t)), encode_text(t, p))[1])
    first = pipeline.ground(scenes)
    assert sorted(shapes) == [(1, 3, 64, 64), (1, 3, 94, 64), (2, 3, 64, 94)]
    assert sum(texts) == len(set(TEXTS))
    assert [p.box for p in pipeline.ground(scenes)] == [p.box for p in first] and sum(texts) == len(set(TEXTS))
    pipeline.caches["texts"]()
    pipeline.ground(scenes)
    assert sum(texts) == 2 * len(set(TEXTS))


def test_phrases_share_their_caption(opened, network):
    pipeline = opened("flickr30k")
    spans = [(0, 19), (28, 36), (21, 29)]
    queries = tuple(Query(str(n), SENTENCE[a:b], Caption(SENTENCE, a, b)) for n, (a, b) in enumerate(spans))
    scene = LoadedScene("s", image(90, 61, 5), (*queries, Query("alone", SENTENCE)))
    answers = pipeline.ground([scene])
    with torch.inference_mode():
        tokens = pipeline.tokenizer([SENTENCE])[0][0]
        pixels = plain_mdetr.preprocessed(scene.image, 64, 107)
        logits, boxes = plain_mdetr.forward(network().state_dict(), pixels, tokens)
    for answer, (start, end) in zip(answers, spans, strict=False):
        encoded = pipeline.tokenizer.tokenizer(SENTENCE)
        mine = {encoded.char_to_token(c) for c in range(start, end)} - {None}
        scores = logits.softmax(-1)[:, sorted(mine)].amax(-1)
        assert answer.query_index == int(scores.argmax())
        assert answer.score == pytest.approx(float(scores.max()), abs=1e-5)
        cx, cy = (boxes[answer.query_index, :2] * torch.tensor([90, 61])).tolist()
        assert (answer.box[0] + answer.box[2]) / 2 == pytest.approx(cx, abs=1e-2)
        assert (answer.box[1] + answer.box[3]) / 2 == pytest.approx(cy, abs=1e-2)
        assert not answer.note
    assert answers[3].score > max(a.score for a in answers[:3])  # 1 - no object is the sum over all slots
    assert answers[3].note == "grounded without its caption, which the index lacks"


def test_a_text_that_is_cut_is_noted(opened):
    long = "the red star on the left of a small blue circle " * 5
    (answer,) = opened().ground([LoadedScene("s", image(50, 40, 9), (Query("0", long),))])
    assert answer.note.endswith("to 40 tokens")


@pytest.mark.parametrize("size", [(1, 1), (1000, 5), (3, 900)])
def test_extreme_images(opened, size):
    (answer,) = opened().ground([LoadedScene("s", image(*size, 9), (Query("0", "star"),))])
    assert np.isfinite(answer.box).all() and abs(answer.box[2]) < 3 * size[0] and abs(answer.box[3]) < 3 * size[1]


def test_a_small_model_brings_its_own_tokenizer_and_sizes(context, network, tmp_path, loaded):
    model = network("small")
    tokenizer = small_tokenizer([q.text for scene in loaded[1] for q in scene.queries], 64)
    metadata = {"format": "bench-mdetr", "config": model.config.model_dump(), "tokenizer": tokenizer}
    path = tmp_path / "tiny.safetensors"
    write_safetensors(path, model.state_dict(), metadata | {"short": 48, "long": 80})
    pipeline = mdetr(context("mdetr", "shapes", {"weights": str(path)}))
    assert (pipeline.short, pipeline.long, len(pipeline.tokenizer)) == (48, 80, len(Tokenizer.from_json(tokenizer)))
    answers = pipeline.ground(loaded[1][:3])
    assert len(answers) == sum(len(s.queries) for s in loaded[1][:3])
    assert mdetr(context("mdetr", "shapes", {"weights": str(path), "short": 32})).short == 32


def test_half_precision_keeps_the_heads_fine(opened, scenes):
    fine = opened().ground(scenes[:1])[0]
    pipeline = opened(dtype="bfloat16")
    assert pipeline.model.bbox_embed.layers[0].weight.dtype == torch.float32
    assert pipeline.model.transformer.encoder.layers[0].linear1.weight.dtype == torch.bfloat16
    coarse = pipeline.ground(scenes[:1])[0]
    assert coarse.score == pytest.approx(fine.score, abs=0.02)
    assert not np.allclose(coarse.box, fine.box, atol=1e-6)


def test_the_card(opened):
    card = opened().card
    without = "transformer.text_encoder.embeddings.position_ids"
    assert card.summary == f"MDETR, backbone small (model_ema, without {without})"
    assert card.parameters > 1e5 and list(card.sha256) == ["mdetr"]


def test_mistakes(context, opened, official, tmp_path):
    with pytest.raises(SettingsError, match=r"\[pipelines\.mdetr\]: unknown key 'token'"):
        opened(token="x")
    with pytest.raises(WeightsError, match=r"(?s)the tokenizer roberta-base is not there.*hf download roberta-base"):
        mdetr(context("mdetr", options={"weights": str(official()), "tokenizer": "roberta-base"}))
    with pytest.raises(WeightsError, match="zenodo"):
        mdetr(context("mdetr", "refcoco"))
    # A tokenizer of another model.
    (tmp_path / "other").mkdir()
    words = small_tokenizer([" ".join(f"w{i}" for i in range(500))], 1000)
    (tmp_path / "other" / "tokenizer.json").write_text(words)
    options = {"weights": str(official()), "tokenizer": str(tmp_path / "other")}
    with pytest.raises(WeightsError, match=r"a tokenizer of 504 tokens, but refcoco_small_checkpoint\.pth knows 340"):
        mdetr(context("mdetr", options=options))


def test_frozen_norms_are_folded_but_not_in_training(opened, network, context):
    """The pipeline of a file has none left, and counts its parameters as before; a network in training is untouched."""
    pipeline = opened()
    assert not [key for key in pipeline.model.backbone.state_dict() if "running" in key]
    assert pipeline.card.parameters == sum(p.numel() for p in network().parameters())
    loaded = open_network(pipeline.options.weights, pipeline.options.tokenizer, context("mdetr"))
    keys = list(loaded.network.state_dict())
    MdetrPipeline(pipeline.options, context("mdetr"), loaded)
    assert list(loaded.network.state_dict()) == keys


def test_a_batch_launches_few_operators_and_none_that_waits(context, network, roberta_folder, tmp_path):
    """8 images of two shapes x 7 expressions: prepared ahead, started without a wait, then read."""
    write_safetensors(path := tmp_path / "r18.safetensors", *as_file(network("resnet18"), roberta_folder))
    pipeline = mdetr(context("mdetr", options={"weights": str(path), "images": 8, "texts": 64}))
    rng, batch = np.random.default_rng(0), []
    for number in range(8):
        texts = [
            " ".join(rng.choice(["the", "red", "star", "left", "of", "a", "dog"], 4)) + f" {number} {n}"
            for n in range(7)
        ]
        pixels = image(*((90, 61) if number % 2 else (61, 90)), number)
        queries = tuple(Query(f"{number}.{n}", text) for n, text in enumerate(texts))
        batch.append(LoadedScene(str(number), pixels, queries, pipeline.prepare(pixels)))
    expected = pipeline.ground([replace(scene, prepared=None) for scene in batch])
    pipeline.engine.forget_texts()
    with Operators() as operators:
        finish = pipeline.launch(batch)
        launched = operators.launched.total()
        answers = finish()
    assert operators.launched.total() == launched and operators.waiting == []
    assert [(a.id, a.box) for a in answers] == [(a.id, a.box) for a in expected]
    # Frozen norms that are not folded would be hundreds more.
    assert launched <= 300, operators.launched


def as_file(network, roberta_folder):
    """State and metadata of a weights file for images of 64 pixels."""
    words = small_tokenizer(["the red star left of a dog", *map(str, range(8))], 64)
    metadata = {"format": "bench-mdetr", "config": network.config.model_dump(), "tokenizer": words}
    return network.state_dict(), metadata | {"short": 64, "long": 107}
