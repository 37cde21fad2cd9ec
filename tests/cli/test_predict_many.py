"""`bench predict` of many: folders and JSONLs, continued after a kill, unreadable images, drawings, and mistakes."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from bench import evaluate, load_split, registry
from bench.datasets.shapes import ShapesImages, make_scene
from bench.grounding import PipelineCard, Prediction
from bench.predicting.many import drawn_name
from bench.settings import PROJECT

PAGE = (PROJECT / "docs" / "machine-output.md").read_text(encoding="utf-8").split("## `bench predict` of many")[1]


class Corner:
    """Answer with the upper left of every image, and keep the expressions; `fail` at the n-th scene."""

    card = PipelineCard(name="corner", summary="", sha256={"all": "0"}, supervision="none")

    def __init__(self):
        self.scenes = []
        self.fail = 0

    def ground(self, batch):
        for scene in batch:
            self.scenes.append((scene.id, [query.text for query in scene.queries]))
            if len(self.scenes) == self.fail:
                raise KeyboardInterrupt
        return [
            Prediction(query.id, (-3, 0, 5, 5), score=float("nan") if "nan" in query.text else 0.5, note="a note")
            for scene in batch
            for query in scene.queries
        ]


@pytest.fixture
def corner(monkeypatch):
    pipeline = Corner()
    monkeypatch.setattr(registry, "pipeline_factory", lambda name: lambda context: pipeline)
    return pipeline


@pytest.fixture
def here(tmp_path):
    (tmp_path / "images" / "far").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "far/a.png")):
        Image.new("RGB", (40 + number, 30)).save(tmp_path / "images" / name)
    return tmp_path


@pytest.fixture
def predict(bench):
    def run(*words, code=0):
        left, out, err = bench("predict", "-p", "centre-box", *words, "--json")
        assert left == code, err
        return json.loads(out.splitlines()[-1])

    return run


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def documented(column):
    table = PAGE.split(f"| {column} | meaning |")[1].split("\n\n")[0]
    return {name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}


def test_a_folder_and_one_text(here, predict, corner):
    summary = predict("--image", "images", "--text", "the cat", "--out", "a.jsonl")
    rows = lines(here / "a.jsonl")
    assert [row["id"] for row in rows] == ["a.png", "b.jpg", "far/a.png"] and set(rows[0]) == documented("key")
    assert [row["width"] for row in rows] == [40, 41, 42] and {row["text"] for row in rows} == {"the cat"}
    assert rows[0]["box_xyxy"] == [0, 0, 5, 5] and rows[0]["box_xyxy_unclipped"] == [-3, 0, 5, 5]
    assert set(summary) == documented("summary")
    assert (summary["images"], summary["new"], summary["kept"], summary["drawn"]) == (3, 3, 0, 0)
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []  # the lock is gone


def test_a_text_file_beside_each_image(here, predict, corner):
    (here / "images" / "a.txt").write_text("the cat\n\n  the dog \n")
    (here / "images" / "far" / "a.txt").write_text("a bird")
    predict("--image", "images", "--out", "a.jsonl")
    rows = [(row["id"], row["text"]) for row in lines(here / "a.jsonl")]
    assert rows == [("a.png:1", "the cat"), ("a.png:3", "the dog"), ("far/a.png:1", "a bird")]
    assert [texts for _, texts in corner.scenes] == [["the cat", "the dog"], ["a bird"]]


def test_a_jsonl_is_grounded_by_image_and_answered_in_order(here, predict, corner):
    write(
        here / "images" / "q.jsonl",
        {"image": "b.jpg", "text": "one", "id": "x"},
        {"image": "a.png", "text": "two nan", "id": 7},
        {"image": "b.jpg", "expression": "three", "box_xywh": [1, 1, 2, 2]},
    )
    predict("--input", "images/q.jsonl", "--out", "deep/down/a.jsonl")
    assert corner.scenes == [("b", ["one", "three"]), ("a", ["two nan"])]
    rows = lines(here / "deep" / "down" / "a.jsonl")
    assert [(row["id"], row["score"]) for row in rows] == [("x", 0.5), ("3", 0.5), ("7", None)]


def test_it_continues_after_a_kill(here, bench, predict, corner):
    words = ("--image", "images", "--text", "it", "--out", "a.jsonl", "--batch-size", "1")
    corner.fail = 3
    code, _, err = bench("predict", "-p", "centre-box", *words)
    assert code == 130 and "the same command continues (a.jsonl)" in err
    assert len(lines(here / "a.jsonl")) == 2
    with (here / "a.jsonl").open("a") as file:
        file.write('{"id": "far/a.png", "image": "fa')  # a line cut short
    corner.fail, corner.scenes = 0, []
    summary = predict(*words)
    assert [scene for scene, _ in corner.scenes] == ["far/a.png"] and (summary["new"], summary["kept"]) == (1, 2)
    assert [row["id"] for row in lines(here / "a.jsonl")] == ["a.png", "b.jpg", "far/a.png"]
    corner.scenes.clear()
    before = (here / "a.jsonl").read_bytes()
    assert predict(*words)["new"] == 0 and corner.scenes == [] and (here / "a.jsonl").read_bytes() == before
    assert predict(*words, "--fresh")["new"] == 3


def test_an_unreadable_image_is_a_row_and_is_tried_again(here, predict, corner):
    (here / "images" / "b.jpg").write_bytes(b"\xff\xd8 no")
    words = ("--image", "images", "--text", "it", "--out", "a.jsonl")
    assert predict(*words, code=3)["errors"] == 1
    bad = lines(here / "a.jsonl")[1]
    assert bad["id"] == "b.jpg" and "b.jpg" in bad["error"] and bad["box_xyxy"] is bad["width"] is None
    assert set(bad) == documented("key")
    Image.new("RGB", (9, 9)).save(here / "images" / "b.jpg")
    corner.scenes.clear()
    assert predict(*words)["errors"] == 0 and [scene for scene, _ in corner.scenes] == ["b"]
    assert [row["id"] for row in lines(here / "a.jsonl")] == ["a.png", "b.jpg", "far/a.png"]


def test_drawings(here, predict, corner):
    names = ["../../up", "a/b", "a:b", "x" * 300, "<script>"]
    write(here / "images" / "q.jsonl", *({"image": "a.png", "text": "t", "id": name} for name in names))
    words = ("--input", "images/q.jsonl", "--out", "a.jsonl", "--draw", "images/drawn")
    assert predict(*words)["drawn"] == 5
    drawn = sorted((here / "images" / "drawn").iterdir())
    assert [path.name for path in drawn] == sorted(map(drawn_name, names)) and len(set(drawn)) == 5
    assert not (here / "up").exists() and not list(here.parent.glob("up*"))
    pixels = np.asarray(Image.open(drawn[0]).convert("RGB")).astype(int)
    assert pixels.shape[1] == 40 and (abs(pixels - [230, 57, 70]).sum(-1) < 90).any()
    drawn[0].unlink()
    corner.scenes.clear()
    assert predict(*words)["drawn"] == 1 and drawn[0].exists() and corner.scenes == []  # drawn from the stored answer
    assert predict("--image", "images", "--text", "t", "--out", "b.jsonl", "--draw", "images/drawn")["images"] == 3


@pytest.mark.slow
def test_answers_can_be_scored(here, bench):
    rows = []
    for scene in (make_scene(2026, "val", index) for index in range(3)):
        Image.fromarray(ShapesImages(2026).load(scene)).save(here / scene.file)
        rows += [{"image": scene.file, "text": e.text, "box_xyxy": e.box, "id": e.id} for e in scene.expressions]
    write(here / "q.jsonl", *rows)
    words = ("-p", "yolo-clip", "--on", "shapes", "--device", "cpu", "-I", "q.jsonl", "--out", "a.jsonl")
    code, out, _ = bench("predict", *words)
    assert code == 0 and f"{len(rows)} answers about 3 images in a.jsonl: 0 without a box" in out
    words = ("--predictions", "a.jsonl", "--split", "file:q.jsonl", "--results", "out", "--json")
    (scored,) = json.loads(bench("score", *words)[1].splitlines()[-1])["rows"]
    assert scored["n"] == len(rows) and scored["missing"] == scored["extra"] == 0
    run = evaluate("yolo-clip", load_split("shapes-val", limit=3), device="cpu")
    assert scored["acc@0.5"] == run.accuracy > 0
    answers = {row["id"]: row["box_xyxy"] for row in lines(here / "a.jsonl")}
    assert answers == {row.id: pytest.approx(row.box, abs=1e-3) for row in run.rows}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "message"), [
    (("--image", "images", "--out", "a.jsonl"), "a.txt, one a line"),
    (("--image", "images", "--text", " ", "--out", "a.jsonl"), "it is empty; is a variable not set?"),
    (("--image", "images", "--text", "t"), "--out answers.jsonl"),
    (("--image", "images", "--text", "t", "--out", "a.png"), "a.png: the answers are JSON Lines"),
    (("--image", "empty", "--text", "t", "--out", "a.jsonl"), "no image"),
    (("--image", "images", "--scene", "shapes-val/x", "--out", "a.jsonl"), "--scene"),
    (("--input", "q.jsonl", "--text", "t", "--out", "a.jsonl"), "leave out --image and --text"),
    (("--input", "q.jsonl", "--out", "q.jsonl"), "the file of expressions"),
    (("--input", "gone.jsonl", "--out", "a.jsonl"), "gone.jsonl"),
    (("--input", "up.jsonl", "--out", "a.jsonl"), "leads out"),
    (("--input", "q.jsonl", "--out", "other.jsonl"), "other.jsonl, line 1: not a row of answers"),
    (("--input", "q.jsonl", "--out", "line.jsonl"), "line.jsonl, line 1: not a row of answers"),
    (("--image", "images/a.png", "--text", "t", "--fresh"), "are for many images"),
])  # fmt: skip
def test_mistakes_write_nothing(here, bench, corner, words, message):
    (here / "empty").mkdir()
    write(here / "q.jsonl", {"image": "images/a.png", "text": "t"})
    write(here / "up.jsonl", {"image": "../a.png", "text": "t"})
    write(here / "other.jsonl", {"mine": 1})
    (here / "line.jsonl").write_text('{"mine": 1}')
    before = {path: path.read_bytes() for path in here.rglob("*.jsonl")}
    code, _, err = bench("predict", "-p", "centre-box", *words)
    assert code == 2 and message in err
    assert {path: path.read_bytes() for path in here.rglob("*.jsonl")} == before and corner.scenes == []


@pytest.mark.slow
def test_answers_of_other_settings_or_expressions_are_kept_apart(here, bench, predict, corner):
    words = ("--image", "images", "--out", "a.jsonl")
    predict(*words, "--text", "t")
    before = (here / "a.jsonl").read_bytes()
    for change, message in (
        (("--text", "t", "--set", "share=0.2"), "answered by centre-box with the settings"),
        (("--text", "t", "--seed", "5"), "seed or precision differ"),
        (("--text", "u"), "answers 't' about a.png, which is not among the expressions"),
    ):
        code, _, err = bench("predict", "-p", "centre-box", *words, *change)
        assert code == 2 and message in err
    assert (here / "a.jsonl").read_bytes() == before
    assert predict(*words, "--text", "u", "--fresh")["new"] == 3
