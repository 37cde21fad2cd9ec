"""Token ids as RoBERTa's and BERT's; spans of characters to tokens; errors."""

import json
import shutil

import plain_transvg
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import WeightsError
from pipelines.tokens import Tokenizer, small_tokenizer

TEXTS = ("the red star on the left", "a blue star")


@pytest.fixture
def small():
    return Tokenizer.from_json(small_tokenizer(TEXTS, 64))


@pytest.fixture
def roberta(context, roberta_folder):
    return Tokenizer.open(str(roberta_folder), context())


def test_padding_is_to_the_longest(roberta):
    tokens, padding = roberta(["a big Yellow square, above it two dogs", "red"])
    assert tokens.shape == padding.shape and tokens[:, 0].tolist() == [0, 0]
    assert not padding[0].any() and (tokens[1][padding[1]] == 1).all()
    assert tokens[1][~padding[1]].tolist()[-1] == 2
    alone, _ = roberta(["red"])
    assert alone[0].tolist() == tokens[1][~padding[1]].tolist()


def test_the_tokens_of_roberta(roberta, roberta_folder):
    """Compared with the byte-level BPE of the tokenizers library with its two ends put on by hand."""
    plain = tokenizers.ByteLevelBPETokenizer(
        str(roberta_folder / "vocab.json"), str(roberta_folder / "merges.txt"), add_prefix_space=False
    )
    for text in ("the red star", "Überall, wo's 2 Äpfel gibt 🍎", " x", "", "a  b"):
        assert roberta([text])[0][0].tolist() == [0, *plain.encode(text).ids, 2]


@pytest.mark.parametrize("kept", [{"tokenizer.json"}, {"tokenizer.json", "tokenizer_config.json"}, {"config.json"}])
def test_any_kind_of_folder(context, roberta, roberta_folder, tmp_path, kept):
    """What save_pretrained writes, the JSON alone, and the published pair beside a model's config."""
    folder = tmp_path / "other"
    if kept == {"config.json"}:
        shutil.copytree(roberta_folder, folder)
        (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    else:
        roberta.tokenizer.save_pretrained(folder)
        for file in folder.iterdir():
            if file.name not in kept:
                file.unlink()
    other = Tokenizer.open("other", context(folder=tmp_path))
    assert len(other) == len(roberta)
    assert [t.tolist() for t in other(TEXTS)] == [t.tolist() for t in roberta(TEXTS)]


def test_long_texts_are_cut_and_noted(context, roberta_folder):
    roberta = Tokenizer.open(str(roberta_folder), context(), limit=40)
    long = "the red star on the left of a small blue circle " * 9
    tokens, _ = roberta([long, "red"])
    assert tokens.shape == (2, 40) and tokens[0, -1] == 2
    assert roberta.cut(long).startswith("text cut from ") and roberta.cut(long).endswith(" to 40 tokens")
    assert roberta.cut("red") == roberta.cut("the red star on the left") == ""


def test_spans(small):
    text = "the red star on the left"
    assert small.spans(text, [(4, 12)]).tolist() == [False, False, True, True, False, False, False, False]
    assert small.spans(text, [(0, 3), (20, 24)]).nonzero()[:, 0].tolist() == [1, 6]
    assert small.spans(text, [(3, 13)]).nonzero()[:, 0].tolist() == [2, 3]  # blanks at both ends: moved inwards
    assert not small.spans(text, []).any() and not small.spans(text, [(24, 99), (3, 4)]).any()


words = st.lists(st.text("abstr.,'", min_size=1, max_size=4), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(words, st.data())
def test_a_span_of_words_covers_just_their_tokens(tokenizers_made, words, data):
    """Of the tokens that have characters (a lone blank has none), those that have some of the span's, and no other."""
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    text, end = " ".join(words), len(" ".join(words[: last + 1]))
    start = end - len(" ".join(words[first : last + 1]))
    for tokenizer in tokenizers_made:
        mask = tokenizer.spans(text, [(start, end)]).tolist()
        offsets = tokenizer.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        assert len(mask) == len(offsets) == tokenizer([text])[0].shape[1]
        assert [m for m, (a, b) in zip(mask, offsets, strict=True) if a < b] == [
            a < end and b > start for a, b in offsets if a < b
        ]
        assert not mask[0] and not mask[-1]


@pytest.fixture(scope="session")
def tokenizers_made(roberta_folder):
    inner = tokenizers.ByteLevelBPETokenizer(
        str(roberta_folder / "vocab.json"), str(roberta_folder / "merges.txt"), add_prefix_space=False
    )
    inner.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return Tokenizer.from_json(inner.to_str()), Tokenizer.from_json(small_tokenizer(["ab a b . , ' st"], 64))


def test_a_small_tokenizer():
    made = small_tokenizer(["star star red", "Red STAR blue"], 6)
    assert made == small_tokenizer(["star star red", "Red STAR blue"], 6)
    small = Tokenizer.from_json(made)
    assert len(small) == 6  # four special ones and the two most frequent words
    tokens, padding = small(["a red STAR", "star"])
    assert tokens.tolist() == [[0, 3, 5, 4, 2], [0, 4, 2, 1, 1]]
    assert torch.equal(padding, tokens == 1)


def test_no_tokenizer_says_what_to_fetch(context, tmp_path):
    with pytest.raises(WeightsError) as caught:
        Tokenizer.open("roberta-base", context())
    for part in ("roberta-base", "huggingface", "vocab.json", "merges.txt", "bench fetch", "--cache-dir"):
        assert part in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"no tokenizer in this folder.*vocab\.json and merges\.txt"):
        Tokenizer.open(str(tmp_path / "empty"), context())
    (tmp_path / "empty" / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="the tokenizer cannot be loaded"):
        Tokenizer.open(str(tmp_path / "empty"), context())
    with pytest.raises(WeightsError, match="not a tokenizer's JSON"):
        Tokenizer.from_json("{}")


BERT_TEXTS = (
    "the Woman, in RED!", "", "   ", "a ||| b", "look: [SEP] and [MASK]", "unbelievably-tall giraffe", "naïve café",
    "soft\u00adhyphen zero\u200bwidth", "狗在左边", "x" * 101, "tab\tand\nnewline", "İstanbul",
)  # fmt: skip


def test_the_tokens_of_bert(real, context):
    """With Google's vocabulary: ids of the plain reference, [CLS] 101 to [SEP] 102, cut at 20."""
    folder = real / "tokenizers" / "bert-base-uncased"
    tokenizer = Tokenizer.open(str(folder), context(), limit=20, lower=True)
    assert (len(tokenizer), tokenizer.pad) == (30522, 0)
    ids, padding = tokenizer(BERT_TEXTS)
    for row, ignored, text in zip(ids, padding, BERT_TEXTS, strict=True):
        wanted, kept = plain_transvg.token_ids(text, folder, 20)
        assert row[~ignored].tolist() == wanted[kept].tolist(), text
        assert row[0] == 101 and row[~ignored][-1] == 102 and (row[ignored] == 0).all()
    assert tokenizer(["[SEP]"])[0].tolist() == [[101, 1031, 19802, 1033, 102]]  # no special token
