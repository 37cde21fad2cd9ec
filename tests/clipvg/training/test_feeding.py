"""Texts and kept pictures: not one bit depends on what is asked together, nor on whether it was kept."""

import pytest
import torch

from clipvg.model.network import ClipVG
from clipvg.model.text import text_features
from clipvg.training.feeding import AT_ONCE, Kept, Words, on_device
from clipvg.training.order import Micro, Order, micros
from pipelines.clip.encoder import empty_model

CPU = torch.device("cpu")
LONG = "the " + "very " * 60 + "big star"
SHORT = "星" * 20  # few characters, many tokens


@pytest.fixture
def network(recipe):
    torch.manual_seed(0)
    return ClipVG(recipe().network.config("tiny-clip"), empty_model("tiny-clip")).eval()


@pytest.fixture
def texts(scenes):
    return [e.text for scene in scenes for e in scene.expressions] + [f"star number {n}" for n in range(2 * AT_ONCE)]


def test_not_one_bit_depends_on_company_or_order(network, texts):
    forwards, backwards = Words(network, texts, CPU), Words(network, texts, CPU)
    together, padding = forwards(texts)
    for number in reversed(range(len(texts))):
        alone, dots = backwards([texts[number]])
        length = alone.shape[1]
        assert torch.equal(together[number, :length], alone[0])
        assert torch.equal(padding[number, :length], dots[0]) and padding[number, length:].all()


def test_words_are_clips_own(network, texts):
    words, padding = Words(network, texts, CPU)(texts[:3])
    ids = Words(network, texts, CPU).tokenizer(texts[:3])
    wanted = text_features(network.clip, ids)[:, : words.shape[1]]
    assert torch.allclose(words[~padding], wanted[~padding], atol=1e-5)
    assert (words[padding] == 0).all()
    assert (~padding).sum(dim=1).tolist() == (ids != 0).sum(dim=1).tolist()


def test_a_text_that_was_not_announced_is_read_alone(network, texts):
    words = Words(network, texts, CPU)
    first = words(["the mirrored star"])[0]
    words(texts)
    again = Words(network, texts, CPU)(["the mirrored star", texts[0]])[0]
    assert torch.equal(again[0, : first.shape[1]], first[0])


def test_a_text_is_read_once(network, texts, monkeypatch):
    words = Words(network, texts, CPU)
    words(texts[:5])
    monkeypatch.setattr(network.clip, "transformer", None)  # reading would fail
    words(texts[4::-1])


def test_long_texts_are_cut_and_counted(network, texts):
    words = Words(network, [*texts, LONG, SHORT], CPU)
    tokens, padding = words([LONG, texts[0]])
    assert tokens.shape[1] == network.context and not padding[0].any()
    assert sorted(words.cut) == [LONG, SHORT]


@pytest.fixture
def objective_batches(network, rows):
    """Batches of the same rows: kept, and drawn."""

    def make(style):
        mine = rows(style=style)
        words = Words(network, [mine.expression(n)[1].text for n in range(len(mine))], CPU)
        numbers = (3, 17, 0, 24, 3)
        patch = 32 // network.side
        plain = on_device(mine.read(Micro(0, 0, numbers, 5, last=True, counts=True)), mine, patch, words)
        return Kept(mine, network, CPU), numbers, words, plain

    return make


@pytest.mark.parametrize("style", ["clean", "official"])
def test_what_is_kept_is_what_is_seen(network, objective_batches, style):
    kept, numbers, words, plain = objective_batches(style)
    batch = kept.batch(numbers, words)
    assert torch.equal(batch.masked, plain.masked) and torch.equal(batch.words, plain.words)
    assert torch.equal(batch.padding, plain.padding)
    torch.testing.assert_close(batch.targets, plain.targets, rtol=0, atol=1e-6)
    with torch.no_grad():
        seen, wanted = network.project(batch.seen), network.see(plain.seen)
    assert (seen - wanted).abs().max() < 2e-3 * wanted.abs().max()  # float16 keeps 11 bits


def test_kept_batches_come_in_the_order_of_steps(network, rows, objective_batches):
    kept, _, words, _ = objective_batches("clean")
    order = Order(25, 8, seed=0)
    found = list(kept.batches(order, (2, 6), 3, (0, 1), words))
    assert [micro for micro, _ in found] == list(micros(order, 2, 6, 3, 0, 1))
    for micro, batch in found:
        assert batch.targets.tolist() == kept.targets[list(micro.rows)].tolist()
