"""`bench report` as typed."""

import json

import pytest

pytestmark = pytest.mark.slow

LINES = [
    {"image": "p.jpg", "text": f"cat {n}", "box_xyxy": [n, 0, n + 9, 9], "id": f"e{n}", "width": 40, "height": 30}
    for n in range(3)
]


@pytest.fixture
def bench(bench, tmp_path):
    """`bench` in a folder with people's own data and two imported runs."""
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    for name, boxes in (
        ("one", {"e0": [0, 0, 9, 9], "e1": [1, 0, 10, 9], "e2": None}),
        ("two", {"e0": [0, 0, 9, 9], "e1": None}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(boxes))
        assert bench("score", "--predictions", f"{name}.json", "--split", "file:mine.jsonl", "--results", "out")[0] == 0
    return bench


def test_own_data_without_images(bench, tmp_path):
    code, out, err = bench("report", "--split", "file:mine.jsonl", "--results", "out")
    assert (code, err) == (0, "")
    assert "pipelines: 2, expressions: 3, images: 1" in out and "cannot be drawn: 1" in out
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<bdi>file:mine</bdi>" in text and "66.67" in text and "33.33" in text
    assert "p.jpg: no image" in text and "over so few images" in text and "bootstrap draws over images." not in text


def test_named_runs_and_json(bench, tmp_path):
    code, out, err = bench(
        "report", "one", "--split", "file:mine.jsonl", "--results", "out", "--out", "a/b.html", "--json"
    )
    assert code == 0 and "a/b.html" in err
    size = (tmp_path / "a" / "b.html").stat().st_size
    assert json.loads(out) == {
        "path": "a/b.html", "bytes": size, "runs": 1, "expressions": 3, "images": 1, "missing": 1, "thumbnail": 640,
    }  # fmt: skip
    (folder,) = (tmp_path / "out" / "runs" / "two").glob("*/*")
    assert bench("report", str(folder), "one", "--split", "file:mine.jsonl", "--results", "out")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments, message", [
    (["three"], "three"),
    (["--training", "nowhere"], "nowhere: has no curves.svg"),
    (["--reliability", "."], "has no reliability.svg"),
    (["--thumbnail", "3"], "--thumbnail 3"),
    (["--results", "empty"], "no finished run on file:mine"),
])  # fmt: skip
def test_mistakes_are_one_message(bench, tmp_path, arguments, message):
    code, out, err = bench("report", "--results", "out", "--split", "file:mine.jsonl", *arguments)
    assert (code, out) == (2, "") and err.startswith("bench: ") and message in err
    assert not (tmp_path / "report.html").exists()
