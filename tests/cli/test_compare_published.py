"""A run against a published number: the interval by hand, what is assumed, and what is refused."""

import json

import numpy as np
import pytest
from worlds_of_runs import make_run, scenes_of

from bench.comparison.paired import standard_error

SCENES = scenes_of([4] * 60)
RNG = np.random.default_rng(0)
HARD = RNG.normal(size=60).repeat(4)
HITS = [HARD + RNG.normal(size=240) + 0.8 > 0 for _ in range(4)]


def stored(tmp_path, names, **more):
    return [
        make_run(tmp_path / "results", name, SCENES, hits.tolist(), split="refcoco-val", **more)
        for name, hits in zip(names, HITS, strict=False)
    ]


def compared(bench, *words):
    code, out, err = bench("compare", *words, "--json")
    assert code == 0, err
    return json.loads(out)["published"], err


def error_of(hits):
    return standard_error(hits.reshape(60, 4).sum(axis=1).astype(float), np.full(60, 4.0))


def test_independent_by_hand(bench, tmp_path):
    stored(tmp_path, "x")
    (row, *_), err = compared(bench, "x", "-s", "refcoco-val", "--published", "lbyl-net, released weights")
    rate, theirs = HITS[0].mean(), row["value"] / 100
    assert (row["n"], row["correlation"], row["correlations"]) == (240, 0, [])
    assert row["difference"] == pytest.approx(rate - theirs)  # A - B, and A is the run
    effect = error_of(HITS[0]) ** 2 / (rate * (1 - rate) / 240)
    assert row["design_effect"] == pytest.approx(effect) and effect > 1
    half = 1.959964 * np.hypot(error_of(HITS[0]), np.sqrt(effect * theirs * (1 - theirs) / 240)) + 0.00005
    assert row["ci95"] == pytest.approx([rate - theirs - half, rate - theirs + half], abs=1e-6)
    assert row["significant"] == (abs(rate - theirs) > half)
    for part in ("A - B = ", "independent", "of the same 240 expressions", "design effect", "the run's unknown"):
        assert part in err


def test_the_correlation_with_other_runs_narrows_it(bench, tmp_path):
    folders = stored(tmp_path, "xyz")
    ((row, *_), err) = compared(bench, folders[0], "--published", "LBYL-Net, released weights")
    rest = [h.reshape(60, 4).sum(axis=1) - 4 * h.mean() for h in HITS[:3]]
    expected = [np.corrcoef(rest[0], other)[0, 1] for other in rest[1:]]
    assert row["correlations"] == pytest.approx(sorted(expected))
    assert row["correlation"] == pytest.approx(np.mean(expected)) and 0.2 < row["correlation"] < 0.9
    assert "2 other stored runs of the split" in err and "independent" not in err
    a, theirs = error_of(HITS[0]), row["value"] / 100
    b = np.sqrt(row["design_effect"] * theirs * (1 - theirs) / 240)
    half = 1.959964 * np.sqrt(a**2 + b**2 - 2 * row["correlation"] * a * b) + 0.00005
    assert np.diff(row["ci95"]) / 2 == pytest.approx(half, abs=1e-6)


def test_a_part_of_a_name_is_every_value_of_it(bench, tmp_path):
    stored(tmp_path, "x")
    rows, err = compared(bench, "x", "-s", "refcoco-val", "--published", "QWEN2.5-vl")
    assert {row["method"] for row in rows} >= {"Qwen2.5-VL-7B"} and "its protocol is" in err


@pytest.mark.parametrize(("name", "more", "says"), [
    ("LBYL-Nett", {}, "did you mean 'LBYL-Net'"),
    ("lbyl-nett", {}, "published refcoco-val"),
    ("TransVG", {}, "'letterbox-clamped'"),
    ("LBYL-Net", {"partial": True}, "whole split"),
])  # fmt: skip
def test_refusals(bench, tmp_path, name, more, says):
    (folder,) = stored(tmp_path, "x", **more)
    code, out, err = bench("compare", folder, "--published", name)
    assert code == 2 and says in err and not out


def test_one_run_only(bench, tmp_path):
    code, _, err = bench("compare", *stored(tmp_path, "xy"), "--published", "TransVG")
    assert code == 2 and "one run" in err
