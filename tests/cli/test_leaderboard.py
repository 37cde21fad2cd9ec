"""`bench leaderboard` as typed."""

import json
import shutil

import pytest


@pytest.fixture
def stored(bench, tmp_path):
    """A results folder `out` with one run of one expression."""
    line = {"image": "p.jpg", "text": "cat", "box_xyxy": [0, 0, 9, 9], "id": "a", "width": 20, "height": 10}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "theirs.json").write_text('{"a": [0, 0, 9, 9]}')
    assert bench("score", "--predictions", "theirs.json", "--split", "file:mine.jsonl", "-o", "out")[0] == 0
    (run,) = (tmp_path / "out").glob("runs/*/*/*/run.json")
    run.write_text(run.read_text().replace('"dirty": true', '"dirty": false'))  # whatever this checkout is
    return run.parent


def test_write_check_and_json(bench, stored, tmp_path):
    code, out, err = bench("leaderboard", "-o", "out", "--check")
    assert (code, out) == (1, "") and "LEADERBOARD.md" in err
    code, out, err = bench("leaderboard", "-o", "out", "--json")
    assert code == 0
    (table,) = json.loads(out)["tables"]
    assert table["rows"][0]["acc@0.5"] == 1 and "runs: 1, tables: 1" in err
    code, out, err = bench("leaderboard", "-o", "out", "--check")
    assert code == 0 and "up to date" in out
    text = (tmp_path / "out" / "LEADERBOARD.md").read_text()
    assert "theirs †" in text
    (tmp_path / "out" / "LEADERBOARD.md").write_text(text + "by hand")
    assert bench("leaderboard", "-o", "out", "--check")[0] == 1


def test_a_run_is_handed_in(bench, stored, tmp_path):
    shutil.move(stored, tmp_path / "handed-in")
    shutil.rmtree(tmp_path / "out")
    code, out, err = bench("leaderboard", "-o", "out", "--submit", "handed-in")
    assert code == 2 and "--split file:PATH.jsonl" in err
    code, out, err = bench("leaderboard", "-o", "out", "--submit", "handed-in", "--split", "file:mine.jsonl", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["tables"][0]["rows"][0]["submitted"] and report["submitted"].startswith("out/runs/theirs/file-mine/")
    assert "theirs † § ◊" in (tmp_path / "out" / "LEADERBOARD.md").read_text()
    assert bench("leaderboard", "-o", "out", "--check")[0] == 0
    predictions = tmp_path / "handed-in" / "predictions.jsonl"
    predictions.write_text(predictions.read_text().replace("9.0", "2.0"))
    code, out, err = bench("leaderboard", "-o", "out", "--submit", "handed-in", "--split", "file:mine.jsonl")
    assert code == 1 and "metrics.hits: 1, but its predictions give 0" in err


def test_other_formats(bench, stored, tmp_path):
    code, out, _ = bench("leaderboard", "-o", "out", "--export", "latex", "--out", "table.tex")
    assert code == 0 and "table.tex written" in out
    assert r"\toprule" in (tmp_path / "table.tex").read_text()
    assert not (tmp_path / "out" / "LEADERBOARD.md").exists()
    assert bench("leaderboard", "-o", "out", "--export", "csv", "--out", "table.tex")[0] == 2
    assert bench("leaderboard", "-o", "out", "--export", "csv", "--out", "table.tex", "--force")[0] == 0
    code, out, _ = bench(
        "leaderboard", "-o", "out", "--export", "hub", "--hub-dataset", "me/mine", "--out", "hub", "--json"
    )
    assert json.loads(out) == {"written": ["hub/theirs/.eval_results/file-mine.yaml"]}


def test_what_was_published(bench):
    code, out, _ = bench("leaderboard", "--published", "refcocog-umd-test")
    assert code == 0 and out.startswith("refcocog-test: published")
    assert "MDETR repository, README" in out and "80.89" in out
    code, out, _ = bench("leaderboard", "--published", "refcoco-val", "--json")
    report = json.loads(out)
    assert report["split"] == "refcoco-val"
    assert {"value", "method", "source", "how", "protocol"} <= set(report["published"][0])
    code, out, _ = bench("leaderboard", "--published", "shapes-val")
    assert code == 0 and "nothing published" in out
    code, _, err = bench("leaderboard", "--published", "refcoco-vall")
    assert code == 2 and "did you mean 'refcoco-val'" in err


@pytest.mark.parametrize(("argv", "message"), [
    (("--check", "--submit", "x"), "--check and --submit exclude each other"),
    (("--export", "csv"), "--export csv needs --out PATH"),
    (("--out", "x"), "--out means nothing here"),
    (("--force",), "--force means nothing here"),
    (("--split", "refcoco-val"), "--split means nothing here"),
    (("--export", "csv", "--out", "x", "--hub-dataset", "a/b"), "--hub-dataset means nothing here"),
    (("--published", "refcoco-val", "--split", "x"), "--split means nothing here"),
])  # fmt: skip
def test_flags_that_do_not_go_together(bench, argv, message):
    code, out, err = bench("leaderboard", *argv)
    assert (code, out) == (2, "") and message in err
