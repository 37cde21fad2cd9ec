"""`bench leaderboard` as typed."""

import json
import shutil

import pytest
from edited_records import committed, edited
from submissions import unpacked


@pytest.fixture
def stored(bench, tmp_path):
    """A results folder `out` with one run of one expression."""
    line = {"image": "p.jpg", "text": "cat", "box_xyxy": [0, 0, 9, 9], "id": "a", "width": 20, "height": 10}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "theirs.json").write_text('{"a": [0, 0, 9, 9]}')
    assert bench("score", "--predictions", "theirs.json", "--split", "file:mine.jsonl", "-o", "out")[0] == 0
    (run,) = (tmp_path / "out").glob("runs/*/*/*/run.json")
    return committed(run.parent)


def test_write_check_and_json(bench, stored, tmp_path):
    code, out, err = bench("leaderboard", "--results", "out", "--check")
    assert (code, out) == (1, "") and "LEADERBOARD.md" in err
    code, out, err = bench("leaderboard", "--results", "out", "--json")
    assert code == 0
    (table,) = json.loads(out)["tables"]
    assert table["rows"][0]["acc@0.5"] == 1 and "runs: 1, tables: 1" in err
    code, out, err = bench("leaderboard", "--results", "out", "--check")
    assert code == 0 and "up to date" in out
    text = (tmp_path / "out" / "LEADERBOARD.md").read_text()
    assert "theirs †" in text and "without hashes" not in out
    edited(stored, seal=False, sha256="")
    assert "without hashes, as older versions left them: 1;" in bench("leaderboard", "--results", "out")[1]
    (tmp_path / "out" / "LEADERBOARD.md").write_text(text + "by hand")
    assert bench("leaderboard", "--results", "out", "--check")[0] == 1


def test_a_run_is_handed_in(bench, stored, tmp_path):
    shutil.move(stored, tmp_path / "handed-in")
    shutil.rmtree(tmp_path / "out")
    code, out, err = bench("leaderboard", "submit", "handed-in", "--results", "out")
    assert code == 2 and "--split file:PATH.jsonl" in err
    code, out, err = bench(
        "leaderboard", "submit", "handed-in", "--results", "out", "--split", "file:mine.jsonl", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["tables"][0]["rows"][0]["submitted"] and report["submitted"].startswith("out/runs/theirs/file-mine-")
    assert "theirs † § ◊" in (tmp_path / "out" / "LEADERBOARD.md").read_text()
    assert bench("leaderboard", "--results", "out", "--check")[0] == 0
    predictions = unpacked(tmp_path / "handed-in") / "predictions.jsonl"
    predictions.write_text(predictions.read_text().replace("9.0", "2.0"))
    code, out, err = bench("leaderboard", "submit", "handed-in", "--results", "out", "--split", "file:mine.jsonl")
    assert code == 1 and "metrics.hits: 1, but its predictions give 0" in err


def test_other_formats(bench, stored, tmp_path):
    export = ("leaderboard", "export")
    where = ("--out", "table.tex", "--results", "out")
    code, out, _ = bench(*export, "latex", *where)
    assert code == 0 and "table.tex written" in out
    assert r"\toprule" in (tmp_path / "table.tex").read_text()
    assert not (tmp_path / "out" / "LEADERBOARD.md").exists()
    assert bench(*export, "csv", *where)[0] == 2
    assert bench(*export, "csv", *where, "--force")[0] == 0
    code, out, _ = bench(*export, "hub", "--hub-dataset", "me/mine", "--out", "hub", "--json", "--results", "out")
    assert json.loads(out) == {"written": ["hub/theirs/.eval_results/file-mine.yaml"]}


def test_what_was_published(bench):
    code, out, _ = bench("leaderboard", "published", "refcocog-umd-test")
    assert code == 0 and out.startswith("refcocog-test: published")
    assert "MDETR repository, README" in out and "80.89" in out
    code, out, _ = bench("leaderboard", "published", "refcoco-val", "--json")
    report = json.loads(out)
    assert report["split"] == "refcoco-val"
    assert {"value", "method", "source", "how", "protocol"} <= set(report["published"][0])
    code, out, _ = bench("leaderboard", "published", "shapes-val")
    assert code == 0 and "nothing published" in out
    code, _, err = bench("leaderboard", "published", "refcoco-vall")
    assert code == 2 and "did you mean 'refcoco-val'" in err


@pytest.mark.parametrize(("argv", "message"), [
    (("export", "csv", "--out", "x", "--hub-dataset", "a/b"), "--hub-dataset means nothing for csv"),
    (("export", "hub", "--out", "x", "--columns", "n"), "--columns means nothing for hub"),
    (("--check", "published", "refcoco-val"), "write options after the command: bench leaderboard published"),
    (("--results", "typo"), "typo: no such results folder"),
    (("export", "csv", "--out", "x", "--results", "typo"), "typo: no such results folder"),
    (("export", "csv"), "Missing option '--out'"),
])  # fmt: skip
def test_what_is_refused(bench, tmp_path, argv, message):
    code, out, err = bench("leaderboard", *argv)
    assert (code, out) == (2, "") and message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["leaderboard", "report"])
def test_a_file_is_no_folder_of_results(bench, tmp_path, command):
    (tmp_path / "out.html").write_text("a page")
    code, out, err = bench(command, "--results", "out.html")
    assert (code, out) == (2, "") and "out.html" in err and "is a file" in err


def test_the_options_that_were_are_commands_now(bench, stored, tmp_path):
    code, out, err = bench("leaderboard", "--published", "shapes-val")
    assert code == 0 and "nothing published" in out and "leaderboard --published is now leaderboard published" in err
    code, _, err = bench("leaderboard", "--results", "out", "--export=csv", "--out", "t.csv")
    assert code == 0, err
    assert (tmp_path / "t.csv").read_text().startswith("signature,")
    code, _, err = bench("leaderboard", "--check", "--submit", "x")
    assert code == 2 and "--check" in err
