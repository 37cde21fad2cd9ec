"""Rank ranges: by hand where everything is clear, and pair by pair what `compare` would call significant."""

import json
import tracemalloc
from contextlib import nullcontext
from itertools import combinations

import numpy as np
import pytest
from worlds_of_runs import make_run, scenes_of

from bench.comparison import paired
from bench.comparison.paired import difference_p, every_pair_p, holm, paired_p, standard_error
from bench.comparison.ranks import rank_ranges, ranks
from bench.errors import RunError
from bench.evaluation.statistics import resampled_sums
from bench.runs import outcomes
from bench.runs.outcomes import read_outcomes
from bench.runs.record import read_record
from bench.runs.store import write_packed


def test_clear_differences_are_ranks():
    counts = np.full(60, 5)
    hits = np.column_stack([np.full(60, 1), np.full(60, 4), np.full(60, 3)])
    assert rank_ranges(hits, counts) == [(3, 3), (1, 1), (2, 2)]
    assert rank_ranges([[9, 1]], [9]) == [(1, 2), (1, 2)]  # one image proves nothing


def test_ties_share_their_range():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, 80)
    base = rng.binomial(counts, 0.8)
    hits = np.column_stack([base, rng.permuted(base), base // 4, base // 4, base])
    ranges = rank_ranges(hits, counts)
    assert ranges[0] == ranges[4] == (1, 3) and ranges[2] == ranges[3] == (4, 5)
    assert rank_ranges(hits[:, :1], counts) == [(1, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_significant_is_what_compare_calls_so(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 7, 40)
    hard = rng.normal(0, 0.15, 40)
    rates = np.clip(np.linspace(0.4, 0.75, 6) + hard[:, None], 0, 1)
    hits = rng.binomial(counts[:, None], rates)
    sums = resampled_sums(np.column_stack([hits, counts]), 500, 3)
    pairs = list(combinations(range(6), 2))
    gains = [hits[:, b] - hits[:, a] for a, b in pairs]
    ps = [
        difference_p(
            (sums[:, b] - sums[:, a]) / sums[:, 6], 40, gain.sum() / counts.sum() / standard_error(gain, counts)
        )
        for (a, b), gain in zip(pairs, gains, strict=True)
    ]
    better = np.zeros((6, 6), int)
    for (a, b), gain, p in zip(pairs, gains, holm(ps), strict=True):
        better[(b, a) if gain.sum() > 0 else (a, b)] = p <= 0.1
    expected = [(1 + better[:, run].sum(), 6 - better[run].sum()) for run in range(6)]
    assert rank_ranges(hits, counts, 500, 3, 0.9) == expected
    assert len(set(expected)) > 2, "a case that tells something"
    alone = np.array([p <= 0.1 for p in ps])
    assert alone.sum() > better.sum() or seed, "and one in which the correction matters"


def test_images_without_expressions_are_no_part_of_the_sample():
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 7, 30)
    hits = rng.binomial(counts[:, None], [0.5, 0.62, 0.7])
    padded_hits, padded_counts = np.zeros((40, 3)), np.zeros(40)
    padded_hits[5:35], padded_counts[5:35] = hits, counts
    assert rank_ranges(padded_hits, padded_counts) == rank_ranges(hits, counts)


@pytest.mark.parametrize(("images", "draws"), [(1, 50), (7, 200), (60, 1), (60, 1203)])
def test_every_pair_has_the_p_of_the_pair_alone_to_the_bit(images, draws, monkeypatch):
    monkeypatch.setattr(paired, "BLOCK", 100)
    rng = np.random.default_rng(images)
    counts = rng.integers(1, 9, images).astype(float)
    hits = rng.binomial(counts.astype(int)[:, None], np.linspace(0.3, 0.7, 12)).astype(float)
    hits[:, 5] = hits[:, 4]  # a run made twice, and one that differs on a single image
    hits[:, 6] = hits[:, 4]
    hits[0, 6] = counts[0] - hits[0, 4]
    sums = resampled_sums(hits, draws, 0)
    pairs = combinations(range(12), 2)
    alone = [paired_p(sums[:, b] - sums[:, a], hits[:, b] - hits[:, a], counts) for a, b in pairs]
    assert every_pair_p(sums, hits, counts) == alone


def store_packed(folder, hits, images, name="run"):
    """A packed run whose outcomes are `hits`, on images of equal size."""
    text, number = "", iter(range(len(hits)))
    for image, own in enumerate(np.array_split(np.asarray(hits, int), images)):
        n, ids = len(own), [f"{name}-{next(number)}" for _ in own]
        row = {"scene": str(image), "ids": ids, "iou": (0.25 + own / 2).tolist(), "hit": own.tolist()}
        text += json.dumps(row | {"strata": {"length": ["1-5"] * n}}, separators=(",", ":")) + "\n"
    folder.mkdir(parents=True)
    (folder / "outcomes.jsonl").write_text(text)
    n, right = len(hits), int(np.sum(hits))
    metrics = METRICS.model_copy(update={"n": n, "hits": right, "accuracy": right / n, "ci95": None, "strata": {}})
    data = RECORD.identity.data.model_copy(update={"expressions": n})
    identity = RECORD.identity.model_copy(update={"data": data})
    write_packed(folder, RECORD.model_copy(update={"metrics": metrics, "identity": identity}))
    return read_record(folder), folder.name


@pytest.fixture(autouse=True, scope="module")
def record(tmp_path_factory):
    global RECORD, METRICS
    folder = make_run(tmp_path_factory.mktemp("one"), "one", scenes_of([3, 2]), [1, 0, 1, 1, 0])
    RECORD, METRICS = read_record(folder), read_record(folder).metrics


def test_runs_on_the_same_expressions_are_parsed_once_and_read_the_same(tmp_path, monkeypatch):
    parsed, parse = [], outcomes._parse
    monkeypatch.setattr(outcomes, "_parse", lambda *line: parsed.append(line) or parse(*line))
    rng = np.random.default_rng(0)
    stored = [store_packed(tmp_path / str(n), rng.random(200) < 0.5, 40) for n in range(8)]
    stored.append(
        store_packed(tmp_path / "others", rng.random(200) < 0.5, 40, "[9.5]")
    )  # ids with numbers that are packed
    ranges = ranks(tmp_path, stored)
    assert len(parsed) == 2 * 40, "lines of the first run and of the run about other expressions"
    assert [note[:45] for _, note in ranges[-2:]] == ["", "outcomes.jsonl is about other expressions tha"]
    alike = {}
    for _, folder in [*stored, *stored]:
        here, alone = read_outcomes(tmp_path / folder, alike), read_outcomes(tmp_path / folder)
        for field in ("ids", "scenes", "strata"):
            assert getattr(here, field) == getattr(alone, field)
        for field in ("image", "iou", "hit"):
            assert np.array_equal(getattr(here, field), getattr(alone, field))
            assert getattr(here, field).dtype == getattr(alone, field).dtype
    assert len(alike) == 1


ROWS = """{"scene":"a","ids":["x","y"],"iou":[0.5,0.5],"hit":[1,0]}
{"scene":"b","ids":["z"],"iou":[0.5],"hit":[1]}
"""
BROKEN = [("", ""), ("[1]", "[1,1]"), ("[1,0]", "[1,,0]"), ("[1,0]", "[10]"), ("0.5,", "1.5,")]


def test_hits_that_do_not_fit_their_rows_are_not_alike(tmp_path):
    alike = {}
    for number, (old, new) in enumerate(BROKEN):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "outcomes.jsonl").write_text(ROWS.replace(old, new) if old else ROWS)
        write_packed(folder, RECORD)
        with pytest.raises(RunError, match="not a row of outcomes") if old else nullcontext():
            read_outcomes(folder, alike)
    assert len(alike) == 1


@pytest.mark.slow
def test_memory_grows_with_runs_by_their_hits_on_images_alone(tmp_path):
    rng = np.random.default_rng(0)
    stored = [store_packed(tmp_path / str(n), rng.random(2000) < 0.5, 300) for n in range(60)]
    peaks = []
    for count in (4, 20, 60):
        tracemalloc.start()
        ranks(tmp_path, stored[:count])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 10,000 draws and 300 images of a run are 82 kB, kept twice at most, and a run's outcomes about 300 kB
    assert peaks[2] - peaks[1] < 40 * 200_000 and peaks[2] - peaks[1] < 3 * (peaks[1] - peaks[0])
