"""The engine over a toy network: every pair as if alone, every text once, chunks that fit the memory."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipelines import engine as engine_module
from pipelines.engine import PairEngine, _runs, prepare


class Toy:
    """Token rows are numbers; a pair's output is their sum, their count and the sum of their slots."""

    def __init__(self, context, most=10**9, **options):
        self.images, self.texts, self.pairs, self.most = [], [], [], most
        self.engine = PairEngine(context, self.encode_images, self.encode_texts, self.fuse, **options)

    def rows(self, values):
        return torch.tensor([[float(v)] for v in values]), torch.arange(len(values))

    def encode_images(self, images):
        self.images.append(images)
        return [self.rows(image) for image in images]

    def encode_texts(self, texts):
        self.texts.append(list(texts))
        return [self.rows([len(word) for word in text.split()]) for text in texts]

    def fuse(self, rows, padding):
        tokens, slots = rows
        self.pairs.append(tuple(tokens.shape[:2]))
        if len(tokens) > self.most:
            raise RuntimeError("CUDA out of memory")
        counted = torch.ones_like(tokens[..., 0]) if padding is None else (~padding).float()
        return torch.stack([(tokens[..., 0] * counted).sum(1), counted.sum(1), (slots * counted).sum(1)], dim=1)


IMAGES = [(1, 2, 3), (5,), (7, 7, 7, 7, 7, 7, 7, 7), (1, 2, 4)]
PAIRS = [(0, "a dog"), (2, "a dog"), (1, "the red one on it"), (0, "a dog"), (3, "cat"), (2, "the red one on it")]


def expected(image, text):
    words = [len(word) for word in text.split()]
    slots = sum(range(len(words))) + sum(range(len(image)))
    return [sum(words) + sum(image), len(words) + len(image), slots]


@pytest.mark.parametrize("sizes", [{"images": 1, "texts": 1}, {"images": 3, "texts": 2}, {"images": 9, "texts": 9}])
def test_each_pair_is_fused_as_if_alone(context, sizes):
    toy = Toy(context(), **sizes)
    assert toy.engine.ground(IMAGES, PAIRS).tolist() == [expected(IMAGES[i], text) for i, text in PAIRS]
    assert sum(count for count, _ in toy.pairs) == 5  # the pair that comes twice is fused once
    assert max(count for count, _ in toy.pairs) <= sizes["texts"]
    assert max(map(len, toy.images)) <= sizes["images"] and sum(map(len, toy.images)) == 4


def test_images_of_different_kinds_share_no_chunk(context):
    toy = Toy(context(), images=9, texts=9, kind=len)
    toy.engine.ground(IMAGES, PAIRS)
    assert toy.images == [[IMAGES[0], IMAGES[3]], [IMAGES[1]], [IMAGES[2]]]


def test_a_text_is_encoded_once_until_forgotten(context):
    toy = Toy(context(), images=9, texts=9)
    for _ in range(2):
        toy.engine.ground(IMAGES, PAIRS)
    assert toy.texts == [["cat", "a dog", "the red one on it"]]  # by length
    toy.engine.forget_texts()
    toy.engine.ground(IMAGES, PAIRS)
    assert len(toy.texts) == 2


def test_the_cache_drops_the_least_recently_used_texts(context, monkeypatch):
    monkeypatch.setattr(engine_module, "TEXTS", 2)
    toy = Toy(context(), images=9, texts=9)
    for texts in (["a", "b"], ["a"], ["c"], ["a", "b"], ["a", "b", "c"]):
        assert list(toy.engine.encode_texts(texts)) == texts  # even where they are more than the cache holds
    assert toy.texts == [["a", "b"], ["c"], ["b"], ["c"]]


