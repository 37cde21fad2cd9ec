"""`bench table` as typed."""

import json

import pytest
from edited_records import committed


@pytest.fixture
def stored(bench, tmp_path):
    """Two runs on one file of expressions."""
    lines = [{"image": "p.jpg", "text": "cat", "box_xyxy": [0, 0, 9, 9], "id": f"e{n}", "width": 20, "height": 10}
             for n in range(3)]  # fmt: skip
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, box in (("good", [0, 0, 9, 9]), ("poor", [0, 0, 1, 9])):
        (tmp_path / f"{name}.json").write_text(json.dumps({f"e{n}": box for n in range(3)}))
        code, _, err = bench("score", "--predictions", f"{name}.json", "--split", "file:mine.jsonl", "--results", "out")
        assert code == 0, err
    for run in (tmp_path / "out").glob("runs/*/*/*/run.json"):
        committed(run.parent)
    return ("table", "--results", "out", "--splits", "file:mine.jsonl")


def test_printed_and_written(bench, stored, tmp_path):
    code, out, err = bench(*stored, "--against", "poor")
    assert code == 0, err
    assert "good † §" in out and "100.00" in out and "† boxes predicted elsewhere" in out
    code, out, _ = bench(*stored, "--format", "latex", "-o", "deep/table.tex")
    assert code == 0 and "rows: 2, columns: 1" in out
    assert r"good$^{\dagger\S}$" in (tmp_path / "deep" / "table.tex").read_text()
    code, _, err = bench(*stored, "--format", "csv", "-o", "deep/table.tex")
    assert code == 2 and "--force replaces it" in err
    assert bench(*stored, "--format", "csv", "-o", "deep/table.tex", "--force")[0] == 0
    code, out, _ = bench(*stored, "--against", "poor", "--json")
    rows = json.loads(out)["rows"]
    assert [row["name"] for row in rows] == ["good", "poor"] and rows[0]["values"] == {"file:mine": 100.0}


def test_own_data_is_known_by_its_content(bench, stored, tmp_path):
    """Another file of the same name has a table of its own."""
    (tmp_path / "other").mkdir()
    line = {"image": "p.jpg", "text": "dog", "box_xyxy": [0, 0, 9, 9], "id": "e0", "width": 20, "height": 10}
    (tmp_path / "other" / "mine.jsonl").write_text(json.dumps(line) + "\n")
    code, _, err = bench("table", "--results", "out", "--splits", "file:other/mine.jsonl")
    assert code == 2 and "no complete run on file:mine" in err
    code, out, _ = bench(*stored)
    assert code == 0 and "good" in out


@pytest.mark.parametrize(("argv", "message"), [
    (("--against", "goood"), "did you mean 'good'"),
    (("--protocol", "iuo"), "did you mean 'iou'"),
    (("--results", "typo"), "no such results folder"),
    (("--splits", "refcocoo"), "did you mean"),
    (("--published", "nobody"), "no published method is called 'nobody'"),
    (("--out", "out"), "is a folder"),
])  # fmt: skip
def test_what_is_refused(bench, stored, argv, message):
    code, out, err = bench(*stored, *argv)
    assert (code, out) == (2, "") and message in err


@pytest.mark.slow
def test_two_published_models_on_real_expressions(bench, real, tmp_path, monkeypatch):
    """LBYL-Net's own boxes of RefCOCO val: 8,634 and 8,505 hits of 10,834; its README reports 79.72 and 78.50."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    index = real / "index" / "unc_val.pth"
    assert bench("data", "prepare", "refcoco-val", "--annotations", index)[0] == 0
    for words in ("bert", "lstm"):
        boxes = real / "predictions" / f"lbyl_{words}_unc_val.json"
        code, _, err = bench("score", "--predictions", boxes, "-s", "refcoco-val", "--name", words, "--results", "out")
        assert code == 0, err
    for run in (tmp_path / "out").glob("runs/*/*/*/run.json"):
        committed(run.parent)
    published = ("--published", "LBYL-Net, released weights")
    code, out, err = bench(
        *("table", "--results", "out", "-s", "refcoco-val", "--against", "lstm", "--json"), *published
    )
    assert code == 0, err
    rows = {(row["name"], row["backbone"]): row for row in json.loads(out)["rows"]}
    values = {key: round(row["values"]["refcoco-val"], 2) for key, row in rows.items()}
    assert values == {
        ("LBYL-Net, released weights", "Darknet-53, LSTM"): 78.5,
        ("LBYL-Net, released weights", "Darknet-53, BERT"): 79.72,
        ("bert", ""): 79.69,
        ("lstm", ""): 78.5,
    }
    assert rows["bert", ""]["signs"] == {"refcoco-val": "↑"} and rows["bert", ""]["p_holm"]["refcoco-val"] < 0.05
