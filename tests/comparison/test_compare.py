"""The whole comparison against slow loops over the same draws, and the refusals."""

import json
import re

import numpy as np
import pytest
from scipy import stats
from worlds_of_runs import make_run, scenes_of

from bench.comparison.compare import compare
from bench.comparison.paired import expanded_tail
from bench.errors import RunError, UsageError
from bench.evaluation.statistics import drawn_images

DRAWS = 300


def world(seed=0, images=24):
    """Scenes of 0 to 6 expressions, and hits of three pipelines that share what makes an image hard."""
    rng = np.random.default_rng(seed)
    scenes = scenes_of(rng.integers(1, 7, images).tolist(), empty=(0, 5))
    hits = {name: [] for name in "xyz"}
    for scene in scenes:
        hard = rng.normal()
        for _ in scene.expressions:
            for shift, name in zip((0.0, 0.8, 0.1), hits, strict=True):
                hits[name].append(int(hard + rng.normal() + shift > 0))
    return scenes, hits


@pytest.fixture
def runs(tmp_path):
    scenes, hits = world()
    return [make_run(tmp_path, name, scenes, hits[name]) for name in "xyz"]


def slow(scenes, differences, inside, draws, confidence):
    """Difference and interval of the expressions in `inside`, as the definition says: draw by draw, loop by loop."""
    present = [scene for scene in scenes if scene.expressions]
    ratios = []
    for taken in np.concatenate(list(drawn_images(len(present), draws, 0))).tolist():
        above = below = 0
        for image in taken:
            for expression in present[image].expressions:
                if expression.id in inside:
                    above += differences[expression.id]
                    below += 1
        if below:
            ratios.append(above / below)
    images = sum(any(e.id in inside for e in scene.expressions) for scene in present)
    place = int(expanded_tail(images, confidence) * (len(ratios) + 1))
    ratios.sort()
    ends = (ratios[place - 1], ratios[len(ratios) - place]) if place else (-1.0, 1.0)
    return sum(differences[name] for name in inside) / len(inside), ends, ratios


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_a_pair_is_what_slow_loops_say(tmp_path, confidence):
    scenes, hits = world()
    folders = [make_run(tmp_path, name, scenes, hits[name]) for name in "xy"]
    (pair,) = compare(folders, DRAWS, 0, confidence).pairs
    expressions = [e for scene in scenes for e in scene.expressions]
    ids = [e.id for e in expressions]
    difference = {name: x - y for name, x, y in zip(ids, hits["x"], hits["y"], strict=True)}
    value, ends, ratios = slow(scenes, difference, set(ids), DRAWS, confidence)
    assert (pair.difference, pair.ci95) == (value, ends)
    part = (1 + min(sum(r <= 0 for r in ratios), sum(r >= 0 for r in ratios))) / (DRAWS + 1)
    expected_p = 2 * stats.t.cdf(stats.norm.ppf(part) * np.sqrt(23 / 24), 23)
    assert pair.p == pytest.approx(expected_p, rel=1e-9) and pair.p_holm == pair.p
    millionths = {name: int(hit) * 1_000_000 or 333_333 for name, hit in zip(ids, hits["x"], strict=True)}
    later = [int(hit) * 1_000_000 or 333_333 for hit in hits["y"]]
    gained = {name: millionths[name] - value for name, value in zip(ids, later, strict=True)}
    value, ends, _ = slow(scenes, gained, set(ids), DRAWS, confidence)
    assert pair.mean_iou_difference == pytest.approx(value / 1e6, rel=1e-12)
    assert pair.mean_iou_ci95 == pytest.approx((ends[0] / 1e6, ends[1] / 1e6), rel=1e-12)
    strata = {(s["cut"], s["label"]): s for s in pair.strata}
    assert {cut for cut, _ in strata} >= {"kind", "length", "spatial words", "people"}
    for kind in ("k0", "k1"):
        inside = {e.id for e in expressions if e.kind == kind}
        stratum = strata["kind", kind]
        value, ends, _ = slow(scenes, difference, inside, DRAWS, confidence)
        assert (stratum["n"], stratum["difference"]) == (len(inside), value)
        low, high = stratum["ci95"]
        assert low < value < high if stratum["few_different"] is not None else (low, high) == ends
        assert stratum["a_only"] == sum(difference[name] == 1 for name in inside)
        assert stratum["b_only"] == sum(difference[name] == -1 for name in inside)


def test_cells_and_flips_add_up(runs):
    comparison = compare(runs, DRAWS)
    _, hits = world()
    pair = comparison.pairs[0]
    cells = pair.cells
    both = list(zip(hits["x"], hits["y"], strict=True))
    counts = [both.count(which) for which in ((1, 1), (1, 0), (0, 1), (0, 0))]
    assert [cells[which] for which in ("both", "a_only", "b_only", "neither")] == counts
    assert comparison.n == len(both) == sum(cells.values())
    flipped = [f"e{n}" for n, (x, y) in enumerate(both) if x != y]
    assert [flip["id"] for flip in pair.flips] == flipped
    assert {flip["right"] for flip in pair.flips} == {"A", "B"}
    for flip in pair.flips:
        x, _ = both[int(flip["id"][1:])]
        assert flip["right"] == ("A" if x else "B")
        assert flip["iou"] == ((1.0, 0.333333) if x else (0.333333, 1.0))
    back = compare(runs[1::-1], DRAWS).pairs[0]  # the runs swapped: the signs too
    assert (back.difference, back.ci95, back.p) == (-pair.difference, (-pair.ci95[1], -pair.ci95[0]), pair.p)
    assert pair.images_flipped == len({flip["scene"] for flip in pair.flips})
    assert pair.mcnemar_p == pytest.approx(stats.binomtest(cells["a_only"], cells["a_only"] + cells["b_only"]).pvalue)