@pytest.mark.slow
def test_chunks_are_halved_for_good_where_memory_runs_out(context):
    toy = Toy(context(), most=1, images=9, texts=4)
    assert toy.engine.ground(IMAGES, PAIRS).tolist() == [expected(IMAGES[i], text) for i, text in PAIRS]
    assert toy.engine.sizes == {"images": 9, "texts": 4, "pairs": 1}
    # What does not fit alone is the harness's to solve, which tries fewer scenes.
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        Toy(context(), most=0, images=9, texts=4).engine.ground(IMAGES, PAIRS)


def test_arrays_are_stacked(context):
    engine = Toy(context(), images=9, texts=9).engine
    arrays = [np.full((2, 3), n, np.uint8) for n in range(4)]
    stacked = engine.stack(arrays)
    assert stacked.dtype == torch.uint8 and np.array_equal(engine.to_host(stacked)(), arrays)


def test_computing_waits_for_the_copy_alone(context, monkeypatch):
    calls, engine = [], Toy(context(), images=9, texts=9).engine
    engine.copies = "copies"
    computing = SimpleNamespace(wait_stream=lambda stream: calls.append(f"wait for {stream}"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(calls.append(f"on {stream}")))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: calls.append(("kept for", stream)))
    assert engine.stack([np.arange(3)]).tolist() == [[0, 1, 2]]
    assert calls == ["on copies", "wait for copies", ("kept for", computing)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_arrays_arrive_while_a_gpu_computes(context):
    engine = Toy(context(device="cuda:0"), images=9, texts=9).engine
    work = torch.randn(2048, 2048, device="cuda")
    engine.to_host(engine.stack([np.zeros(1)]))()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sums = []
        for number in range(30):  # memory is given out again while it is on its way
            work = work @ work * 1e-3
            arrays = [np.full((64, 64), number, np.float32) for _ in range(64)]
            sums.append(engine.to_host(engine.stack(arrays).mean() + 0 * work.nan_to_num(0, 0, 0).sum()))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [float(value()) for value in sums] == list(range(30))


def test_a_batch_is_cut_where_padding_would_waste_it():
    def runs(lengths):
        return [(run.start, run.stop) for run in _runs(np.array(lengths))]

    assert runs([5]) == [(0, 1)] and runs([9, 9, 10, 10]) == [(0, 4)]
    assert runs([2, 2, 30, 31, 90]) == [(0, 2), (2, 4), (4, 5)]


def test_equal_lengths_are_not_padded(context):
    toy, paddings = Toy(context(), images=9, texts=9), []
    fuse = toy.engine._fuse
    toy.engine._fuse = lambda rows, padding: (paddings.append(padding), fuse(rows, padding))[1]
    toy.engine.ground(IMAGES, [(0, "a dog"), (3, "a cat")])
    assert paddings == [None]


def test_a_network_is_prepared_in_its_precision_but_for_its_heads(context):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.token = nn.Linear(2, 2), nn.Linear(2, 2), nn.Parameter(torch.full((2,), 0.1))

    network = Network()
    weight = network.head.weight.clone()
    assert prepare(network, context(dtype="bfloat16"), ["head"], []) == {"dtype"}
    for name, parameter in network.named_parameters():
        assert parameter.dtype == (torch.float32 if name.startswith("head.") else torch.bfloat16), name
    assert torch.equal(network.head.weight, weight)  # never rounded on the way
    assert not any(p.requires_grad for p in network.parameters())


def test_another_fuse_gets_what_each_pair_brings(context):
    """A head of another kind in the network's place: rows beside a pair come with it, whatever the order of chunks."""
    toy = Toy(context(), images=10, texts=2)
    beside = torch.arange(2.0 * len(PAIRS)).reshape(-1, 2)
    beside[3] = beside[0]  # the same pair brings the same

    def fuse(rows, padding, brought):
        return torch.cat([toy.fuse(rows, padding), brought], dim=1)

    out = toy.engine.ground(IMAGES, PAIRS, fuse, (beside,))
    assert out[:, :3].tolist() == [expected(IMAGES[index], text) for index, text in PAIRS]
    assert torch.equal(out[:, 3:], beside) and len(toy.pairs) > 1
