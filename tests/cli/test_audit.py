"""`bench audit`, its page, the flags it saves, and `bench score --flags` and `bench data review` as typed."""

import json
import re

import pytest
from worlds_of_runs import make_run, scenes_of

from bench.datasets.load import load_split
from bench.settings import load_settings

WIDTH = {"width": 90, "height": 80}


@pytest.fixture
def own(tmp_path, bench):
    """36 expressions on 12 images; both runs mean the second object where the first of e0 and e3 is annotated."""
    boxes = [[0, 0, 30, 30], [50, 40, 90, 80], [0, 50, 30, 80]]
    texts = ["man", "the <b>dog</b>", "cat"]
    rows = [
        {"image": f"p{n // 3}.jpg", "text": texts[n % 3], "box_xyxy": boxes[n % 3], "id": f"e{n}", **WIDTH}
        for n in range(36)
    ]
    rows[5]["text"] = "man"  # the same word about another box
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for shift, name in enumerate(("a", "b")):
        predicted = {f"e{n}": [x + shift for x in boxes[1 if n in (0, 3) else n % 3]] for n in range(36)}
        (tmp_path / f"{name}.json").write_text(json.dumps(predicted))
        assert bench("score", "--predictions", f"{name}.json", "--split", "file:mine.jsonl")[0] == 0
    return tmp_path


def test_doubtful_labels_a_page_and_a_number_without_them(bench, own):
    folders = [str(path) for name in "ab" for path in (own / "results" / "runs" / name).glob("*/*")]
    code, out, err = bench("audit", *folders, "--out", "audit.html", "--json")
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert [row["id"] for row in found["doubtful"]] == ["e0", "e3", "e5"]
    assert [row["other"] for row in found["doubtful"]] == ["e1", "e4", None]
    assert found["counts"] | {"runs_agree": 2, "same_text": 2, "on_another_object": 2} == found["counts"]
    assert "3 of 36 labels are doubtful" in err and "images that cannot be drawn: 2" in err
    page = (own / "audit.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert [item["id"] for item in data["items"]] == ["e0", "e3", "e5"] and "<b>dog" not in page
    assert [box[0] for box in data["items"][0]["boxes"]] == ["truth", "other", "c0", "c1"]
    # What the page saves is what score takes.
    flags = {key: data[key] for key in ("format", "version", "split", "fingerprint")}
    (own / "flags.json").write_text(json.dumps(flags | {"flags": {"e0": "doubtful", "e3": "ok"}}))
    folder = folders[0]
    code, out, _ = bench("score", folder, "--flags", "flags.json", "--json")
    whole, reviewed = json.loads(out.splitlines()[-1])["rows"]
    assert (whole["hits"], whole["n"], whole["protocol"]) == (34, 36, "iou")
    assert (reviewed["hits"], reviewed["n"], reviewed["protocol"]) == (34, 35, "iou+reviewed")
    assert re.fullmatch(r".*\|iou\+reviewed>=0\.5\|.*\|n:35\|.*\|review:[0-9a-f]{8}", reviewed["signature"])
    out = bench("score", folder, "--flags", "flags.json")[1]
    assert re.search(r"label +ok +1 +0\.00", out) and re.search(r"doubtful +1 +0\.00", out)
    assert re.search(r"unknown +34 +100\.00", out) and "without 1 expressions that flags.json flags" in out


@pytest.mark.parametrize("words", [("--keep",), ("--protocol", "giou")])
def test_flags_go_with_a_run_as_it_is(bench, own, words):
    (folder,) = (own / "results" / "runs" / "a").glob("*/*")
    code, _, err = bench("score", str(folder), "--flags", "flags.json", *words)
    assert code == 2 and "--flags shows a stored run under its own protocol" in err


def test_flags_that_leave_nothing_are_refused(bench, own):
    split = load_split("file:mine.jsonl", load_settings(None, {}))
    value = {"format": "bench-flags", "version": 1, "split": split.name, "fingerprint": split.fingerprint}
    (own / "f.json").write_text(json.dumps(value | {"flags": {f"e{n}": "doubtful" for n in range(36)}}))
    (folder,) = (own / "results" / "runs" / "a").glob("*/*")
    code, _, err = bench("score", str(folder), "--flags", "f.json")
    assert code == 2 and "none is left to score" in err


def test_nothing_doubtful_is_said_and_makes_no_page(bench, tmp_path):
    scenes = scenes_of([2] * 12)
    for name in ("x", "y"):
        make_run(tmp_path / "results", name, scenes, [1] * 24)
    code, _, err = bench("audit", "x", "y", "--out", "a.html")
    assert code == 2 and not (tmp_path / "a.html").exists() and err.startswith("bench: ")


def test_a_review_becomes_flags(bench, own):
    rows = [{"sent_id": f"e{n}", "caption": "man", "reviewed": "bad" if n else "good"} for n in (0, 3, 99)]
    (own / "review.json").write_text(json.dumps(rows))
    code, _, err = bench("data", "review", "file:mine.jsonl", "--reviewed", "review.json")
    assert code == 2 and "its rows have sent_id ('e99')" in err
    words = ("data", "review", "file:mine.jsonl", "--reviewed", "review.json", "--doubtful", "reviewed=bad")
    code, out, _ = bench(*words)
    assert (
        code == 0
        and "2 expressions of file:mine have a flag, 1 of them doubtful" in out
        and "not matched: 1 of 3" in out
    )
    assert json.loads((own / "flags.json").read_text())["flags"] == {"e0": "ok", "e3": "doubtful"}
    (own / "review.json").write_text(json.dumps(rows[2:]))
    code, _, err = bench(*words)
    assert code == 2 and "not one of its 1 rows matches" in err
