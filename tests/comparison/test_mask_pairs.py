"""Masks of two runs against slow loops over the same draws; when they are not compared, and why."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from worlds_of_runs import make_run, scenes_of

from bench.comparison.compare import compare
from bench.comparison.paired import expanded_tail
from bench.dataframes import outcomes as outcome_table
from bench.evaluation.differences import other_numbers
from bench.evaluation.statistics import drawn_images
from bench.masks import decode, encode
from bench.reporting.comparison_text import paragraph
from bench.reporting.report.comparing import comparing
from bench.runs.numbers import Bootstrap
from bench.runs.outcomes import read_outcomes
from bench.runs.record import read_record
from bench.settings import PROJECT

DRAWS = 200
SIZE = (30, 40)


def drawn(rng, centre):
    """A disc near a place."""
    rows, columns = np.indices(SIZE)
    return encode((rows - centre[0] - rng.normal()) ** 2 + (columns - centre[1] - rng.normal()) ** 2 < 40)


def world(seed=0, images=20, masked=lambda number: number % 4 != 3):
    """Scenes whose expressions mostly have a mask, and the masks of three runs; some are missing, some empty."""
    rng = np.random.default_rng(seed)
    scenes, given = [], {name: {} for name in "xyz"}
    number = 0
    for scene in scenes_of(rng.integers(1, 5, images).tolist(), empty=(2,)):
        own = []
        for expression in scene.expressions:
            centre = rng.uniform(8, 22, 2)
            truth = drawn(rng, centre) if masked(number) else None
            own.append(replace(expression, mask=truth))
            for place, name in enumerate(given):
                kind = rng.integers(0, 8)
                if kind:
                    empty = encode(np.zeros(SIZE, bool))
                    given[name][expression.id] = (
                        empty if kind == 1 else drawn(rng, centre + place * rng.normal(0, 2, 2))
                    )
            number += 1
        scenes.append(replace(scene, width=SIZE[1], height=SIZE[0], expressions=tuple(own)))
    return tuple(scenes), given


def runs_of(folder, scenes, given, names="xy"):
    hits = [1] * sum(len(scene.expressions) for scene in scenes)
    return [make_run(folder, name, scenes, hits, masks=given[name]) for name in names]


def slow(scenes, masks, images):
    """Mean IoU and cIoU of the masks on a list of images."""
    ious, shared, union = [], 0, 0
    for scene in images:
        for expression in scene.expressions:
            if expression.mask is not None:
                truth = decode(expression.mask)
                mine = decode(masks[expression.id]) if expression.id in masks else np.zeros(SIZE, bool)
                both, either = int((truth & mine).sum()), int((truth | mine).sum())
                ious.append(round(1e6 * both / either))
                shared, union = shared + both, union + either
    return (sum(ious) / len(ious) / 1e6, shared / union) if ious else None


def test_a_pair_is_what_slow_loops_say(tmp_path):
    scenes, given = world()
    (pair,) = compare(runs_of(tmp_path, scenes, given), DRAWS).pairs
    present = [scene for scene in scenes if scene.expressions]
    assert pair.masks["n"] == sum(e.mask is not None for scene in scenes for e in scene.expressions)
    values = [slow(scenes, given[name], scenes) for name in "xy"]
    differences = []
    for taken in np.concatenate(list(drawn_images(len(present), DRAWS, 0))).tolist():
        one, other = (slow(scenes, given[name], [present[image] for image in taken]) for name in "xy")
        differences.append((one[0] - other[0], one[1] - other[1]))
    images = sum(any(e.mask is not None for e in scene.expressions) for scene in present)
    assert images < len(present)
    place = int(expanded_tail(images, 0.95) * (DRAWS + 1))
    for column, name in enumerate(("miou", "ciou")):
        part, ordered = pair.masks[name], sorted(difference[column] for difference in differences)
        assert (part["a"], part["b"]) == pytest.approx((values[0][column], values[1][column]), rel=1e-12)
        assert part["difference"] == pytest.approx(values[0][column] - values[1][column], rel=1e-9)
        assert part["ci95"] == pytest.approx((ordered[place - 1], ordered[-place]), rel=1e-9)
        low, high = part["ci95"]
        assert (part["p"] <= 0.05) == (low > 0 or high < 0)
        assert part["p_holm"] == part["p"]


def test_a_run_against_a_copy_differs_in_nothing(tmp_path):
    scenes, given = world(1)
    (pair,) = compare(runs_of(tmp_path, scenes, {"x": given["x"], "y": given["x"]}), DRAWS).pairs
    for name in ("miou", "ciou"):
        part = pair.masks[name]
        assert (part["difference"], part["ci95"], part["p"]) == (0.0, (0.0, 0.0), 1.0)


def test_several_pairs_are_corrected_for_their_number_and_printed(tmp_path):
    scenes, given = world(2)
    folders = runs_of(tmp_path, scenes, given, "xyz")
    comparison = compare(folders, DRAWS)
    for name in ("miou", "ciou"):
        parts = [pair.masks[name] for pair in comparison.pairs]
        least = min(parts, key=lambda part: part["p"])
        assert least["p_holm"] == min(1.0, 3 * least["p"])
        assert all(part["p_holm"] >= part["p"] for part in parts)
    lines = [line for line in paragraph(comparison, comparison.pairs[1]) if line.startswith(("mask mIoU", "cIoU"))]
    assert len(lines) == 2 and all("A - C" in line and "after Holm" in line for line in lines)
    page = comparing(
        [SimpleNamespace(folder=folder, label=name) for folder, name in zip(folders, "xyz", strict=True)],
        Bootstrap(seed=0, draws=DRAWS, confidence=0.95),
    )
    assert len(page["masks"]) == 6 and lines[0].replace("A - C", "x - z") in page["masks"]
    assert comparison.as_object()["pairs"][1]["masks"]["n"] == comparison.pairs[1].masks["n"]


def test_without_targets_the_mean_is_giou(tmp_path):
    scenes, given = world(3)
    nothing = [
        replace(s, expressions=tuple(replace(e, box=(np.nan,) * 4) if e.mask is None else e for e in s.expressions))
        for s in scenes
    ]
    (pair,) = compare(runs_of(tmp_path, nothing, given), DRAWS).pairs
    assert {*pair.masks} == {"n", "giou", "ciou"}
    assert pair.masks["n"] == sum(len(scene.expressions) for scene in scenes)


def test_the_shipped_run_has_masks_in_its_packed_outcomes():
    (folder,) = (PROJECT / "results" / "runs" / "oneref" / "shapes-val").iterdir()
    stored, masks = read_outcomes(folder).masks, read_record(folder).metrics.masks
    assert stored[:, 0].mean() == pytest.approx(masks.miou.value, abs=1e-6)
    assert stored[:, 1].sum() / stored[:, 2].sum() == pytest.approx(masks.ciou.value, rel=1e-12)


def test_an_edited_mask_is_noticed(tmp_path):
    scenes, given = world(6)
    (folder,) = runs_of(tmp_path, scenes, given, "x")
    assert not [line for line in other_numbers(folder, read_record(folder), scenes, {}) if "outcomes" in line]
    path = folder / "outcomes.jsonl"
    path.write_text(re.sub(r'"masks":\[\[0\.\d+,', '"masks":[[0.000001,', path.read_text(), count=1))
    (line,) = (line for line in other_numbers(folder, read_record(folder), scenes, {}) if "outcomes" in line)
    assert "1 are not those that the predictions give" in line


def test_outcomes_keep_masks_and_tables_have_them(tmp_path):
    scenes, given = world(4)
    (folder,) = runs_of(tmp_path, scenes, given, "x")
    stored = read_outcomes(folder)
    assert stored.masks.shape == (len(stored.ids), 3)
    expressions = [e for scene in scenes for e in scene.expressions]
    assert np.isnan(stored.masks[:, 0]).tolist() == [e.mask is None for e in expressions]
    table = outcome_table(folder)
    some = ~np.isnan(stored.masks[:, 0])
    rest = table["mask_intersection"][some] / table["mask_union"][some]
    assert np.allclose(table["mask_iou"][some], rest, atol=1e-6)


def test_masks_that_cannot_be_compared_are_named(tmp_path):
    scenes, given = world(5)
    one, _ = runs_of(tmp_path / "a", scenes, given)
    bare = {"x": given["x"], "y": None}
    _, other = runs_of(tmp_path / "b", scenes, bare)
    plain = compare([one, other], DRAWS)
    assert plain.pairs[0].masks is None and not any("masks" in note for note in plain.notes)
    # Others' ground truth.
    theirs, _ = world(5, masked=lambda number: number % 4 != 2)
    _, other = runs_of(tmp_path / "c", theirs, given)
    others = compare([one, other], DRAWS)
    assert others.pairs[0].masks is None and any("ground-truth masks are others" in note for note in others.notes)
    # Outcomes of before masks were in them.
    path = other / "outcomes.jsonl"
    path.write_text(re.sub(r',"masks".*}', "}", path.read_text()))
    old = compare([one, other], DRAWS)
    assert old.pairs[0].masks is None and any(f"bench score {other} --keep" in note for note in old.notes)
