"""A curriculum over another method's training: TransVG, whose text branch comes of the rows that it is trained on."""

import json
from dataclasses import replace

from clipvg.curriculum import driver
from pipelines.transvg.task import tasks
from pipelines.weights import read_safetensors

NETWORK = {
    "backbone": "small", "widths": [8, 16], "image_size": 32, "hidden": 16, "heads": 2, "feedforward": 32,
    "encoder_layers": 1, "layers": 1, "tokens": 12, "dropout": 0.0,
    "text_encoder": {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 16,
    },
}  # fmt: skip


def test_it_selects_rows_for_transvg(job, source, spread):
    this = job(
        name="small", detr="", bert="", network=NETWORK, preprocessing="clean", augment={"crop": "off"}, epochs=1,
        batch=8, reference_batch=8, workers=0,
    )  # fmt: skip
    this = replace(this, context=replace(this.context, name="transvg"))
    made = driver.single(this, [source("easy")], tasks, {})["network"]
    assert read_safetensors(made.path)[1]["format"] == "bench-transvg"
    manifest = json.loads((this.out / "small.curriculum" / "manifest.json").read_text())
    trained = [json.loads(path.read_text()) for path in (this.out / "nodes").glob("*/*.json")]
    assert 0 < manifest["last"]["rows"] < 13 and len(trained) > 3
