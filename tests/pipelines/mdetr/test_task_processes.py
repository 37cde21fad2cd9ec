"""Two processes on a CPU, as torchrun starts them: the same training of MDETR as one process that accumulates."""

import json

import pytest
import torch
from PIL import Image
from training_world import check_alike, run_training

from bench.datasets.shapes import ShapesImages, make_scene
from pipelines.mdetr import checkpoint
from pipelines.mdetr.config import ROBERTA_BASE, MdetrConfig
from pipelines.mdetr.model import Mdetr
from pipelines.tokens import Tokenizer, small_tokenizer

SIZE = (150, 100)
TEXTS = ["the red star on the left", "a big blue circle", "dotted ring"]
SIZES = {
    "hidden": 32, "heads": 2, "feedforward": 32, "encoder_layers": 1, "decoder_layers": 2, "queries": 4, "tokens": 31,
    "contrastive": 8, "dropout": 0.0,
}  # fmt: skip
TEXT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40,
    "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


@pytest.fixture
def words(tmp_path):
    """words(out): those of `bench train`, on a small network without dropout and with frozen norms, 9 expressions."""
    images = ShapesImages(2026)
    for part, count in (("train", 3), ("val", 2)):
        lines = []
        for number in range(count):
            scene = make_scene(2026, part, number)
            # Images of one size: at the border of padding a ResNet gives other features, so who shares a pass matters.
            Image.fromarray(images.load(scene)).resize(SIZE).save(tmp_path / scene.file)
            scale = (SIZE[0] / scene.width, SIZE[1] / scene.height) * 2
            for e in scene.expressions[:3]:
                box = [edge * ratio for edge, ratio in zip(e.box, scale, strict=True)]
                lines.append({"image": scene.file, "text": e.text, "box_xyxy": box})
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    torch.manual_seed(0)
    network = Mdetr(MdetrConfig(backbone="resnet18", text_encoder=ROBERTA_BASE | TEXT, **SIZES))
    table = small_tokenizer(TEXTS, 40)
    opened = checkpoint.LoadedMdetr(network, Tokenizer.from_json(table), (64, 96), table)
    checkpoint.save(tmp_path / "start.safetensors", opened, {})
    recipe = {
        "start_from": str(tmp_path / "start.safetensors"), "epochs": 2, "batch": 2, "reference_batch": 4,
        "learning_rate": 1e-4, "ema": 0.8, "workers": 0, "log_every": 1, "augment": "false",
    }  # fmt: skip
    pairs = [word for key, value in recipe.items() for word in ("--set", f"{key}={value}")]
    split = ["--split", f"file:{tmp_path / 'train.jsonl'}", "--validate", f"file:{tmp_path / 'val.jsonl'}"]
    return lambda out: ["--pipeline", "mdetr", *split, "--out", str(out), *pairs]


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates(words, tmp_path):
    for name, processes in (("two", 2), ("one", 1)):
        done = run_training(processes, words(tmp_path / name))
        assert done.returncode == 0, done.stdout + done.stderr
    # A softmax does not depend on the keys' bias: its gradient is noise, which Adam makes as large as any other.
    noisy = ("in_proj_bias", "key.bias")
    check_alike(tmp_path / "two", tmp_path / "one", steps=6, rtol=1e-3, noisy=noisy)  # the last of one expression
