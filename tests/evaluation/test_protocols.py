"""Each protocol against a plain computation of what its source does, and where they part."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.boxes import giou_elementwise, iou_elementwise
from bench.evaluation.protocols import PROTOCOLS, protocol
from bench.settings import PROJECT


def score(name, predicted, truth, width=640.0, height=480.0):
    rule = protocol(name)
    sizes = np.array([width]), np.array([height])
    overlap = rule.overlap(*rule.place(np.array([predicted], float), np.array([truth], float), *sizes))
    return float(overlap[0]), bool(rule.reached(overlap, 0.5)[0])


def transvg(predicted, x, y, w, h, width, height, side):
    """TransVG's own steps: integers, resize by the long side, pad, normalise, clamp, IoU with eps."""
    ratio = side / max(width, height)
    left, top = (side - width * ratio) / 2, (side - height * ratio) / 2
    x, y, w, h = int(x), int(y), int(w), int(h)
    shift = np.array([left, top, left, top])
    truth = (np.array([x, y, x + w, y + h]) * ratio + shift) / side
    box = np.clip((np.array(predicted) * ratio + shift) / side, 0, 1)
    size = np.clip(np.minimum(box[2:], truth[2:]) - np.maximum(box[:2], truth[:2]), 0, None)
    inter = size[0] * size[1]
    areas = np.prod(box[2:] - box[:2]) + np.prod(truth[2:] - truth[:2])
    return inter / (areas - inter + 1e-16)


def test_exactly_one_half_parts_iou_from_strict():
    half = (0, 0, 10, 10), (0, 0, 10, 20)
    assert score("iou", *half) == (0.5, True) and score("strict", *half) == (0.5, False)


def test_giou_is_stricter_and_does_not_clip():
    assert score("giou", (0, 0, 10, 10), (0, 5, 10, 15))[0] == pytest.approx(1 / 3)
    shifted = (0, 0, 10, 10), (2, 2, 12, 12)
    assert score("giou", *shifted)[0] < score("iou", *shifted)[0]
    outside = (-100, 0, 100, 100), (0, 0, 100, 100)
    assert score("iou", *outside)[0] == 1 and score("giou", *outside)[0] == pytest.approx(0.5)


def test_integers_cut_as_width_and_height_survive_float_noise():
    x, w = 29.02, 227.0
    assert (x + w) - x < w  # the noise is there
    overlap, _ = score("letterbox-clamped", (29, 100, 256, 300), (x, 100.9, x + w, 300.9))
    assert overlap == 1


side = st.integers(20, 900)
number = st.integers(0, 60_000).map(lambda n: n / 100)
corner = st.floats(-300, 1200, allow_nan=False)


@pytest.mark.slow
@given(side, side, number, number, number, number, corner, corner, corner, corner, st.sampled_from([224, 640]))
def test_letterbox_clamped_is_what_transvg_does(width, height, x, y, w, h, a, b, c, d, network):
    predicted = (min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1)
    overlap, _ = score("letterbox-clamped", predicted, (x, y, x + w, y + h), width, height)
    assert overlap == pytest.approx(transvg(predicted, x, y, w, h, width, height, network), abs=1e-6)


def test_letterbox_clamps_to_the_square_not_to_the_image():
    truth = (0, 0, 400, 200)  # the whole of a flat image
    above = (0, -100, 400, 200)  # into the padding above it
    assert score("iou", above, truth, 400, 200) == (1.0, True)
    assert score("letterbox-clamped", above, truth, 400, 200)[0] == pytest.approx(2 / 3)
    assert score("letterbox-clamped", (-100, 0, 400, 200), truth, 400, 200)[0] == 1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_perfect_box_is_a_hit_everywhere(name):
    assert score(name, (10, 20, 110, 220), (10, 20, 110, 220)) == (pytest.approx(1), True)


@pytest.mark.slow
def test_what_giou_costs_on_real_boxes(real):
    """docs/reproduce.md has these numbers; the boxes are LBYL-Net's, and REC-Eval's of three models."""
    folder = real / "predictions"
    page = (PROJECT / "docs" / "reproduce.md").read_text()

    def cost(pairs):
        boxes, truths = (np.array(side, float) for side in zip(*pairs, strict=True))
        hits = [(overlap(boxes, truths) >= 0.5).mean() for overlap in (giou_elementwise, iou_elementwise)]
        return round(100 * (hits[0] - hits[1]), 2)

    costs = {}
    for model in ("bert", "lstm"):
        rows = json.loads((folder / f"lbyl_{model}_unc_val.json").read_text()).values()
        costs[model] = cost([(row["pred_bbox"], row["gt_bbox"]) for row in rows])
    lines = (folder / "rec_eval" / "refcoco-testA.jsonl").read_text().splitlines()
    truths = {row["id"]: row["box_xyxy"] for row in map(json.loads, lines)}
    for model in ("qwen25vl", "internvl", "dino"):
        rows = map(json.loads, (folder / "rec_eval" / f"{model}.jsonl").read_text().splitlines())
        costs[model] = cost([(row["box"] or [np.nan] * 4, truths[row["id"]]) for row in rows])
    assert costs == {"bert": -0.64, "lstm": -0.44, "qwen25vl": -0.15, "internvl": -0.35, "dino": -0.05}
    assert all(f"{-value:.2f}" in page for value in costs.values())
