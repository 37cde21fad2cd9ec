"""Two processes on a CPU, as torchrun starts them: the same training as one process that accumulates."""

import json

import pytest
from PIL import Image
from training_world import IMAGES, check_alike, run_training

from bench.datasets.shapes import make_scene


@pytest.fixture(params=["transvg", "dynamic-mdetr"])
def words(tmp_path, request):
    """words(out): those of `bench train`, on a ResNet from nothing without dropout, 9 expressions."""
    for part, count in (("train", 3), ("val", 2)):
        lines = []
        for number in range(count):
            scene = make_scene(2026, part, number)
            Image.fromarray(IMAGES.load(scene)).save(tmp_path / scene.file)
            lines += [{"image": scene.file, "text": e.text, "box_xyxy": e.box} for e in scene.expressions[:3]]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    network = {"backbone": "resnet18", "image_size": 64, "hidden": 16, "heads": 2, "feedforward": 32, "layers": 1}
    network |= {"encoder_layers": 1, "dropout": 0.0, "text_encoder": text}
    if request.param == "dynamic-mdetr":
        network |= {"points": 4, "stages": 2}
    settings = [f"network = {{ {', '.join(_toml(k, v) for k, v in network.items())} }}", 'detr = ""', 'bert = ""']
    settings += ["epochs = 2", "batch = 2", "reference_batch = 4", "learning_rate = 5e-5", "ema = 0.8", "workers = 0"]
    (tmp_path / "small.toml").write_text("\n".join([f"[train.{request.param}]", *settings, "log_every = 1"]) + "\n")
    split = ["--split", f"file:{tmp_path / 'train.jsonl'}", "--validate", f"file:{tmp_path / 'val.jsonl'}"]
    config = ["--config", str(tmp_path / "small.toml")]
    return lambda out: ["--pipeline", request.param, *split, *config, "--out", str(out)]


def _toml(key, value):
    if isinstance(value, dict):
        return f"{key} = {{ {', '.join(_toml(k, v) for k, v in value.items())} }}"
    return f"{key} = {json.dumps(value)}"


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates(words, tmp_path):
    for name, processes in (("two", 2), ("one", 1)):
        done = run_training(processes, words(tmp_path / name))
        assert done.returncode == 0, done.stdout + done.stderr
    # A softmax does not depend on the keys' bias: its gradient is noise, which Adam makes as large as any other.
    noisy = ("in_proj_bias", "key.bias")
    check_alike(tmp_path / "two", tmp_path / "one", steps=6, rtol=1e-3, noisy=noisy)  # the last of one expression