def test_every_pair_with_holm_or_the_baselines(runs):
    comparison = compare(runs, DRAWS)
    assert [(pair.a, pair.b) for pair in comparison.pairs] == [("A", "B"), ("A", "C"), ("B", "C")]
    ordered = sorted(comparison.pairs, key=lambda pair: pair.p)
    assert ordered[0].p_holm == 3 * ordered[0].p
    assert ordered[1].p_holm == max(ordered[0].p_holm, min(1, 2 * ordered[1].p))
    assert all(pair.significant == (pair.p_holm <= 0.05) for pair in comparison.pairs)
    fewer = compare(runs, DRAWS, baseline_only=True)
    assert [(pair.a, pair.b) for pair in fewer.pairs] == [("A", "B"), ("A", "C")]
    assert [pair.ci95 for pair in fewer.pairs] == [pair.ci95 for pair in comparison.pairs[:2]]
    assert min(pair.p_holm for pair in fewer.pairs) == 2 * min(pair.p for pair in fewer.pairs)


def test_the_same_answers_are_no_difference(tmp_path):
    scenes, hits = world()
    folders = [make_run(tmp_path, name, scenes, hits["x"]) for name in ("one", "two")]
    (pair,) = compare(folders, DRAWS).pairs
    assert (pair.difference, pair.few_different, pair.p, pair.significant) == (0.0, 0, 1.0, False)
    assert 0 < pair.ci95[1] == -pair.ci95[0] < 0.05  # other images could still tell them apart
    assert (pair.flips, pair.detectable, pair.mcnemar_p, pair.mean_iou_ci95) == ((), None, 1.0, (0.0, 0.0))


def test_the_object_is_json_with_the_texts(runs):
    comparison = compare(runs[:2], DRAWS)
    texts = {f"e{n}": f"text {n}" for n in range(comparison.n)}
    whole = json.loads(json.dumps(comparison.as_object(texts), allow_nan=False))
    assert whole["runs"][0]["acc@0.5"] == comparison.runs[0]["acc@0.5"]
    assert whole["pairs"][0]["flips"][0]["text"] == texts[comparison.pairs[0].flips[0]["id"]]
    assert "text" not in comparison.as_object()["pairs"][0]["flips"][0]
    row = comparison.flips(texts)[0]
    assert (row["a"], row["b"], row["right"] in "xy", row["text"]) == ("x", "y", True, texts[row["id"]])


def test_what_must_be_known_is_noted(tmp_path):
    scenes, hits = world()
    few = [1 - hit if n in (3, 4) else hit for n, hit in enumerate(hits["x"])]
    part = {"partial": True, "images": 26}
    folders = [make_run(tmp_path, name, scenes, marks, **part) for name, marks in (("a", hits["x"]), ("b", few))]
    notes = " | ".join(compare(folders, DRAWS).notes)
    assert "the first 26 images of mine-val only" in notes
    assert "differ on fewer than 10 images" in notes and re.search("A and B on [12]; see McNemar's exact test", notes)
    lone = scenes_of([2])
    two = [make_run(tmp_path, name, lone, marks, split="l-val") for name, marks in (("a", [1, 1]), ("b", [0, 0]))]
    comparison = compare(two, DRAWS)
    assert comparison.pairs[0].ci95 == (-1.0, 1.0) and comparison.pairs[0].p == 1.0
    assert any("too few for a bootstrap" in note for note in comparison.notes)


def test_runs_of_one_pipeline_have_names_of_their_own(tmp_path):
    scenes, hits = world()
    folders = [make_run(tmp_path, "x", scenes, hits[name], settings_hash=name * 8) for name in "xy"]
    names = [run["name"] for run in compare(folders, DRAWS).runs]
    assert names[0] != names[1] and all(name.startswith("x (2026-11-22-") for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(("other", "says"), [
    ({"split": "your-val"}, "different splits"),
    ({"fingerprint": "0" * 16}, "different data"),
    ({"partial": True}, "partial"),
    ({"protocol": "strict"}, "different protocols"),
    ({"proposals": "gt"}, "different proposals"),
    ({"status": "running"}, "not finished"),
    ({"keep": False}, "bench score .* --keep"),
])  # fmt: skip
def test_other_questions_are_refused(tmp_path, other, says):
    scenes, hits = world()
    folders = [make_run(tmp_path, "x", scenes, hits["x"]), make_run(tmp_path, "y", scenes, hits["y"], **other)]
    for order in (folders, folders[::-1]):
        with pytest.raises(RunError, match=says) as refused:
            compare(order, DRAWS)
        assert str(folders[1]) in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new", "message"), [
    ('"hit":[1', '"hit":[0', r"run\.json says"),
    ('"e0"', '"other"', "from expression 1 on"),
    ('"p0"', '"q0"', "from image 1 on"),
    (None, None, r"outcomes\.jsonl has"),
])  # fmt: skip
def test_outcomes_that_are_not_the_records_are_refused(runs, old, new, message):
    path = runs[1] / "outcomes.jsonl"
    stored = path.read_text()
    path.write_text(stored.replace(old, new, 1) if old else "".join(stored.splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match=message):
        compare(runs, DRAWS)


def test_one_run_is_no_comparison(runs):
    for folders in ([], runs[:1]):
        with pytest.raises(UsageError, match="two runs"):
            compare(folders, DRAWS)
    with pytest.raises(UsageError, match="given twice"):
        compare([runs[0], runs[1], runs[0] / "." / ".." / runs[0].name], DRAWS)
