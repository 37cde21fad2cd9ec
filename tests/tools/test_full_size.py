"""The speed tools: what is counted, and that both sides of a ratio begin with empty caches."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.evaluation.opening import open_pipeline
from bench.grounding import Prediction
from bench.settings import load_settings
from tools.benchmarks import full_size
from tools.benchmarks.random_weights import loaded, noise


def test_attention_is_counted_where_a_fused_kernel_would_hide_it():
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    tokens = torch.zeros(2, 50, 64)
    assert torch.backends.mha.get_fastpath_enabled()
    linear = 2 * 100 * 64 * (3 * 64 + 64 + 2 * 128)  # projections and the two of the feed-forward
    attention = 2 * 2 * 2 * 50 * 50 * 64
    assert full_size.counted(lambda: layer(tokens)) == pytest.approx((linear + attention) / 1e9)
    assert torch.backends.mha.get_fastpath_enabled()


def test_no_two_texts_are_alike():
    scenes, _ = noise(40, (8, 8))
    assert len({e.text for scene in scenes for e in scene.expressions}) == 280


def test_both_ways_start_every_call_with_empty_caches():
    calls = []

    def ground(batch):
        calls.append([len(scene.queries) for scene in batch])
        return [Prediction(query.id, (0.0, 0.0, 1.0, 1.0)) for scene in batch for query in scene.queries]

    caches = {"texts": lambda: calls.append("emptied")}
    one = SimpleNamespace(context=SimpleNamespace(device="cpu"), caches=caches, ground=ground)
    numbers = full_size.sharing(one, *noise(2, (8, 8), 3), batch=2, repeats=1)
    assert set(numbers["ratios"]) == {"all", "one"} and numbers["boxes_differ_px"] == 0
    assert calls[::2] == ["emptied"] * (len(calls) // 2)
    assert calls[1::2] == [[1], [3, 3], *[[1]] * 6, [1], [1, 1], [1], [1]]


def test_a_missing_box_is_no_small_difference():
    some, others = [Prediction("a", (0.0, 0.0, 1.0, 1.0))], [Prediction("a", None)]
    assert full_size.distances(some, others).tolist() == [np.inf]


def test_the_plain_way_is_timed_beside_the_fast_one(monkeypatch):
    def way(seconds, moved):
        def ground(batch):
            time.sleep(seconds)
            return [Prediction(q.id, (moved, 0.0, 1.0, 1.0)) for scene in batch for q in scene.queries]

        return SimpleNamespace(context=SimpleNamespace(device="cpu"), caches={}, ground=ground)

    monkeypatch.setattr(full_size, "timer", lambda device: time.perf_counter)
    options = SimpleNamespace(batch=2, repeats=1)
    numbers = full_size.against_plain(way(0.01, 0.0), way(0.05, 0.5), *noise(2, (8, 8), 3), options)
    assert numbers["times_faster"] > 2 and numbers["boxes_differ_px"] == 0.5 and numbers["expressions"] == 3


@pytest.mark.slow
def test_the_nearer_limit_is_named():
    one = open_pipeline("clipvg", "shapes", load_settings(flags={"run.device": "cpu"}))
    batch = loaded(*noise(2, (48, 64)))
    # A host that could serve hardly more than the rate, and one that could serve anything.
    near, far = (full_size.roofline(one, batch, 10.0, host) for host in (11.0, 1e9))
    assert (near["limit"], far["limit"]) == ("host", "device") and near["gflop_an_expression"] > 0
