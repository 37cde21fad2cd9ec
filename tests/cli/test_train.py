"""`bench train`: a short training of each part leaves weights that load, and the record that makes them again."""

import json

import pytest
from typer.testing import CliRunner

from bench.cli.main import app
from bench.datasets.shapes import SCENES
from bench.errors import SettingsError, UsageError
from pipelines.weights import read_safetensors


def train(*arguments, pipeline="yolo-clip"):
    result = CliRunner().invoke(app, ["train", "--pipeline", pipeline, *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])["weights"]


@pytest.fixture
def few(tmp_path, monkeypatch):
    """A bench.toml under which training is a matter of seconds; shapes-val has two scenes."""
    monkeypatch.setitem(SCENES, "val", 2)
    path = tmp_path / "few.toml"
    path.write_text(
        "[data.shapes]\ntrain = 12\n[train.yolo-clip]\n"
        "detector = { epochs = 1, batch = 4, image_size = 96 }\n"
        "clip = { epochs = 1, batch = 4, workers = 0 }\n"
    )
    return path


def test_the_clip(tmp_path, few):
    made = train("--split", "shapes-train", "--part", "clip", "--config", str(few), "--out", str(tmp_path / "w"))
    path = tmp_path / "w" / "clip.safetensors"
    assert made == {"clip": str(path)}
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["recipe"]["batch"] == 4 and record["trained_on"]["images"] == 12
    assert record["recipe"]["start_from"] == "pipelines/weights/tiny-clip.safetensors"
    assert record["started_from"]["pipeline"] == "yolo-clip"
    assert "region_accuracy" in record["score"] and read_safetensors(path)[1]["recipe"] == record["recipe"]


def test_the_detector(tmp_path, few):
    pytest.importorskip("ultralytics")
    made = train("--split", "shapes-train", "--part", "detector", "--config", str(few), "--out", str(tmp_path))
    record = json.loads((tmp_path / "yolo.json").read_text())
    assert made == {"detector": str(tmp_path / "yolo.safetensors")}
    assert record["recipe"]["image_size"] == 96 and 0 <= record["score"]["recall@0.5"] <= 1


def test_the_shipped_clipvg_goes_on(tmp_path, few):
    """What bench.toml says of `shapes` is all it takes; the record names the weights it started from."""
    train("--split", "shapes-train", "--config", str(few), "--out", str(tmp_path), pipeline="clipvg")
    record = json.loads((tmp_path / "clipvg.json").read_text())
    assert record["started_from"]["pipeline"] == "clipvg" and record["recipe"]["epochs"] == 2
    assert read_safetensors(tmp_path / "clipvg.safetensors")[1]["config"]["layers"] == 4


def test_mistakes(few, tmp_path):
    with pytest.raises(SettingsError, match=r"epoch.*epochs"):
        train("--split", "shapes-train", "--part", "clip", "--config", str(few), "--set", "clip.epoch=1")
    with pytest.raises(SettingsError, match="unknown key 'clap'"):
        train("--split", "shapes-train", "--config", str(few), "--set", "clap.epochs=1")
    with pytest.raises(UsageError, match="--validate"):
        train("--split", "shapes-test", "--config", str(few))
    assert not (tmp_path / "weights").exists()
