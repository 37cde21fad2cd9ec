"""`bench verify` as typed."""

import json

import pytest
from edited_records import edited


@pytest.fixture
def run(bench, tmp_path):
    line = {"image": "p.jpg", "text": "cat", "box_xyxy": [0, 0, 9, 9], "id": "a", "width": 20, "height": 10}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "theirs.json").write_text('{"a": [0, 0, 9, 9]}')
    assert bench("score", "--predictions", "theirs.json", "--split", "file:mine.jsonl", "--results", "out")[0] == 0
    (path,) = tmp_path.glob("out/runs/*/*/*/run.json")
    return path.parent


def test_intact_and_damaged(bench, run):
    code, out, err = bench("verify", "--results", "out")
    assert code == 0 and "intact, re-score equal\n1 intact, 0 damaged, 0 unfinished; 1 re-scored and equal" in out
    assert bench("verify", "theirs", "--results", "out")[:2] == (code, out)
    edited(run, metrics__mean_iou=0.5)
    code, out, err = bench("verify", str(run), "--json")
    (one,) = json.loads(out)["runs"]
    assert code == 1 and "1 of 1 damaged" in err and one["state"] == "damaged"
    assert one["faults"] == ["run.json: metrics.mean_iou: 0.5, but its predictions give 1.0"]


def test_nothing_to_verify(bench, tmp_path):
    assert bench("verify", "--results", "out")[0] == 2
    (tmp_path / "out").mkdir()
    assert bench("verify", "--results", "out")[:2] == (0, "no runs in out\n")


def test_masks_that_are_not_at_hand_are_said_to_be_unscored(bench, tmp_path):
    line = {"image": "p.jpg", "text": "cat", "box_xyxy": [2, 1, 6, 4], "id": "a", "width": 8, "height": 6}
    mask = {"size": [6, 8], "counts": [13, 3, 32]}
    (tmp_path / "theirs.json").write_text(json.dumps({"a": {"box": [2, 1, 6, 4], "mask": mask}}))
    (tmp_path / "mine.jsonl").write_text(json.dumps(line | {"segmentation": mask}) + "\n")
    scored = ("score", "--predictions", "theirs.json", "--split", "file:mine.jsonl", "--results", "out", "--json")
    (row,) = json.loads(bench(*scored)[1])["rows"]
    assert row["masks"]["ciou"] == {"value": 1.0, "ci95": None, "ci95_note": "1 image"} and row["masks"]["n"] == 1
    assert "intact, re-score equal\n" in bench("verify", "--results", "out")[1]
    # The same data without its masks.
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n")
    code, out, _ = bench("verify", "--results", "out")
    assert code == 0 and "re-score equal for boxes; the split here has no masks to score the run's by" in out
    (run,) = (tmp_path / "out" / "runs").glob("*/*/*")
    assert "of which the split here has none; prepare the data as it was" in bench("score", str(run), "--keep")[2]
    # Other masks are other numbers.
    (tmp_path / "mine.jsonl").write_text(json.dumps(line | {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}) + "\n")
    code, out, _ = bench("verify", "--results", "out")
    assert code == 1 and "metrics.masks.data" in out
