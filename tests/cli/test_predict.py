"""`bench predict`: the contract of its JSON, its image, and its mistakes."""

import json

import numpy as np
import pytest
from PIL import Image

from bench.boxes import iou_elementwise
from bench.datasets.shapes import ShapesImages, make_scene
from bench.grounding import PipelineCard, Prediction, ScoredBox

BOXES = {"box_xyxy", "box_xyxy_unclipped", "score", "query", "proposals", "mask"}
KEYS = {"pipeline", "image", "width", "height", "text", "note"} | BOXES


@pytest.fixture
def predict(bench):
    def run(*words):
        code, out, err = bench("predict", *words, "--json")
        assert code == 0, err
        return json.loads(out.splitlines()[-1])

    return run


@pytest.fixture
def attribute():
    """Return a scene, and an expression about it that words alone decide."""
    scenes = (make_scene(2026, "val", index) for index in range(20))
    return next((s, e) for s in scenes for e in s.expressions if e.kind == "attribute" and e.same_category == 1)


@pytest.mark.slow
def test_a_file_and_a_scene_of_a_split_give_the_same(predict, tmp_path, attribute):
    scene, expression = attribute
    Image.fromarray(ShapesImages(2026).load(scene)).save(tmp_path / "scene.png")
    words = ("--pipeline", "yolo-clip", "--text", expression.text)
    answer = predict(*words, "--on", "shapes", "--image", "scene.png", "--out", "drawn.png")
    assert set(answer) == KEYS and (answer["width"], answer["height"]) == (scene.width, scene.height)
    assert float(iou_elementwise(answer["box_xyxy"], expression.box)) > 0.5
    assert answer["box_xyxy"] in answer["proposals"] and 0 < answer["score"] <= 1
    drawn = np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB"))
    assert drawn.shape[1] == scene.width and drawn.shape[0] > scene.height
    assert (drawn == [230, 57, 70]).all(-1).sum() > 50
    by_name = predict(*words, "--scene", f"shapes-val/{scene.id}")
    assert answer["box_xyxy"] == by_name["box_xyxy"] and by_name["image"] == f"shapes-val/{scene.id}"
    assert "drawn shapes only" in answer["note"] and by_name["note"] == ""  # a file may be a photograph


def test_several_boxes_of_at_least_a_score(bench, predict, monkeypatch, tmp_path):
    wanted = []

    class Fixed:
        card = PipelineCard("fixed", "", supervision="none")

        def ground(self, batch):
            others = (ScoredBox((-5.0, 20.0, 30.0, 25.0), 0.4), ScoredBox((0.0, 0.0, 3.0, 3.0), 0.2))
            return [Prediction(q.id, (1.0, 2.0, 9.0, 9.0), 0.6, others=others) for s in batch for q in s.queries]

    def opened(*_, several=False):
        wanted.append(several)
        return Fixed()

    monkeypatch.setattr("bench.evaluation.opening.open_pipeline", opened)
    Image.new("RGB", (40, 30)).save(tmp_path / "plain.png")
    words = ("--pipeline", "fixed", "--image", "plain.png", "--text", "them")
    answer = predict(*words, "--several", 0.3, "--out", "drawn.png")
    assert set(answer) == {*KEYS, "several"} and (answer["box_xyxy"], answer["score"]) == ([1, 2, 9, 9], 0.6)
    assert [(each["box_xyxy"], each["score"]) for each in answer["several"]] == [
        ([1, 2, 9, 9], 0.6), ([0, 20, 30, 25], 0.4),
    ]  # fmt: skip
    drawn = np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB"))[:30]
    assert (drawn[25, 5:25] == [230, 57, 70]).all() and not (drawn == [230, 57, 70]).all(-1)[:, 35:].any()
    assert predict(*words, "--several", 0.7)["several"] == [] and "several" not in predict(*words)
    assert wanted == [True, True, False]
    assert "2 boxes for 'them'\n[1.0, 2.0, 9.0, 9.0], score 0.600" in bench("predict", *words, "--several", 0.3)[1]
    code, _, err = bench("predict", "--pipeline", "fixed", "--image", ".", "--out", "a.jsonl", "--several", 0.3)
    assert code == 2 and "--several is for one image" in err


@pytest.mark.parametrize(("box", "clipped", "unclipped"), [
    ((-5.1234567, 2, 500, 3000.5), [0, 2, 40, 30], [-5.123457, 2, 500, 3000.5]),
    (None, None, None),
    ((float("nan"), 0, 1, 1), None, None),
    ((0, 0, float("inf"), 1), None, None),
])  # fmt: skip
def test_boxes_are_clipped_and_no_box_is_null(bench, predict, monkeypatch, tmp_path, box, clipped, unclipped):
    class Fixed:
        card = PipelineCard("fixed", "", supervision="none")

        def ground(self, batch):
            return [Prediction("0", box, 0.25, query_index=7)]

    monkeypatch.setattr("bench.evaluation.opening.open_pipeline", lambda *a, **k: Fixed())
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    words = ("--pipeline", "x", "--text", "t", "--image", "a.png")
    answer = predict(*words, "--out", "o.png")
    assert (answer["box_xyxy"], answer["box_xyxy_unclipped"]) == (clipped, unclipped)
    assert (answer["proposals"], answer["score"], answer["query"]) == (None, 0.25, 7)
    text = bench("predict", *words)[1]
    assert text.startswith("no box for 't'" if clipped is None else "[0.0, 2.0, 40.0, 30.0] in 40 x 30, score 0.250")


@pytest.mark.parametrize(("words", "message"), [
    (("--scene", "shapes-val/val-999999"), "has no scene 'val-999999'"),
    (("--image", "broken.jpg"), "broken.jpg"),
    (("--image", "no.png"), "no.png: cannot be read"),
    (("--image", "good.png", "--out", "drawing.xyz"), "no image format"),
    (("--image", "good.png", "--tokenizer", "roberta-base"), "--tokenizer: centre-box takes none"),
    (("--image", "good.png", "--text", " "), "it is empty; is a variable not set?"),
    ((), "either --image FILE or --scene"),
])  # fmt: skip
def test_mistakes(bench, tmp_path, words, message):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not an image")
    Image.new("RGB", (40, 30)).save(tmp_path / "good.png")
    code, _, err = bench("predict", "--pipeline", "centre-box", "--text", "t", *words)
    assert code == 2 and message in err and "Traceback" not in err


def test_deterministic_reaches_the_building_of_the_pipeline(predict, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("bench.evaluation.opening.make_deterministic", lambda: calls.append(True))
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    words = ("--pipeline", "centre-box", "--text", "t", "--image", "a.png")
    predict(*words)
    assert not calls
    predict(*words, "--deterministic")
    assert calls == [True]
