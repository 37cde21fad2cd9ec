"""`bench train`: a short training of each part leaves weights that load, and the record that makes them again."""

import json

import pytest
from typer.testing import CliRunner

from bench.cli.main import app
from bench.errors import SettingsError, UsageError
from pipelines.clip.encoder import ClipEncoder, ClipOptions
from pipelines.weights import read_safetensors


def train(*arguments):
    result = CliRunner().invoke(app, ["train", "--pipeline", "yolo-clip", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])["weights"]


@pytest.fixture
def few(tmp_path):
    """A bench.toml under which training is a matter of seconds."""
    path = tmp_path / "few.toml"
    path.write_text(
        "[data.shapes]\ntrain = 12\n[train.yolo-clip]\n"
        "detector = { scenes = 12, epochs = 1, batch_size = 4, width = 0.25, image_size = 96 }\n"
        "clip = { epochs = 1, scenes_in_batch = 4, log_every = 1 }\n"
    )
    return path


def test_the_clip(tmp_path, few, monkeypatch):
    made = train("--split", "shapes-train", "--part", "clip", "--config", str(few), "--out", str(tmp_path / "w"))
    path = tmp_path / "w" / "tiny-clip.safetensors"
    assert made == {"clip": str(path)}
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["recipe"]["scenes_in_batch"] == 4 and record["trained_on"]["pictures"] == 12
    assert set(record["score"]) == {"all", "attribute", "comparison", "location", "ordinal", "relation"}
    assert read_safetensors(path)[1]["accuracy"] == record["score"]


def test_the_clip_is_what_the_pipeline_loads(tmp_path, few, context):
    train("--split", "shapes-train", "--part", "clip", "--config", str(few), "--out", str(tmp_path))
    encoder = ClipEncoder(ClipOptions(model="tiny-clip", pretrained=str(tmp_path / "tiny-clip.safetensors")), context)
    assert encoder.encode_texts(["the red star"]).shape == (1, 96)


def test_the_detector(tmp_path, few):
    pytest.importorskip("ultralytics")
    made = train("--split", "shapes-train", "--part", "detector", "--config", str(few), "--out", str(tmp_path))
    record = json.loads((tmp_path / "tiny-yolo.json").read_text())
    assert made == {"detector": str(tmp_path / "tiny-yolo.safetensors")}
    assert record["recipe"]["width"] == 0.25 and 0 <= record["score"]["recall@0.5"] <= 1


def test_mistakes(few, tmp_path):
    with pytest.raises(SettingsError, match=r"epoch.*epochs"):
        train("--split", "shapes-train", "--part", "clip", "--config", str(few), "--set", "clip.epoch=1")
    with pytest.raises(SettingsError, match="unknown key 'clap'"):
        train("--split", "shapes-train", "--config", str(few), "--set", "clap.epochs=1")
    with pytest.raises(UsageError, match="--validate"):
        train("--split", "shapes-test", "--config", str(few))
    assert not (tmp_path / "weights").exists()


@pytest.fixture
def context(tmp_path):
    from contextlib import nullcontext
    from types import SimpleNamespace

    from bench.grounding import PipelineContext

    clock = SimpleNamespace(stage=lambda name: nullcontext())
    return PipelineContext("x", "shapes", {}, tmp_path, tmp_path, "cpu", "float32", 0, True, clock, list)
