"""`bench score` as typed: the JSON contract, exit codes, and a stored run scored again to the last digit."""

import json
from pathlib import Path

import pytest
from edited_records import edited

from bench.runs import provenance

KEYS = [
    "pipeline", "split", "n", "hits", "acc@0.5", "ci95", "ci95_note", "acc@0.7", "acc@0.9", "mean_iou", "oracle@0.5",
    "no_box", "errors", "strata", "expressions_per_s", "images_per_s", "peak_memory_mb", "run_dir", "missing", "extra",
    "other_image", "signature", "protocol",
]  # fmt: skip


@pytest.fixture
def world(tmp_path):
    """A split of one's own (6 images, 12 expressions, the second half of them taller) and boxes for it."""
    size = {"width": 100, "height": 80}
    lines = [
        {"image": f"p{n % 6}.jpg", "text": "man on the left", "box_xyxy": [0, 0, 40, 40 + n], "id": f"e{n}", **size}
        for n in range(12)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    boxes = {f"e{n}": [0, 0, 40, 20] for n in range(11)} | {"e99": [0, 0, 1, 1]}
    boxes["e3"] = {"box": [0, 0, 40, 40], "image_name": "p5.jpg"}
    (tmp_path / "theirs.json").write_text(json.dumps(boxes))
    (tmp_path / "card.toml").write_text('license = "MIT"')
    (tmp_path / "few.json").write_text(json.dumps({"e0": [0, 0, 40, 20]}))
    (tmp_path / "sides.json").write_text(json.dumps({f"e{n}": [50, 30, 40, 20 + n] for n in range(12)}))
    return tmp_path


def imported(bench, *more):
    return bench("score", "--predictions", "theirs.json", "--split", "file:mine.jsonl", "--name", "Theirs", *more)


def last_row(out):
    (row,) = json.loads(out.splitlines()[-1])["rows"]
    return row


def test_boxes_made_elsewhere(bench, world):
    code, out, err = imported(bench, "--json")
    assert code == 0
    assert len(out.splitlines()) == 1  # the table goes to stderr
    row = last_row(out)
    assert [key for key in KEYS if key not in row] == []
    assert (row["pipeline"], row["split"], row["protocol"]) == ("Theirs", "file:mine", "iou")
    assert (row["n"], row["hits"], row["no_box"], row["errors"]) == (12, 1, 2, 0)  # e0 at exactly 0.5; e3, e11 without
    assert (row["missing"], row["extra"], row["other_image"]) == (1, 1, 1)
    assert row["acc@0.5"] == 1 / 12 and row["ci95"][0] <= 1 / 12 <= row["ci95"][1]
    assert row["strata"]["people"]["yes"]["n"] == 12
    assert row["oracle@0.5"] is row["expressions_per_s"] is row["peak_memory_mb"] is None
    assert (world / row["run_dir"] / "run.json").is_file()
    for part in ("Theirs", "8.33", "e11", "e99", "e3"):
        assert part in err


@pytest.mark.slow
def test_a_stored_run_gives_its_own_numbers(bench, world):
    (world / "bench.toml").write_text("[evaluation]\ndraws = 100\nseed = 5\n")
    first = last_row(imported(bench, "--json")[1])
    (world / "bench.toml").unlink()  # its draws are the run's, not the settings'
    record = Path(first["run_dir"]) / "run.json"
    stored = record.read_bytes()
    assert last_row(bench("score", first["run_dir"], "--json")[1]) == first
    strict = last_row(bench("score", first["run_dir"], "--protocol", "strict", "--json")[1])
    assert (strict["hits"], strict["protocol"]) == (0, "strict") and "strict>0.5" in strict["signature"]
    assert record.read_bytes() == stored  # only printed
    edited(record.parent, status="running")
    code, _, err = bench("score", first["run_dir"])
    assert code == 2 and "not finished" in err


@pytest.mark.slow
def test_other_data_is_refused(bench, world):
    code, out, err = imported(bench)
    assert (code, err) == (0, "") and "Acc@0.5" in out
    assert "by stratum" not in out  # every expression is alike
    assert "rows about no expression of the split: 1 (id e99)" in " ".join(out.split())
    row = last_row(imported(bench, "--json")[1])
    text = (world / "mine.jsonl").read_text()
    (world / "mine.jsonl").write_text(text.replace("[0, 0, 40, 41]", "[0, 0, 40, 42]"))
    code, out, err = bench("score", row["run_dir"])
    assert code == 2 and "fingerprint" in err
    (world / "moved").mkdir()
    (world / "mine.jsonl").unlink()
    (world / "moved" / "mine.jsonl").write_text(text)
    code, out, err = bench("score", row["run_dir"])
    assert code == 2 and "--split file:PATH.jsonl" in err
    assert last_row(bench("score", row["run_dir"], "--split", "file:moved/mine.jsonl", "--json")[1]) == row


@pytest.mark.slow
@pytest.mark.parametrize(("argv", "message"), [
    ((), "either"),
    (("run", "--predictions", "theirs.json"), "either"),
    (("--predictions", "theirs.json"), "--split"),
    (("run", "--xywh"), "--predictions"),
    (("run",), "run.json"),
    (("--predictions", "theirs.json", "--split", "refcoco-vall"), "refcoco-val"),
    (("--predictions", "none.json", "--split", "file:mine.jsonl"), "none.json"),
    (("--predictions", "theirs.json", "--split", "file:mine.jsonl", "--protocol", "struct"), "strict"),
    (("--predictions", "theirs.json", "--split", "file:mine.jsonl", "--key", "row"), "not a row number"),
    (("--predictions", "theirs.json", "--split", "file:mine.jsonl", "--results", "theirs.json"), "theirs.json"),
    (("--predictions", "few.json", "-s", "file:mine.jsonl"), "--partial"),
    (("--predictions", "sides.json", "-s", "file:mine.jsonl"), "pass --xywh"),
    (("run", "--partial"), "--predictions"),
    (("run", "--trained-on", "COCO"), "--predictions"),
    (("--predictions", "theirs.json", "-s", "file:mine.jsonl", "--card", "card.toml"), "'license'; did you mean"),
    (("--predictions", "theirs.json", "-s", "file:mine.jsonl", "--card", "none.toml"), "none.toml"),
    (("--predictions", "theirs.json", "-s", "file:mine.jsonl", "--url", "javascript:alert()"), "flags: url"),
    (("--predictions", "theirs.json", "-s", "file:mine.jsonl", "--supervision", "some"), "zero-shot"),
])  # fmt: skip
def test_mistakes_are_explained(bench, world, argv, message):
    code, out, err = bench("score", *argv)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


@pytest.mark.slow
def test_what_a_model_was_trained_on_stands_in_every_table(bench, world, monkeypatch):
    """Flags win over the file, and the file over bench.toml."""
    monkeypatch.setattr(provenance, "git_state", lambda *_: {"commit": "c" * 40, "dirty": False})
    (world / "bench.toml").write_text(
        '[pipelines.Theirs.card]\ntrained_on = "toml"\nlicence = "toml"\nsaw_test_images = "no"\n'
        '[pipelines.Theirs.on.file.card]\nsupervision = "mixed"\n'
    )
    (world / "card.toml").write_text('trained_on = "file"\nlicence = "MIT"\nparameters = 12_000_000\n')

    def row():
        assert bench("leaderboard")[0] == 0
        tables = json.loads(Path("results/LEADERBOARD.json").read_text())["tables"]
        (only,) = tables[0]["rows"]
        keys = ("training_data", "trained_on", "licence", "saw_test_images", "parameters", "provenance")
        return [only[key] for key in keys]

    assert imported(bench)[0] == 0
    assert row() == ["mixed", "toml", "toml", "no", None, "imported"]
    assert imported(bench, "--card", "card.toml")[0] == 0
    assert row() == ["mixed", "file", "MIT", "no", 12_000_000, "imported"]
    claims = ("--trained-on", "flag", "--supervision", "full", "--saw-test-images", "yes", "--url", "https://x.org/a")
    assert imported(bench, "--card", "card.toml", *claims, "--paper", "A paper")[0] == 0
    assert row() == ["full", "flag", "MIT", "yes", 12_000_000, "imported"]
    (line,) = [each for each in Path("results/LEADERBOARD.md").read_text().splitlines() if "| Theirs" in each][:1]
    assert "†" in line and "‡" in line and "§" not in line and "full" in line
    latex = bench("leaderboard", "export", "latex", "--out", "table.tex")
    assert latex[0] == 0 and "full" in Path("table.tex").read_text()
    assert bench("report", "--split", "file:mine.jsonl", "--out", "page.html")[0] == 0
    page = Path("page.html").read_text()
    assert "full" in page and "https://x.org/a" in page and "A paper" in page
    assert len(list(Path("results/runs/Theirs").glob("*/*"))) == 1  # one run, its card replaced


@pytest.mark.slow
def test_the_card_of_a_shipped_pipeline_says_nothing_of_imported_boxes(bench, world):
    code, out, _ = imported(bench, "--name", "mdetr", "--json")
    record = json.loads((Path(last_row(out)["run_dir"]) / "run.json").read_text())
    assert code == 0 and not {"trained_on", "supervision"} & record["card"].keys()
    (world / "bench.toml").write_text('[pipelines.mdetr.card]\ntrained_on = "my own images"\n')
    record = json.loads(
        (Path(last_row(imported(bench, "--name", "mdetr", "--json")[1])["run_dir"]) / "run.json").read_text()
    )
    assert record["card"]["trained_on"] == "my own images" and "supervision" not in record["card"]


@pytest.mark.slow
def test_coverage_of_boxes_with_scores_and_a_refusal_without(bench, world):
    """Twelve boxes, the first four right; the surer ones are right but for one."""
    boxes = {
        f"e{n}": {"box": [0, 0, 40, (40 + n) if n < 4 else 10], "score": 0.9 - 0.05 * n if n else 0.3}
        for n in range(12)
    }
    (world / "sure.json").write_text(json.dumps(boxes))
    words = ("score", "--predictions", "sure.json", "--split", "file:mine.jsonl", "--name", "Sure")
    row = last_row(bench(*words, "--coverage", "--json")[1])
    covered = {each["coverage"]: each for each in row["coverage"]["covered"]}
    assert covered[1.0]["accuracy"] == row["acc@0.5"] == pytest.approx(4 / 12)
    assert covered[1.0]["ci95"] == row["ci95"] and covered[0.5]["accuracy"] == pytest.approx(3 / 6)
    assert row["coverage"]["aurc"] < 8 / 12 and row["coverage"]["calibration"]["ece"] > 0
    code, out, err = bench("score", row["run_dir"], "--coverage")
    assert (code, err) == (0, "") and "by coverage" in out and "50.00" in out and "calibration" in out
    assert "by coverage" not in bench("score", row["run_dir"])[1]
    code, _, err = imported(bench, "--coverage")
    assert code == 2 and "no scores in its predictions, so --coverage cannot rank them" in err
