"""Samples and batches of MDETR's training: augmentation that keeps the target, padding, tokens of the target."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.errors import DataError, MissingPackage
from pipelines.mdetr.data import Expressions, augmented, collate, root_finder, root_spans
from pipelines.mdetr.inputs import resized
from pipelines.tokens import Tokenizer, small_tokenizer

BOX = (40, 30, 100, 80)
TOKENIZER = Tokenizer.from_json(small_tokenizer(["the red star", "a big blue circle"], 40))


def image():
    """Black, 200 x 150 pixels, with a white box."""
    image = Image.new("RGB", (200, 150))
    image.paste((255, 255, 255), BOX)
    return np.asarray(image)


@given(st.integers(0, 10_000))
def test_the_target_stays_where_the_object_is(seed):
    pixels, target, _ = augmented(image(), BOX, "text", (160, 270), np.random.default_rng(seed))
    _, height, width = pixels.shape
    assert 96 <= min(height, width) <= 160 and max(height, width) <= 271
    white = (pixels[0] > 127).nonzero()
    top, left = white.amin(0).tolist()
    bottom, right = (white.amax(0) + 1).tolist()
    box = torch.tensor([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
    torch.testing.assert_close(target, box / torch.tensor([width, height, width, height]), atol=0.025, rtol=0)


def test_half_of_the_samples_are_cropped():
    targets = [augmented(image(), BOX, "", (160, 270), np.random.default_rng(n))[1] for n in range(200)]
    whole = sum(torch.allclose(t, torch.tensor([0.35, 55 / 150, 0.3, 1 / 3]), atol=0.01) for t in targets)
    assert 70 <= whole <= 130


@pytest.mark.slow
def test_sizes_are_the_official_ones():
    flat = np.zeros((600, 900, 3), np.uint8)
    sizes = set()
    for n in range(150):
        rng = np.random.default_rng(n)
        sizes.add(min(augmented(flat, (0, 0, 900, 600), "", (800, 1333), rng)[0].shape[1:]))
    assert {480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800} <= sizes
    assert all(size in range(480, 801, 32) or size < 800 for size in sizes)  # less where the long side is 1333


def test_samples_depend_on_epoch_and_index_alone(job):
    data, again = (Expressions(job(), (64, 120), augment=True) for _ in range(2))
    data.sample(0, 3)
    one, other = data.sample(1, 2), again.sample(1, 2)
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    targets = [data.sample(epoch, 2)[1] for epoch in range(6)]
    assert len({tuple(target.tolist()) for target in targets}) > 1


def test_without_augmentation_a_sample_is_as_in_evaluation(job):
    data = Expressions(job(), (64, 120), augment=False)
    scene, expression = data.places[5]
    pixels, target, _ = data.sample(0, 5)
    assert torch.equal(pixels, resized(data.job.images.load(scene), 64, 120))
    x1, y1, x2, y2 = expression.box
    wanted = [(x1 + x2) / 2 / scene.width, (y1 + y2) / 2 / scene.height, (x2 - x1) / scene.width]
    assert target[:3].tolist() == pytest.approx(wanted) and data.name(5) == expression.id


def test_a_split_without_expressions_is_refused(job):
    with pytest.raises(DataError, match="no expression"):
        Expressions(job(scenes=()), (64, 120), augment=True)


def test_a_batch_is_padded_and_says_where(job):
    data = Expressions(job(), (64, 120), augment=True)
    samples = [data.sample(0, index) for index in range(6)]
    batch = collate(samples, TOKENIZER, lambda text: [(0, len(text))])
    assert batch.pixels.dtype == torch.uint8
    for row, (pixels, _, _) in enumerate(samples):
        _, height, width = pixels.shape
        assert (~batch.image_padding[row]).sum() == height * width
        assert torch.equal(batch.pixels[row, :, :height, :width], pixels)
    assert not batch.pixels.permute(0, 2, 3, 1)[batch.image_padding].any()


def test_positive_are_the_expressions_own_tokens():
    rng = np.random.default_rng(0)
    samples = [augmented(image(), BOX, text, (160, 270), rng) for text in ("the red star", "a star")]
    batch = collate(samples, TOKENIZER, lambda text: [(0, len(text))])
    assert batch.positive.tolist() == [[False, True, True, True, False], [False, True, True, False, False]]
    assert batch.text_padding.tolist() == [[False] * 5, [False] * 4 + [True]]
    last = collate(samples, TOKENIZER, lambda text: [(text.index("star"), len(text))])
    assert last.positive.long().argmax(1).tolist() == [3, 2] and last.positive.sum() == 2


class Token:
    """A token of spaCy's: text, its place, tag, dependency, and what hangs on it."""

    def __init__(self, text, idx, tag, dep):
        self.text, self.idx, self.tag_, self.dep_, self.lefts, self.children = text, idx, tag, dep, [], []


class Doc(list):
    """doc("the/DT/det/1 star/NN/ROOT/1 ..."): words with their tags, dependencies and heads."""

    def __init__(self, text):
        parts = [word.split("/") for word in text.split()]
        self.text = " ".join(part[0] for part in parts)
        places = [sum(len(part[0]) + 1 for part in parts[:n]) for n in range(len(parts))]
        super().__init__(Token(p[0], place, *p[1:3]) for p, place in zip(parts, places, strict=True))
        for number, part in enumerate(parts):
            head = int(part[3])
            if head != number:
                self[head].children.append(self[number])
                self[head].lefts += [self[number]] if number < head else []


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("the/DT/det/2 red/JJ/amod/2 star/NN/ROOT/2 above/IN/prep/2 a/DT/det/5 ring/NN/pobj/3", ["star", "the", "red"]),
        ("tennis/NN/compound/1 player/NN/ROOT/1 by/IN/prep/1 the/DT/det/4 net/NN/pobj/2", ["player", "tennis"]),
        ("a/DT/det/1 man/NN/nsubj/2 holds/VBZ/ROOT/2 a/DT/det/4 bat/NN/dobj/2", ["a", "man"]),
        ("left/JJ/amod/1 star/NN/ROOT/1", ["left star"]),  # one noun: the whole text
        ("is/VBZ/ROOT/0 there/EX/expl/0 by/IN/prep/0 a/DT/det/4 cup/NN/pobj/2 of/IN/prep/4 tea/NN/pobj/5", [None]),
    ],
)
def test_the_root_noun_phrase_is_the_target(text, root):
    doc = Doc(text)
    parts = [doc.text[start:end] for start, end in root_spans(doc)]
    assert parts == [doc.text if part is None else part for part in root]


def test_without_spacy_the_root_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MissingPackage, match=r'positive_tokens = "root" needs spaCy.*"expression"'):
        root_finder()
