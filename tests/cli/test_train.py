"""`bench train`: a short training of each part leaves weights that load, and the record that makes them again."""

import json

import pytest

from bench.datasets.shapes import SCENES
from pipelines.weights import read_safetensors

pytestmark = pytest.mark.slow


@pytest.fixture
def train(bench, few):
    def run(*words, pipeline="yolo-clip"):
        code, out, err = bench("train", "-p", pipeline, "-s", "shapes-train", "--config", few, *words, "--json")
        assert code == 0, err
        run.printed = err
        return json.loads(out.splitlines()[-1])["weights"]

    return run


@pytest.fixture
def few(tmp_path, monkeypatch):
    """A bench.toml under which training is a matter of seconds; shapes-val has two scenes."""
    monkeypatch.setitem(SCENES, "val", 2)
    path = tmp_path / "few.toml"
    path.write_text(
        "[data.shapes]\ntrain = 12\n[train.yolo-clip]\n"
        "detector = { epochs = 1, batch = 4, image_size = 96 }\n"
        "clip = { epochs = 1, batch = 4, workers = 0, warm_up = 1 }\n"
    )
    return path


@pytest.mark.slow
def test_the_clip(tmp_path, train):
    made = train("--part", "clip", "--out", str(tmp_path / "w"))
    path = tmp_path / "w" / "clip.safetensors"
    assert made == {"clip": str(path)}
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["recipe"]["batch"] == 4 and record["trained_on"]["images"] == 12
    assert record["recipe"]["start_from"] == "pipelines/weights/tiny-clip.safetensors"
    assert record["started_from"]["pipeline"] == "yolo-clip"
    # The end compares with the start, on runs that are kept.
    assert "tuned - as it stands" in train.printed and "expressions about 2 images" in train.printed
    assert len(list((tmp_path / "w" / "compared" / "runs" / "yolo-clip" / "shapes-val").iterdir())) == 2
    assert "accuracy" in record["score"] and read_safetensors(path)[1]["recipe"] == record["recipe"]


@pytest.mark.slow
def test_the_detector(tmp_path, train):
    pytest.importorskip("ultralytics")
    made = train("--part", "detector", "--out", str(tmp_path))
    record = json.loads((tmp_path / "yolo.json").read_text())
    assert made == {"detector": str(tmp_path / "yolo.safetensors")}
    assert record["recipe"]["image_size"] == 96 and 0 <= record["score"]["recall@0.5"] <= 1


@pytest.mark.slow
def test_the_shipped_clipvg_continues(tmp_path, train):
    """The lines of bench.toml for `shapes` are all it takes; the record names the weights it started from."""
    train("--out", str(tmp_path), pipeline="clipvg")
    record = json.loads((tmp_path / "clipvg.json").read_text())
    assert record["started_from"]["pipeline"] == "clipvg" and record["recipe"]["epochs"] == 2
    assert read_safetensors(tmp_path / "clipvg.safetensors")[1]["config"]["layers"] == 4


@pytest.mark.parametrize(("words", "message"), [
    (("--split", "shapes-train", "--part", "clip", "--set", "clip.epoch=1"), "epochs"),
    (("--split", "shapes-train", "--set", "clap.epochs=1"), "unknown key 'clap'"),
    (("--split", "shapes-test"), "--validate"),
])  # fmt: skip
def test_mistakes(few, bench, tmp_path, words, message):
    code, _, err = bench("train", "-p", "yolo-clip", "--config", few, *words)
    assert code == 2 and message in err and not list(tmp_path.glob("weights/*"))
