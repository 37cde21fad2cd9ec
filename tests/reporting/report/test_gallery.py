"""The gallery's columns: what the page's filters go over."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from bench.attention import AttentionMap
from bench.errors import RunError
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol
from bench.grounding import Expression, Prediction, Scene
from bench.masks import encode
from bench.reporting.report.gallery import MOST_PROPOSALS, AnsweredRun, answered, columns
from bench.reporting.report.page import TEMPLATES
from bench.runs.predictions import SceneAnswers


def made(scenes, rows, world):
    """An `AnsweredRun` of these rows, under the label of a run of the made-up world."""
    scored = outcomes(scenes, rows, protocol("iou"), partial=True)
    return AnsweredRun(world.runs[0], {row.scene: row for row in rows}, scored)


def scene(*boxes, size=(100, 50), name="s"):
    expressions = tuple(Expression(f"{name}{n}", f"text {n}", box) for n, box in enumerate(boxes))
    return Scene(name, f"{name}.png", *size, expressions)


def test_columns_hold_every_expression_and_answer(world):
    small = [(96, 64, b"x")] * len(world.split.scenes)
    gallery = columns(world.split.scenes, small, world.answers)
    expressions = [e for s in world.split.scenes for e in s.expressions]
    assert gallery["id"] == [e.id for e in expressions]
    assert gallery["text"] == [e.text for e in expressions]
    assert np.allclose(np.array(gallery["box"]).reshape(-1, 4) / 10, [e.box for e in expressions], atol=0.051)
    for run, answer in zip(gallery["runs"], world.answers, strict=True):
        assert [letter == "1" for letter in run["outcome"]] == answer.outcomes.hit.tolist()
        assert [letter != "-" for letter in run["outcome"]] == answer.outcomes.answered.tolist()
        assert run["outcome"].count("1") == answer.run.record.metrics.hits
        assert np.all(np.abs(np.array(run["iou"]) / 1000 - np.maximum(answer.outcomes.iou, 0)) < 0.001)
        assert len(run["box"]) == 4 * len(expressions)
    assert json.loads(json.dumps(gallery, allow_nan=False)) == gallery


def test_a_miss_never_reads_as_a_half(world):
    scenes = [scene((0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 10))]
    boxes = [(0, 0, 4.9999, 10), (0, 0, 5, 10), (0, 0, 2.9, 10)]
    rows = [SceneAnswers("s", tuple(Prediction(f"s{n}", box) for n, box in enumerate(boxes)))]
    (run,) = columns(scenes, [(100, 50, b"")], [made(scenes, rows, world)])["runs"]
    assert run["outcome"] == "010" and run["iou"] == [499, 500, 290]


def test_boxes_that_are_none_or_far_away(world):
    scenes = [scene((0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 10), (1, 2, 3, 4))]
    rows = [
        SceneAnswers("s", (Prediction("s0", None), Prediction("s1", (5, 5, 1e300, 6)), Prediction("s2", (9, 9, 1, 1))))
    ]
    (run,) = columns(scenes, [(100, 50, b"")], [made(scenes, rows, world)])["runs"]
    assert run["outcome"] == "-0--"
    assert run["box"] == [0, 0, 0, 0, 50, 50, 10_000, 60, 0, 0, 0, 0, 0, 0, 0, 0]


def test_a_set_of_proposals_is_stored_once_and_cut(world):
    scenes = [scene((0, 0, 10, 10)), scene((0, 0, 5, 5), name="t")]
    many = tuple((0.0, 0.0, 1.0 + n / 10, 2.0) for n in range(MOST_PROPOSALS + 7))

    def run(proposals):
        rows = [SceneAnswers("s", (), proposals), SceneAnswers("t", (), None if proposals is None else ())]
        return made(scenes, rows, world)

    gallery = columns(scenes, [(9, 9, b"")] * 2, [run(many), run(None), run(many), run(many[:1])])
    assert [entry["proposals"] for entry in gallery["runs"]] == [0, None, 0, 1]
    assert gallery["proposals"][0]["kept"] == [MOST_PROPOSALS, 0]
    assert gallery["proposals"][0]["made"] == [MOST_PROPOSALS + 7, 0]
    assert gallery["proposals"][1] == {"kept": [1, 0], "made": [1, 0], "box": [0, 0, 10, 20]}


def test_cuts_are_labels_with_a_place_for_each_expression(world):
    gallery = columns(world.split.scenes, [(96, 64, b"")] * 40, world.answers)
    cuts = {cut["name"]: cut for cut in gallery["cuts"]}
    kinds = [e.kind for s in world.split.scenes for e in s.expressions]
    assert [cuts["kind"]["labels"][place] for place in cuts["kind"]["of"]] == kinds
    assert cuts["length"]["labels"] == ["1-5", "6-7"]
    assert set(cuts) >= {"category", "box area", "same category", "people"}


def test_an_image_without_a_size_takes_what_holds_its_boxes(world):
    scenes = [replace(scene((3, 4, 20.5, 30)), width=None, height=None)]
    gone = (None, None, "not there")
    assert columns(scenes, [gone], [made(scenes, [SceneAnswers("s", ())], world)])["sizes"] == [21, 30]
    sized = SceneAnswers("s", (), size=(64, 48))
    gallery = columns(scenes, [gone], [made(scenes, [sized], world)])
    assert gallery["sizes"] == [64, 48] and gallery["why"] == {"0": "not there"}


def test_answers_that_are_not_those_of_the_record_are_refused(world, tmp_path):
    run = world.runs[0]
    wrong = run.record.metrics.model_copy(update={"hits": run.record.metrics.hits + 1})
    with pytest.raises(RunError, match=r"has \d+ hits, but its predictions give \d+"):
        answered(replace(run, record=run.record.model_copy(update={"metrics": wrong})), world.split.scenes)


def test_attention_maps_stand_under_the_number_of_their_expression(world):
    one, attention = scene((0, 0, 9, 9), (0, 0, 9, 9)), AttentionMap(1, 2, "A/")
    row = SceneAnswers("s", (Prediction("s0", None), Prediction("s1", None, attention=attention)))
    gallery = columns([one], [(100, 50, b"x")], [made([one], [row], world)])
    assert gallery["runs"][0]["attention"] == {"1": [1, 2, "A/"]}


def test_masks_stand_once_and_the_page_reads_them_as_coco_does(world):
    rng = np.random.default_rng(0)
    truth, other = (rng.random((37, 50)) < share for share in (0.3, 0.9))
    masks = [encode(mask) for mask in (truth, other)]
    one = scene((0, 0, 9, 9), (0, 0, 9, 9), (0, 0, 9, 9))
    one = replace(one, expressions=tuple(replace(e, mask=masks[0]) for e in one.expressions))
    predictions = [Prediction(f"s{n}", None, mask=mask) for n, mask in enumerate((None, *masks))]
    row = SceneAnswers("s", tuple(predictions))
    run, bare = made([one], [row], world), made([one], [SceneAnswers("s", ())], world)
    gallery = columns([one], [(100, 50, b"x")], [run, bare])
    assert gallery["masks"] == [[37, 50, m["counts"]] for m in masks] and gallery["mask"] == {"0": 0, "1": 0, "2": 0}
    assert [each["mask"] for each in gallery["runs"]] == [{"1": 0, "2": 1}, {}]
    # A page without predicted masks is no larger.
    assert columns([one], [(100, 50, b"x")], [bare])["masks"] == []
    # The script's own path, filled.
    if (node := shutil.which("node")) is None:
        pytest.skip("needs node")
    script = (TEMPLATES / "data.js").read_text()
    script = script[script.index("// Lengths of runs") : script.index("// The image as a data URL")]
    call = f"{script}\nconsole.log(JSON.stringify({json.dumps(gallery['masks'])}.map(maskPath)))"
    for mask, path in zip((truth, other), json.loads(subprocess.check_output([node, "-e", call])), strict=True):
        filled = np.zeros_like(mask)
        for x, y, length in re.findall(r"M(\d+) (\d+)v(\d+)h1v-\d+z", path):
            filled[int(y) : int(y) + int(length), int(x)] = True
        assert (filled == mask).all()
