"""Sets of boxes against sets of targets: rules, traps and the vectorised pairing against a loop."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.boxes import giou_elementwise, iou_elementwise
from bench.errors import UnknownName, UsageError
from bench.evaluation import several as module
from bench.evaluation.metrics import compute
from bench.evaluation.outcomes import outcomes
from bench.evaluation.protocols import protocol, with_threshold
from bench.grounding import Expression, Prediction, Scene, ScoredBox
from bench.runs.predictions import SceneAnswers

UNIT, FAR, THIRD = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0), (80.0, 0.0, 90.0, 10.0)
NOTHING = (math.nan,) * 4
SEVERAL, OFFICIAL = protocol("several"), protocol("grefcoco-official")


def expression(name, *targets):
    box, *also = targets or (NOTHING,)
    return Expression(name, "it", box, also=tuple(also))


def predicted(name, *scored, none=None):
    """A prediction of (box, score) pairs, the first of which is its `box`."""
    first, *others = scored or ((None, None),)
    return Prediction(name, *first, others=tuple(ScoredBox(*each) for each in others), none=none)


def results(expressions, predictions, rule=SEVERAL, partial=False):
    scenes = [Scene("a", "a.jpg", 100, 100, tuple(expressions))]
    return outcomes(scenes, [SceneAnswers("a", tuple(predictions))], rule, partial)


def f1(targets, *scored, none=None, rule=SEVERAL):
    return float(results([expression("0", *targets)], [predicted("0", *scored, none=none)], rule).overlap[0])


def test_every_target_once_and_nothing_besides():
    assert f1([UNIT, FAR], (UNIT, 0.2), (FAR, 0.9)) == 1
    assert f1([UNIT, FAR], (UNIT, 0.9)) == f1([UNIT], (UNIT, 0.9), (FAR, 0.1)) == pytest.approx(2 / 3)
    assert f1([UNIT], (UNIT, 0.9), (UNIT, 0.8)) == pytest.approx(2 / 3)  # one target, one box
    assert f1([UNIT, UNIT], (UNIT, 0.9), (UNIT, 0.8)) == 1
    assert f1([UNIT, FAR, THIRD], (THIRD, 0.5)) == 0.5 and f1([UNIT], (FAR, 0.9)) == 0
    made = results([expression("0", UNIT, FAR)], [predicted("0", (FAR, None), (UNIT, None))])
    assert made.hit.tolist() == [True] and made.iou.tolist() == [1] and made.answered.tolist() == [True]


def test_the_first_annotation_alone_is_not_enough():
    """What other programs compare with: the first box of several."""
    only_first = results([expression("0", UNIT, FAR)], [predicted("0", (UNIT, 0.9))])
    assert only_first.hit.tolist() == [False]
    only_last = results([expression("0", UNIT, FAR)], [predicted("0", (FAR, 0.9), (UNIT, 0.8))])
    assert only_last.hit.tolist() == [True]


def test_only_a_rejection_is_right_where_nothing_is_referred_to():
    assert f1([], none=1.0) == 1
    assert f1([]) == 0  # no box and no word of none: perhaps nobody could read the answer
    assert f1([], (UNIT, 0.3)) == 0 and f1([], (UNIT, 0.3), none=0.2) == 0 and f1([], (UNIT, 0.3), none=0.4) == 1
    assert f1([], (UNIT, None), none=0.9) == 0  # a box without a score is meant
    above = with_threshold(SEVERAL, 0.5)
    assert f1([], (UNIT, 0.3), rule=above) == 1 and f1([], (UNIT, 0.5), rule=above) == 0
    assert f1([], ((9.0, 9.0, 1.0, 1.0), 0.9)) == 0  # an inverted box is an answer, and no rejection
    unreadable = outcomes(
        [Scene("a", "a.jpg", 9, 9, (expression("0"),))], [SceneAnswers("a", (), error="broken")], SEVERAL
    )
    assert unreadable.hit.tolist() == [False] and unreadable.answered.tolist() == [False]
    assert not results([expression("0")], [], partial=True).hit.any()


def test_under_other_protocols_one_box_is_enough_and_no_target_is_a_miss():
    expressions = [expression("0", UNIT, FAR), expression("1")]
    made = results(expressions, [predicted("0", (FAR, 0.9)), predicted("1", none=1.0)], protocol("iou"))
    assert made.hit.tolist() == [True, False] and made.sets is None and "targets" not in made.strata
    assert made.strata["box area"].labels() == ["1-5%", None]


def test_never_answering_is_no_good_row():
    expressions = [expression("0"), expression("1", UNIT), expression("2", UNIT, FAR), expression("3", FAR)]
    metrics = compute(
        [Scene("a", "a.jpg", 100, 100, tuple(expressions))],
        [SceneAnswers("a", tuple(predicted(e.id, none=1.0) for e in expressions))],
        SEVERAL,
    )
    sets = metrics.several
    assert sets.no_target_accuracy.value == 1 and sets.target_accuracy.value == 0
    assert sets.exact.value == metrics.accuracy == 0.25 and (sets.no_target, sets.several, sets.boxes) == (1, 1, 0)
    assert metrics.no_box == 0 and sets.one_box and sets.threshold is None
    assert {label: part.n for label, part in metrics.strata["targets"].items()} == {"none": 1, "one": 2, "several": 1}


def test_numbers_have_intervals_over_images():
    scenes = [
        Scene(str(n), f"{n}.jpg", 100, 100, (expression(f"{n}a", UNIT, FAR), expression(f"{n}b"))) for n in range(40)
    ]
    rows = [
        SceneAnswers(str(n), (
            predicted(f"{n}a", (UNIT, 0.9), *[(FAR, 0.8)] * (n % 2)), predicted(f"{n}b", none=float(n % 3)),
        ))
        for n in range(40)
    ]  # fmt: skip
    sets = compute(scenes, rows, SEVERAL).several
    for part in (sets.exact, sets.mean_f1, sets.no_target_accuracy, sets.target_accuracy):
        assert part.ci95 is not None and part.ci95[0] <= part.value <= part.ci95[1]
    assert sets.mean_f1.value == pytest.approx((20 + 20 * 2 / 3 + 40) / 80, abs=1e-5)
    assert sets.target_accuracy.value == 1 and not sets.one_box
    without = compute(
        [Scene("a", "a.jpg", 9, 9, (expression("0", UNIT),))], [SceneAnswers("a", (predicted("0"),))], SEVERAL
    )
    assert without.several.no_target_accuracy is None and without.no_box == 1


def test_gref_coco_counts_scores_from_0_7_and_generalised_iou():
    assert f1([UNIT], (UNIT, 0.7), (FAR, 0.69), rule=OFFICIAL) == 1 and f1([], (UNIT, 0.69), rule=OFFICIAL) == 1
    moved = (1.7, 1.7, 11.7, 11.7)
    assert iou_elementwise(UNIT, moved) > 0.5 > giou_elementwise(UNIT, moved)
    assert f1([UNIT], (moved, 0.9)) == 1 and f1([UNIT], (moved, 0.9), rule=OFFICIAL) == 0


def test_order_of_score_and_of_overlap_pair_otherwise():
    one, other = (0.0, 0.0, 10.0, 10.0), (3.0, 0.0, 13.0, 10.0)
    middle, left = (1.6, 0.0, 11.6, 10.0), (-3.2, 0.0, 6.8, 10.0)
    # `middle` is nearer to `other`, and so is taken by it first; `left` reaches `one` alone.
    assert f1([one, other], (middle, 0.9), (left, 0.8)) == 1
    nearer = (1.4, 0.0, 11.4, 10.0)  # nearer to `one`, which `left` then lacks
    assert f1([one, other], (nearer, 0.9), (left, 0.8)) == 0.5
    assert f1([one, other], (left, 0.9), (nearer, 0.8)) == 1


@pytest.mark.parametrize(("name", "error", "says"), [
    ("several@x", UsageError, "expected a score"), ("several@nan", UsageError, "expected a score"),
    ("several@", UsageError, "expected a score"), ("iou@0.5", UsageError, "'iou' takes no threshold; `several` does"),
    ("grefcoco-official@0.5", UsageError, "takes no threshold"), ("severall@0.5", UnknownName, "several"),
])  # fmt: skip
def test_thresholds_are_part_of_the_name(name, error, says):
    with pytest.raises(error, match=says):
        protocol(name)
    assert protocol("several@0.350").name == "several@0.35" and protocol("several@0.35").threshold == 0.35


coordinate = st.integers(0, 30).map(float)
size = st.integers(1, 12).map(float)
box = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), coordinate, coordinate, size, size)
scored = st.tuples(box, st.none() | st.sampled_from((0.1, 0.4, 0.7, 0.9)))
answer = st.tuples(st.lists(scored, max_size=5), st.none() | st.sampled_from((0.0, 0.5, 0.8)))


def slow(rule, targets, boxes, none):
    """F1 of one expression, in a loop."""
    ranked = sorted(boxes, key=lambda each: -math.inf if each[1] is None else -each[1])
    best = max((math.inf if s is None else s for _, s in ranked), default=-math.inf)
    kept = [b for b, s in ranked if s is None or rule.threshold is None or s >= rule.threshold]
    if none is not None and none > best:
        kept = []
    if not targets:
        return float(not kept and (none is not None or bool(boxes)))
    clipped = [tuple(min(max(v, 0), 40) for v in b) for b in kept] if rule.name.startswith("several") else kept
    pairs = [
        (k if rule.sets == "score" else 0, -float(rule.overlap(np.array(b), np.array(t))), k, n)
        for k, b in enumerate(clipped)
        for n, t in enumerate(targets)
    ]
    used, found = set(), 0
    for _, value, k, n in sorted(pairs):
        if -value >= 0.5 and ("box", k) not in used and ("target", n) not in used:
            used |= {("box", k), ("target", n)}
            found += 1
    return 2 * found / (len(kept) + len(targets))


@pytest.mark.parametrize("rule", ["several", "several@0.5", "grefcoco-official"])
@given(cases=st.lists(st.tuples(st.lists(box, max_size=4), answer), max_size=5), pairs=st.sampled_from((1, 7, 200_000)))
def test_the_arrays_agree_with_a_loop(rule, cases, pairs):
    rule = protocol(rule)
    expressions = [expression(str(n), *targets) for n, (targets, _) in enumerate(cases)]
    rows = [predicted(str(n), *boxes, none=none) for n, (_, (boxes, none)) in enumerate(cases)]
    scenes = [Scene("a", "a.jpg", 40, 40, tuple(expressions))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS", pairs)
        made = outcomes(scenes, [SceneAnswers("a", tuple(rows))], rule)
    expected = [slow(rule, targets, boxes, none) for targets, (boxes, none) in cases]
    assert made.overlap.tolist() == pytest.approx(expected)
    assert made.hit.tolist() == [value == 1 for value in expected]


@pytest.mark.real
def test_a_perfect_predictor_and_one_that_never_answers_on_a_real_file(real):
    from bench.datasets.readers.mdetr_json import read_mdetr_json

    scenes = read_mdetr_json(real / "refdrone" / "RefDrone_test_mdetr.json", several=True)

    def score(answer, rule="several"):
        return compute(scenes, [SceneAnswers(s.id, tuple(map(answer, s.expressions))) for s in scenes], rule)

    def perfect(e):
        return predicted(e.id, *((box, 0.9) for box in e.targets), none=None if e.targets else 1.0)

    def first_alone(e):
        return predicted(e.id, *((box, 0.9) for box in e.targets[:1]), none=None if e.targets else 1.0)

    for rule in ("several", "grefcoco-official"):
        whole = score(perfect, rule)
        assert (whole.n, whole.hits, whole.several.mean_f1.value) == (3_432, 3_432, 1)
    never = score(lambda e: predicted(e.id, none=1.0))
    assert never.several.no_target_accuracy.value == 1 and never.several.target_accuracy.value == 0
    assert round(100 * never.accuracy, 1) == 4.5 and never.hits == 156
    assert round(100 * score(first_alone).accuracy, 1) == 38.0  # what matching the first annotation alone takes for 100
    assert score(lambda e: predicted(e.id)).hits == 0
