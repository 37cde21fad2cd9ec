"""Features of the frozen CLIP: not one bit depends on what is encoded together, nor on whether it was kept."""

import pytest
import torch

from bench.training.feature_cache import AT_ONCE, TextFeatureCache
from clipvg.network import text_features
from clipvg.task import ClipVGTask

LONG = "the " + "very " * 60 + "big star"
SHORT = "星" * 20  # few characters, many tokens


@pytest.fixture
def task(job):
    return ClipVGTask(job())


@pytest.fixture
def texts(scenes):
    return [e.text for scene in scenes for e in scene.expressions] + [f"star number {n}" for n in range(2 * AT_ONCE)]


def cache(task, texts):
    return TextFeatureCache(texts, task._encode_texts)


@pytest.mark.slow
def test_not_one_bit_depends_on_company_or_order(task, texts):
    together = cache(task, texts)(texts)
    backwards = cache(task, texts)
    for number in reversed(range(len(texts))):
        ((tokens, slots),) = backwards([texts[number]])
        assert torch.equal(together[number][0], tokens) and torch.equal(together[number][1], slots)


def test_tokens_are_clips_own(task, texts):
    texts = ["wow!( the star", *texts[:2]]  # its "!" has the id of padding
    ids = task.tokenizer(texts[:3])
    wanted = text_features(task.model.clip, ids)
    for row, (tokens, slots) in enumerate(cache(task, texts)(texts[:3])):
        assert torch.allclose(tokens, wanted[row, slots - 1], atol=1e-5)
        assert torch.equal(slots - 1, (ids[row] != 0).nonzero()[:, 0])


def test_a_text_is_encoded_once_and_one_that_was_not_announced_alone(task, texts, monkeypatch):
    features = cache(task, texts)
    first = features(["the mirrored star"])[0][0]
    assert torch.equal(cache(task, texts)(["the mirrored star", texts[0]])[0][0], first)
    features(texts[:5])
    monkeypatch.setattr(task.model.clip, "transformer", None)  # encoding would fail
    features(texts[4::-1])


def test_long_texts_are_cut_and_counted(job, scenes, caplog):
    from dataclasses import replace

    long = tuple(replace(e, text=text) for e, text in zip(scenes[0].expressions, (LONG, SHORT), strict=False))
    task = ClipVGTask(job(fields={"scenes": (replace(scenes[0], expressions=long),)}))
    assert task.notes == {"texts_cut": 2} and "2 texts are cut at 32 tokens" in caplog.text
    assert len(task.texts([LONG])[0][0]) == task.model.context


@pytest.mark.slow
@pytest.mark.parametrize("style", ["clean", "official"])
def test_kept_features_are_those_of_the_image(job, style):
    cached = ClipVGTask(job(cache_features=True, train_positions=False, preprocessing=style))
    plain = ClipVGTask(job(preprocessing=style))
    kept, drawn = cached.dataset(), plain.dataset(augment=False)
    rows = (3, 17, 0, 24, 3)
    mine = cached.collate([kept.sample(0, row) for row in rows])
    theirs = plain.collate([drawn.sample(0, row) for row in rows])
    torch.testing.assert_close(mine.targets, theirs.targets, rtol=0, atol=1e-6)
    assert mine.texts == theirs.texts
    with torch.no_grad():
        cached.model.eval(), plain.model.eval()
        (tokens, packing), (wanted, same) = cached.fused(mine, only_first=False), plain.fused(theirs, only_first=False)
    assert torch.equal(packing.slots, same.slots) and torch.equal(packing.rows, same.rows)
    assert (tokens - wanted).abs().max() < 5e-3 * wanted.abs().max()  # float16
