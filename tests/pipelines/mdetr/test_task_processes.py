"""Two processes on a CPU, as torchrun starts them: the same training of MDETR as one process that accumulates."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from training_world import outcome
from typer.testing import CliRunner

from bench.cli.main import app
from bench.datasets.shapes import ShapesImages, make_scene
from pipelines.mdetr import checkpoint
from pipelines.mdetr.config import ROBERTA_BASE, MdetrConfig
from pipelines.mdetr.model import Mdetr
from pipelines.mdetr.text import Tokenizer, small_tokenizer

LIMIT_S = 600  # on a machine full of other work; a few seconds are enough


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
    opened = checkpoint.Opened(network, Tokenizer.from_json(table), (64, 96), table)
    checkpoint.save(tmp_path / "start.safetensors", opened, {})
    recipe = {
        "start_from": str(tmp_path / "start.safetensors"), "epochs": 2, "batch": 2, "reference_batch": 4,
        "learning_rate": 1e-4, "ema": 0.8, "workers": 0, "log_every": 1, "augment": "false",
    }  # fmt: skip
    pairs = [word for key, value in recipe.items() for word in ("--set", f"{key}={value}")]
    split = ["--split", f"file:{tmp_path / 'train.jsonl'}", "--validate", f"file:{tmp_path / 'val.jsonl'}"]
    return lambda out: ["train", "--pipeline", "mdetr", *split, "--device", "cpu", "--json", "--out", str(out), *pairs]


def test_two_processes_are_one_that_accumulates(words, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    done = subprocess.run(
        [*launcher, "bench.cli.main", *words(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    alone = CliRunner().invoke(app, words(tmp_path / "one"), catch_exceptions=False)
    assert alone.exit_code == 0, alone.output
    mine, theirs = (outcome(tmp_path / name) for name in ("two", "one"))
    state, other = mine["last.pt"], theirs["last.pt"]
    assert state["identity"] == other["identity"] and state["step"] == other["step"] == 6  # the last of one expression
    # Adam hides a gradient of the wrong size from the weights; its moments do not.
    for number, moments in other["optimiser"]["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state["optimiser"]["state"][number][name], moments[name], rtol=1e-3, atol=1e-6)
    for kind in ("trained", "average"):
        for name, weight in other[kind].items():
            torch.testing.assert_close(state[kind][name], weight, rtol=0, atol=2e-5 if _keys_bias(name) else 1e-5)
    losses = [[line["loss"] for line in left["lines"] if "loss" in line] for left in (mine, theirs)]
    assert len(losses[0]) == 6 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    records = [json.loads((tmp_path / name / "mdetr.json").read_text()) for name in ("two", "one")]
    assert [record["processes"] for record in records] == [2, 1]
    assert records[0]["training"]["effective_batch"] == records[1]["training"]["effective_batch"] == 4


def _keys_bias(name):
    """A softmax does not depend on the keys' bias: its gradient is noise, which Adam makes as large as any other."""
    return name.endswith(("in_proj_bias", "key.bias"))
