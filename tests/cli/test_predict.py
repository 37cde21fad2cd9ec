"""`bench predict`: the contract of its JSON, its image, and its mistakes."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.boxes import iou_elementwise
from bench.cli.main import app
from bench.datasets.shapes import ShapesImages, make_scene
from bench.errors import ImageError, UsageError

BOXES = {"box_xyxy", "box_xyxy_unclipped", "score", "query", "proposals"}
KEYS = {"pipeline", "image", "width", "height", "text", "note"} | BOXES


def predict(*arguments):
    result = CliRunner().invoke(app, ["predict", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.fixture
def attribute():
    """A scene, and an expression about it that words alone decide."""
    for index in range(20):
        scene = make_scene(2026, "val", index)
        for expression in scene.expressions:
            if expression.kind == "attribute" and expression.same_category == 1:
                return scene, expression
    raise AssertionError("the generator changed")


def test_a_image_file(tmp_path, attribute):
    scene, expression = attribute
    Image.fromarray(ShapesImages(2026).load(scene)).save(tmp_path / "scene.png")
    out = tmp_path / "drawn.png"
    answer = predict(
        *("--pipeline", "yolo-clip", "--on", "shapes", "--image", str(tmp_path / "scene.png")),
        *("--text", expression.text, "--out", str(out)),
    )
    assert set(answer) == KEYS
    assert (answer["width"], answer["height"]) == (scene.width, scene.height)
    assert float(iou_elementwise(answer["box_xyxy"], expression.box)) > 0.5
    assert answer["box_xyxy"] in answer["proposals"] and 0 < answer["score"] <= 1
    drawn = np.asarray(Image.open(out).convert("RGB"))
    assert drawn.shape[1] == scene.width and drawn.shape[0] > scene.height
    assert (drawn == [230, 57, 70]).all(-1).sum() > 50


def test_a_scene_of_a_split_gives_the_same(tmp_path, attribute):
    scene, expression = attribute
    Image.fromarray(ShapesImages(2026).load(scene)).save(tmp_path / "scene.png")
    asked = ("--pipeline", "yolo-clip", "--text", expression.text)
    by_file = predict(*asked, "--on", "shapes", "--image", str(tmp_path / "scene.png"))
    by_name = predict(*asked, "--scene", f"shapes-val/{scene.id}")
    assert by_file["box_xyxy"] == by_name["box_xyxy"] and by_name["image"] == f"shapes-val/{scene.id}"


def test_the_unclipped_box_stands_beside_the_clipped_one(monkeypatch, tmp_path):
    from bench.grounding import Prediction

    class Beyond:
        card = None

        def ground(self, batch):
            return [Prediction("0", (-5.1234567, 2, 500, 3000.5), 0.25, query_index=7)]

    monkeypatch.setattr("bench.evaluation.opening.open_pipeline", lambda *a, **k: Beyond())
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    answer = predict("--pipeline", "x", "--text", "t", "--image", str(tmp_path / "a.png"))
    assert answer["box_xyxy"] == [0, 2, 40, 30]
    assert answer["box_xyxy_unclipped"] == [-5.123457, 2, 500, 3000.5]
    assert (answer["proposals"], answer["score"], answer["query"]) == (None, 0.25, 7)


@pytest.mark.parametrize("box", [None, (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)])
def test_no_box_is_null(monkeypatch, tmp_path, box):
    from bench.grounding import Prediction

    class Silent:
        card = None

        def ground(self, batch):
            return [Prediction("0", box)]

    monkeypatch.setattr("bench.evaluation.opening.open_pipeline", lambda *a, **k: Silent())
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    asked = ("--pipeline", "x", "--text", "t", "--image", str(tmp_path / "a.png"))
    answer = predict(*asked, "--out", str(tmp_path / "o.png"))
    assert answer["box_xyxy"] is None and answer["box_xyxy_unclipped"] is None
    assert "no box for 't'" in CliRunner().invoke(app, ["predict", *asked]).stdout


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("--scene", "shapes-val/val-999999"), UsageError, "has no scene 'val-999999'"),
        (("--image", "broken.jpg"), ImageError, "broken.jpg"),
        (("--image", "good.png", "--out", "drawing.xyz"), UsageError, "no image format"),
        (("--image", "good.png", "--tokenizer", "roberta-base"), UsageError, "--tokenizer: centre-box takes none"),
    ],
)
def test_mistakes(monkeypatch, tmp_path, arguments, error, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not an image")
    Image.new("RGB", (40, 30)).save(tmp_path / "good.png")
    with pytest.raises(error, match=said):
        CliRunner().invoke(
            app, ["predict", "--pipeline", "centre-box", "--text", "t", *arguments], catch_exceptions=False
        )


def test_deterministic_reaches_the_building_of_the_pipeline(monkeypatch, tmp_path):
    from bench.evaluation import opening

    asked = []
    monkeypatch.setattr(opening, "make_deterministic", lambda: asked.append(True))
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    words = ("--pipeline", "centre-box", "--text", "t", "--image", str(tmp_path / "a.png"))
    predict(*words)
    assert not asked
    predict(*words, "--deterministic")
    assert asked == [True]
