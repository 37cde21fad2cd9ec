"""The ids of texts are those of open_clip's own tokenizer, on real expressions and on any other text."""

import json
import string
from functools import cache

import open_clip
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.readers.jsonl import read_jsonl
from pipelines.two_stage.clip import encoder
from pipelines.two_stage.clip.encoder import cut_note, token_ids

PARTS = (
    "&amp;",
    "&lt",
    "<end_of_text>",
    "<start_of_text>",
    "it's",
    "don't",
    "!",
    "!!",
    "“curly”",
    "Ａ",
    "\t",
    "\x1b[0m",
)


@cache
def tokenizer():
    return open_clip.get_tokenizer("ViT-B-16")


def same(texts):
    wanted, ids = tokenizer()(texts), token_ids(tokenizer(), texts)
    length = max(int(row.nonzero().max()) + 1 for row in wanted)  # the end of a text is no padding
    assert ids.dtype == torch.int64 and ids.shape == (len(texts), length)
    assert torch.equal(ids, wanted[:, :length])


@given(st.lists(st.text() | st.text(string.printable) | st.lists(st.sampled_from(PARTS)).map(" ".join), min_size=1))
@example(["", " ", "a" * 200, "The RED man's 2nd hat!"])
def test_any_text_has_open_clips_ids(texts):
    same(texts)


def test_plain_texts_are_encoded_a_word_once(monkeypatch):
    encoded = []
    own = SimpleTokenizer(context_length=8)
    encode = own.encode
    monkeypatch.setattr(own, "encode", lambda text: (encoded.append(text), encode(text))[1])
    for _ in range(2):
        assert token_ids(own, ["a red dog", "a dog"]).shape == (2, 5)
    assert encoded == ["a", "red", "dog"]
    token_ids(own, ["a dog &amp; a cat", "a <b>", "a naïve dog"])  # not by the word
    assert encoded[3:] == ["a dog &amp; a cat", "a <b>", "a naïve dog"]
    assert token_ids(own, ["one two three four five six seven"])[0, [0, -1]].tolist() == [49406, 49407]


def test_a_text_that_is_cut_has_a_note():
    assert cut_note(tokenizer(), "a " * 75, 77) == ""
    assert cut_note(tokenizer(), "a " * 76, 77) == "text cut from 78 to 77 tokens"
    assert cut_note(tokenizer(), "supercalifragilistic" * 4, 77) == ""  # long, but of few tokens
    assert cut_note(object(), "a " * 76, 77) == ""  # another library's tokenizer


def test_short_texts_are_not_encoded_for_their_note(monkeypatch):
    monkeypatch.setattr(encoder, "encode", None)
    assert cut_note(tokenizer(), "x" * 75, 77) == ""


@pytest.mark.slow
def test_real_expressions_have_open_clips_ids(real):
    scenes = [
        scene
        for path in sorted((real / "index").glob("*.pth"))
        for scene in read_index_list(path, DATASETS[path.stem.partition("_")[0]])
    ]
    for file in ("ref_adv/ref-adv.jsonl", "pictures/expressions.jsonl", "predictions/rec_eval/refcoco-testA.jsonl"):
        scenes += read_jsonl(real / file)
    texts = [expression.text for scene in scenes for expression in scene.expressions]
    texts += [row["normal_caption"] for row in json.loads((real / "refcocos/refcocos_test.json").read_text())]
    texts += [row["caption"] for row in json.loads((real / "refdrone/RefDrone_test_mdetr.json").read_text())["images"]]
    print(f"{len(texts):,} expressions, {len(set(texts)):,} of them different")
    # All expressions of an image in one text: long ones, which are cut.
    texts += [". ".join(expression.text for expression in scene.expressions) for scene in scenes]
    # Digits and brackets: the rows of two models' answers.
    for model in ("internvl", "qwen25vl"):
        answers = json.loads((real / f"predictions/rec_eval/{model}_raw_answers.json").read_text())
        texts += [json.dumps(row) for rows in answers.values() for some in rows.values() for row in some]
    assert len(texts) > 100_000
    texts = texts[::3]
    for start in range(0, len(texts), 1000):
        same(texts[start : start + 1000])


DATASETS = {"unc": "refcoco", "unc+": "refcoco+", "gref": "refcocog", "referit": "referit", "flickr": "flickr30k"}


def test_an_encoder_in_16_bits_has_its_quick_gelu_folded_in_float32(tmp_path, context, monkeypatch):
    torch.manual_seed(0)
    clip = encoder.empty_model("tiny-clip")
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    options = encoder.ClipOptions(model="tiny-clip", pretrained=str(tmp_path / "clip.pt"))
    opened, read = [], encoder._read
    monkeypatch.setattr(encoder, "_read", lambda path: opened.append(path) or read(path))
    half, whole = (encoder.ClipEncoder(options, context("yolo-clip", dtype=dtype)) for dtype in ("bfloat16", "float32"))
    assert len(opened) == 2, "each reads its weights once"
    for ours, plain in zip(half.model.visual.transformer.resblocks, clip.visual.transformer.resblocks, strict=True):
        assert type(ours.mlp.gelu) is torch.nn.SiLU
        assert torch.equal(ours.mlp.c_fc.weight, (plain.mlp.c_fc.weight * 1.702).bfloat16())
    assert all(torch.equal(tensor, clip.state_dict()[key]) for key, tensor in whole.model.state_dict().items())
    vectors = [each.encode_texts(["a red dog", "two cats"]) for each in (half, whole)]
    assert (vectors[0] * vectors[1]).sum(dim=1).min() > 0.999


@pytest.mark.parametrize("model", ["tiny-clip", "MobileCLIP2-S0"])  # the second is not causal
def test_texts_are_encoded_as_over_the_whole_context(tmp_path, context, model, monkeypatch):
    torch.manual_seed(0)
    clip = encoder.empty_model(model).eval()
    monkeypatch.setattr(encoder, "open_model", lambda options, context: (clip, {}))
    ours = encoder.ClipEncoder(encoder.ClipOptions(model=model), context("yolo-clip"))
    assert ours.causal == (model == "tiny-clip")
    texts = ["", "a red dog", "the " * 100, "a naïve dog on the left of two cats & a <end_of_text> here"]
    with torch.inference_mode():
        wanted = clip.encode_text(ours.tokenizer(texts), normalize=True)
    torch.testing.assert_close(ours.encode_texts(texts), wanted, rtol=0, atol=2e-6)
