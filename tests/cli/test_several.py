"""None and several, as typed: boxes of a file scored as sets, thresholds of a val split, tables and a report."""

import json
import re

import pytest

from bench.runs import provenance

ONE, TWO, THREE = [0, 0, 40, 40], [50, 0, 90, 40], [10, 45, 40, 75]
TARGETS = ([], [ONE], [ONE, TWO], [TWO, THREE])
SIZE = {"width": 100, "height": 80}


@pytest.fixture
def world(tmp_path):
    """Two splits of 24 expressions about 12 images, with none, one or two targets, and scored boxes for them."""
    for name, worst in (("val", 0.3), ("test", 0.32)):
        rows, boxes = [], {}
        for n in range(24):
            targets = TARGETS[n % 4]
            rows.append(
                {"image": f"{name}{n // 2}.jpg", "text": f"{name} {n}", "id": f"e{n}", "boxes_xyxy": targets, **SIZE}
            )
            wrong = [[0, 70, 9, 79]]  # with a low score on most, a high one on some
            scores = [0.9 - 0.01 * n] * len(targets) + [0.8 if n % 12 == 5 else worst]
            boxes[f"e{n}"] = {"boxes": targets + wrong, "scores": scores}
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / f"{name}.json").write_text(json.dumps(boxes))
    nothing = {f"e{n}": [] for n in range(24)}
    (tmp_path / "never.json").write_text(json.dumps(nothing))
    (tmp_path / "unreadable.json").write_text(json.dumps({**nothing, **dict.fromkeys(nothing)}))
    single = {f"e{n}": {"boxes": TARGETS[n % 4][:1]} for n in range(24)}
    (tmp_path / "single.json").write_text(json.dumps(single))
    return tmp_path


def score(bench, file, split="test", *more, code=0):
    words = ("--predictions", f"{file}.json", "--split", f"file:{split}.jsonl", "--name", "theirs")
    left, out, err = bench("score", *words, *more, "--json")
    assert left == code, err
    return json.loads(out.splitlines()[-1])["rows"][0] if not code else err


def test_a_split_of_none_and_several_is_scored_as_sets(bench, world):
    row = score(bench, "test")
    assert row["protocol"] == "several" and row["signature"].startswith("f1=1|several>=0.5|file:test|n:24|")
    assert row["signature"].endswith("|sets|v1") and row["acc@0.5"] == row["several"]["exact"]["value"] == 0
    row = score(bench, "test", "test", "--threshold", "0.5")
    assert row["signature"].startswith("f1=1|several@0.5>=0.5|") and row["several"]["threshold"] == 0.5
    assert row["several"]["exact"]["value"] == 22 / 24 and row["several"]["no_target_accuracy"]["value"] == 1
    assert row["several"]["target_accuracy"]["value"] == 1 and not row["several"]["one_box"]
    assert row["strata"]["targets"]["several"]["n"] == 12
    code, out, _ = bench("score", row["run_dir"], "--protocol", "several")
    assert code == 0 and "theirs: no threshold: every box counts, whatever its score" in out


def test_traps_of_other_metrics(bench, world):
    never, unreadable, single = (score(bench, file) for file in ("never", "unreadable", "single"))
    assert never["several"]["no_target_accuracy"]["value"] == 1 and never["several"]["target_accuracy"]["value"] == 0
    assert never["acc@0.5"] == 0.25 and unreadable["acc@0.5"] == 0 and unreadable["no_box"] == 24
    assert single["acc@0.5"] == 0.5 and single["several"]["one_box"]
    code, out, _ = bench("score", "--predictions", "single.json", "--split", "file:test.jsonl", "--name", "x")
    assert code == 0 and "N-acc" in out and "F1 = 1 % by stratum" in out and "Acc@0.5" not in out
    assert "□ answers one box at most" in out
    official = score(bench, "single", "test", "--protocol", "grefcoco-official")
    assert official["several"]["threshold"] == 0.7 and "|grefcoco-official>=0.5|" in official["signature"]


