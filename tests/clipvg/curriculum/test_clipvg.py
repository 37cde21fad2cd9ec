"""A curriculum over CLIP-VG itself: its caches, and the options that open its weights, are those of every node."""

import json
from dataclasses import replace

import open_clip
import pytest
import torch

from clipvg.curriculum import driver
from clipvg.task import tasks
from pipelines import weights
from pipelines.two_stage.clip.encoder import empty_model

NETWORK = {"taps": [0], "image_size": 32, "hidden": 32, "heads": 2, "feedforward": 32, "layers": 1, "dropout": 0.0}


@pytest.mark.slow
def test_it_trains_clipvg_on_shared_features(job, source, spread, tmp_path, monkeypatch):
    tokenizer = open_clip.get_tokenizer("tiny-clip")  # reading the vocabulary takes longer than a training here
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: tokenizer)
    torch.manual_seed(0)
    clip = tmp_path / "clip.safetensors"
    weights.write_safetensors(clip, empty_model("tiny-clip").state_dict(), {})
    this = job(
        name="small", clip={"model": "tiny-clip", "pretrained": str(clip)}, network=NETWORK, preprocessing="clean",
        cache_features=True, train_positions=False, epochs=1, batch=4, reference_batch=8, workers=0,
    )  # fmt: skip
    this = replace(this, context=replace(this.context, name="clipvg"))
    made = driver.single(this, [source("easy")], tasks, {})["network"]
    assert weights.read_safetensors(made.path)[0].keys()
    manifest = json.loads((this.out / "small.curriculum" / "manifest.json").read_text())
    assert manifest["last"]["rows"] > 0 and made.notes["texts_cut"] == 0
    (caches,) = (value for key, value in this.shared.items() if key != "texts")
    assert len(caches[1].row) == 4, "each image was encoded once for all trainings"
