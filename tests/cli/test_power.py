"""What a split shows: by hand, against simulated pairs of pipelines, and as typed."""

import json

import numpy as np
import pytest
from worlds_of_runs import make_run, scenes_of

from bench.comparison.paired import paired_p
from bench.comparison.power import MEASURED, measured, power_of
from bench.datasets.readers.index_lists import read_index_list
from bench.datasets.readers.jsonl import read_jsonl
from bench.datasets.split import Split
from bench.errors import UsageError
from bench.evaluation.statistics import resampled_sums
from bench.imported.scoring import import_boxes
from tools.benchmarks.compare_simulation import World


def test_by_hand():
    """McNemar's sample size (Connor 1987, without his correction) times the design effect."""
    found = power_of("x", 10_000, 2_000, difference=0.02, discordant=0.1, effect=1.5)
    both = 1.959964 + 0.841621
    assert found["expressions_needed"] == pytest.approx(1.5 * both**2 * (0.1 - 0.02**2) / 0.02**2, abs=1)
    assert found["images_needed"] == np.ceil(found["expressions_needed"] / 5)
    # What is needed shows just the difference.
    again = power_of("x", found["expressions_needed"], None, 0.02, 0.1, 1.5)
    assert again["detectable"] == pytest.approx(0.02, rel=1e-3) and again["images_needed"] is None
    assert power_of("x", 10_000, None)["expressions_needed"] is None


@pytest.mark.parametrize("wrong", [
    {"difference": 0.2}, {"difference": 0.0}, {"discordant": 1.2}, {"effect": 0.0}, {"power": 1.0}
])  # fmt: skip
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(UsageError, match="--"):
        power_of("x", 100, 10, **wrong)


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.17, 0.25])
def test_simulated_pairs_are_found_as_often_as_it_says(gain):
    """The power at the size of the simulated split is what `bench compare` finds there."""
    world, sets = World(200, gain), 600
    made = list(world.sets(sets, np.random.default_rng(2)))
    sizes, a_only, b_only = (np.stack(each, axis=1) for each in zip(*made, strict=True))
    gains, n = b_only - a_only, sizes.sum(axis=0)
    discordant = float(((a_only + b_only).sum(axis=0) / n).mean())
    spread = (gains.sum(axis=0) / n).var() * n.mean() / (discordant - world.truth**2)  # the true design effect
    totals = resampled_sums(np.hstack([sizes, gains]), 600, 0)
    drawn = totals[:, sets:] / totals[:, :sets]
    found = np.mean([paired_p(drawn[:, k].copy(), gains[:, k], sizes[:, k]) <= 0.05 for k in range(sets)])
    assert 0.3 < found < 0.97, "a case that tells something"
    sized = power_of("x", round(n.mean()), 200, None, discordant, spread, power=float(found))
    assert sized["detectable"] == pytest.approx(world.truth, rel=0.08)


def test_as_typed(bench, tmp_path):
    code, out, err = bench("power", "-s", "refcoco-val", "--difference", "0.5")
    assert (code, err) == (0, "")
    assert "refcoco-val: 10,834 expressions about 1,500 images" in out  # published; not prepared here
    assert "1.10 points with a probability of 80 %" in out and "0.5 points need 52,734 expressions about 7,302" in out
    assert "exactly one of the two hits 12.0 %" in out and "LBYL" in out
    found = json.loads(bench("power", "-s", "referit-test", "--json", "--discordant", "0.2", "--power", "0.9")[1])
    assert (found["expressions"], found["images"], found["discordant"], found["assumed"]) == (60_103, None, 0.2, "")
    for words, says in (
        (("-s", "refcoco-vall"), "refcoco-val"),
        ((), "--split"),
        (("a", "-s", "shapes-val"), "two runs"),
    ):
        code, out, err = bench("power", *words)
        assert code == 2 and says in err and not out


def test_two_runs_give_their_own_numbers(bench, tmp_path):
    scenes = scenes_of([4] * 60)
    rng = np.random.default_rng(0)
    first = rng.random(240) < 0.6
    folders = [make_run(tmp_path / "results", name, scenes, marks.tolist()) for name, marks in (
        ("x", first), ("y", first ^ (rng.random(240) < 0.15)))]  # fmt: skip
    found = json.loads(bench("power", "x", "y", "--difference", "1", "--json")[1])
    (pair,) = json.loads(bench("compare", *map(str, folders), "--json")[1])["pairs"]
    cells = pair["cells"]
    assert found["discordant"] == (cells["a_only"] + cells["b_only"]) / 240
    # compare's detectable difference takes Student's quantile and the pair's own difference.
    assert found["detectable"] == pytest.approx(pair["detectable"], rel=0.02)
    same = make_run(tmp_path / "results", "z", scenes, first.tolist())
    code, _, err = bench("power", str(folders[0]), str(same))
    assert code == 2 and "do not differ" in err


@pytest.mark.slow
def test_what_is_assumed_was_measured_on_real_boxes(real, tmp_path):
    """The defaults, and what docs/comparing.md says of them: LBYL-Net's boxes, and REC-Eval's of two chat models."""
    lists = tuple(read_index_list(real / "index" / "unc_val.pth", "refcoco"))
    chat = tuple(read_jsonl(real / "predictions" / "rec_eval" / "refcoco-testA.jsonl"))
    files = real / "predictions"
    pairs = {
        (0.121, 1.46): (
            Split("refcoco-val", "", lists, None),
            [files / f"lbyl_{m}_unc_val.json" for m in ("bert", "lstm")],
        ),
        (0.113, 1.21): (
            Split("file:a", "", chat, None),
            [files / "rec_eval" / f"{m}.jsonl" for m in ("qwen25vl", "internvl")],
        ),
    }
    for (discordant, effect), (split, boxes) in pairs.items():
        folders = [import_boxes(file, split, tmp_path, name=file.stem)[1] for file in boxes]
        _, n, images, share, spread = measured(folders)
        assert (n, images) == (split.counts.expressions, split.counts.images)
        assert (round(share, 3), round(spread, 2)) == (discordant, effect)
        assert f"{100 * discordant:.1f} %, {effect:.2f}" in MEASURED
