"""Which labels are doubtful: repeats against a slow count, agreement of runs, and the number of the real answers."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.audit.doubts import AGREE, agreements, audit, repeats
from bench.boxes import iou_elementwise
from bench.datasets.annotations import annotations_of
from bench.datasets.load import load_split
from bench.errors import UsageError
from bench.grounding import Expression, Scene
from bench.imported.scoring import import_boxes
from bench.settings import load_settings

BOXES = [(0.0, 0.0, 10.0, 10.0), (1.0, 0.0, 11.0, 10.0), (40.0, 40.0, 60.0, 60.0)]


def scenes_of(rows):
    """Scenes from rows (image, text, box)."""
    return [
        Scene(str(image), f"{image}.png", 100, 100, tuple(
            Expression(f"{image}-{n}", text, BOXES[box]) for n, (own, text, box) in enumerate(rows) if own == image
        ))
        for image in range(3)
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", "A"]), st.integers(0, 2)), max_size=12))
def test_repeats_are_those_of_a_slow_count(rows):
    same, repeated = repeats(annotations_of(scenes_of(rows)))
    every = [(image, text, box) for image in range(3) for own, text, box in rows if own == image]
    boxes = Counter((image, text) for image, text, _ in set(every))
    assert same.tolist() == [boxes[image, text] > 1 for image, text, _ in every]
    assert repeated.tolist() == [row in every[:n] for n, row in enumerate(every)]


def test_runs_agree_on_another_object_or_on_none():
    known = annotations_of(scenes_of([(0, "left", 0), (0, "right", 2), (0, "near left", 1), (1, "alone", 0)]))
    there, nowhere, nan = BOXES[2], (70.0, 70.0, 90.0, 90.0), (np.nan,) * 4
    first, second = np.array([there, there, there, nowhere]), np.array([there, there, nan, nowhere])
    agreed, other = agreements(known, np.stack([first, second]), np.array([True, False, True, True]))
    assert agreed.tolist() == [True, False, False, True] and other.tolist() == [1, -1, -1, -1]
    # Another annotation of the same object is not another object.
    near = np.array([BOXES[1]] * 4)
    assert agreements(known, np.stack([near, near]), np.ones(4, np.bool_))[1][0] == -1


@given(st.lists(st.floats(0, 20), min_size=3, max_size=3))
def test_every_pair_of_runs_has_to_agree(shifts):
    known = annotations_of(scenes_of([(0, "x", 0)]))
    boxes = np.array([[[50 + s, 50, 70 + s, 70]] for s in shifts])
    expected = all(iou_elementwise(a, b)[0] >= AGREE for a, b in combinations(boxes, 2))
    assert agreements(known, boxes, np.array([True]))[0].tolist() == [expected]
    assert not agreements(known, boxes, np.array([False]))[0].any()


@pytest.mark.slow
def test_the_real_answers_have_the_published_number(real, tmp_path):
    """Qwen2.5-VL and InternVL on RefCOCO testA agree against 38 of 1,975 labels, on another object 15 times."""
    folder = real / "predictions" / "rec_eval"
    resolved = load_settings(None, {"results": str(tmp_path)})
    split = load_split(f"file:{folder / 'refcoco-testA.jsonl'}", resolved)
    made = audit([import_boxes(folder / f"{n}.jsonl", split, tmp_path)[1] for n in ("qwen25vl", "internvl")], resolved)
    counts = made.counts()
    assert (counts["expressions"], counts["missed_by_all"], counts["runs_agree"]) == (1975, 89, 38)
    assert counts["on_another_object"] == 15
    assert {"blue shirt guy", "woman", "FAT GUY"} <= {made.known.texts[place] for place in made.doubtful}


def test_one_run_is_no_audit(tmp_path):
    with pytest.raises(UsageError, match="two runs or more"):
        audit([tmp_path], load_settings(None, {}))