def test_a_threshold_is_chosen_on_val_and_kept(bench, world, monkeypatch):
    monkeypatch.setattr(provenance, "git_state", lambda *_: {"commit": "c" * 40, "dirty": False})
    val, test = (score(bench, name, name)["run_dir"] for name in ("val", "test"))
    code, out, err = bench("score", test, "--threshold", val, "--keep", "--json")
    assert code == 0, err
    row = json.loads(out.splitlines()[-1])["rows"][0]
    assert 0.32 < row["several"]["threshold"] < 0.67 and row["several"]["exact"]["value"] == 22 / 24
    assert "chosen on file:val, where F1 is 1 for 91.67%" in err
    code, out, err = bench("score", test, "--json")  # stands in the run
    assert json.loads(out.splitlines()[-1])["rows"][0]["several"] == row["several"]
    assert bench("verify", "--json")[0] == 0
    code, out, _ = bench("leaderboard")
    text = (world / "results" / "LEADERBOARD.md").read_text()
    assert code == 0 and "protocol several" in text and "threshold" in text and "F1 = 1" in text
    assert bench("leaderboard", "--check")[0] == 0
    assert bench("report", "--split", "file:test.jsonl", "--out", "r.html")[0] == 0
    page = (world / "r.html").read_text()
    gallery = json.loads(re.search(r'<script[^>]*id="gallery-data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    (run,) = gallery["runs"]
    assert "0" not in run["sets"] and run["outcome"][0] == "1"  # a rejection, and right
    assert run["sets"]["2"] == [10 * v for v in (*ONE, *TWO)] and gallery["also"]["2"] == [10 * v for v in TWO]
    assert len(run["sets"]["5"]) == 8 and run["outcome"][5] == "0"  # a box too many
    assert "F1 = 1 of " in page and "the best one" not in page


def test_the_gallery_draws_every_box_and_no_truth_where_nothing_is_meant(bench, world, browser):
    score(bench, "test", "test", "--threshold", "0.5")
    assert bench("report", "--split", "file:test.jsonl", "--out", "r.html")[0] == 0
    page = browser.new_page()
    page.goto((world / "r.html").as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")

    def drawn(name):
        card = page.locator(f'.card[data-id="{name}"]')
        return [card.locator(f".overlay > .{kind}").count() for kind in ("answer", "truth", "tag")]

    assert [drawn(name) for name in ("e0", "e1", "e2", "e5")] == [[0, 0, 0], [1, 1, 1], [2, 2, 2], [2, 1, 2]]
    assert "A's F1, lowest first" in "".join(page.locator("select").all_inner_texts())
    page.close()


def test_a_threshold_is_not_chosen_on_what_is_scored(bench, world):
    test, other = score(bench, "test")["run_dir"], score(bench, "single", "val")["run_dir"]
    code, _, err = bench("score", test, "--threshold", test)
    assert code == 2 and "is what is scored or a test split" in err
    code, _, err = bench("score", test, "--threshold", other)
    assert code == 2 and "no threshold can be chosen: no answer has boxes with scores" in err
    assert "expected a score" in score(bench, "test", "test", "--threshold", "high", code=2)
    assert "'iou' takes no threshold" in score(bench, "test", "test", "--protocol", "iou", "--threshold", "1", code=2)


def test_fiftyone_gets_every_box_that_counts(bench, world, monkeypatch):
    monkeypatch.setattr(provenance, "git_state", lambda *_: {"commit": "c" * 40, "dirty": False})
    score(bench, "test", "test", "--threshold", "0.5")
    code, _, err = bench("leaderboard", "export", "fiftyone", "--split", "file:test.jsonl", "--out", "fo")
    assert code == 0, err
    (file,) = [path for path in (world / "fo").iterdir() if path.name != "ground_truth.json"]
    of_image, truth = (
        json.loads((world / "fo" / name).read_text())["labels"]["test1"] for name in (file.name, "ground_truth.json")
    )
    assert [entry["attributes"]["expression"] for entry in of_image] == ["e2", "e2", "e3", "e3"]
    assert sorted(entry["bounding_box"] for entry in of_image) == sorted(entry["bounding_box"] for entry in truth)


def test_detections_in_coco_s_style(bench, world):
    detections = [
        {"image_id": f"e{n}", "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9}
        for n in range(24)
        for x1, y1, x2, y2 in TARGETS[n % 4]
    ]
    (world / "coco.json").write_text(json.dumps(detections))
    row = score(bench, "coco")
    assert row["acc@0.5"] == 1 and row["missing"] == 0
    (world / "strange.json").write_text(json.dumps([{**each, "image_id": "x"} for each in detections]))
    assert "0 of 1 keys are ids of file:test" in score(bench, "strange", code=2)


@pytest.mark.real
def test_the_real_refcocos_is_read_scored_and_reported(bench, real, tmp_path, monkeypatch):
    """506 hard expressions, 25 of them about nothing; 31 of their 460 images are there."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    path = real / "refcocos" / "refcocos_test.json"
    words = ("refcocos", "--annotations", path, "--images", real / "refcocos" / "pictures", "--json")
    code, out, err = bench("data", "prepare", *words)
    assert code == 0, err
    (split,) = json.loads(out)["splits"]
    assert (split["expressions"], split["images"], split["missing_images"]) == (506, 460, 429)
    code, out, _ = bench("data", "verify", "refcocos", "--json")
    (split,) = json.loads(out)["splits"]  # images are missing, so it is not ok
    assert code == 1 and (split["none"], split["several"], split["annotations"], split["broken"]) == (25, 0, [], [])
    assert (split["images_checked"], len(split["other_size"])) == (31, 0)
    rows = json.loads(path.read_text())
    boxes = {str(n): [row["solution"]] if row["solution"] else [] for n, row in enumerate(rows)}
    always = {str(n): [row["solution"] or [0, 0, 50, 50]] for n, row in enumerate(rows)}
    for name, answers, exact, rejected in (("perfect", boxes, 1, 1), ("always", always, 481 / 506, 0)):
        (tmp_path / f"{name}.json").write_text(json.dumps(answers))
        row = score_of(bench, "--predictions", f"{name}.json", "--split", "refcocos-test", "--name", name)
        sets = row["several"]
        assert (row["n"], sets["no_target"], sets["several"]) == (506, 25, 0) and row["missing"] == 0
        assert sets["exact"]["value"] == exact and sets["no_target_accuracy"]["value"] == rejected
        assert {label: part["n"] for label, part in row["strata"]["targets"].items()} == {"none": 25, "one": 481}
    assert bench("report", "--split", "refcocos-test", "--out", "r.html")[0] == 0
    assert "506 expressions about 460 images" in (tmp_path / "r.html").read_text()


def score_of(bench, *words):
    code, out, err = bench("score", *words, "--json")
    assert code == 0, err
    return json.loads(out.splitlines()[-1])["rows"][0]
