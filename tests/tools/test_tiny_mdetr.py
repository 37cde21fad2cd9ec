"""The small MDETR of shapes is made in three stages, and what each place is to predict is what is there."""

import json

import pytest
import torch

from bench.datasets import shapes
from bench.datasets.load import load_split
from bench.datasets.shapes import ShapesImages, make_scene
from bench.evaluation.opening import pipeline_context
from bench.evaluation.validation import on_split
from bench.settings import load_settings
from bench.training.task import TrainingJob
from pipelines.weights import read_safetensors
from tools.tiny_weights import mdetr

FEW = {"widths": [8, 16, 16, 16], "hidden": 16, "heads": 2, "feedforward": 32, "encoder_layers": 1, "queries": 2}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
STEPS = {"steps": 2, "shapes": 3, "short": 64, "long": 120}


@pytest.mark.slow
def test_the_stages_follow_each_other(tmp_path, monkeypatch):
    monkeypatch.setitem(shapes.SCENES, "val", 2)
    changes = {"network": FEW | {"text_encoder": TEXT}, "workers": 0, "log_every": 1, "batch": 4}
    changes["stages"] = dict.fromkeys(mdetr.STAGES, STEPS)
    path = mdetr.run(tmp_path, 0, "cpu", changes)
    assert path == tmp_path / "tiny-mdetr.safetensors"
    tensors, metadata = read_safetensors(path)
    assert metadata["format"] == "bench-mdetr" and (metadata["short"], metadata["long"]) == (64, 120)
    assert not [name for name in tensors if name.startswith("heads")]
    record = json.loads(path.with_suffix(".json").read_text())
    starts = [record, record["started_from"], record["started_from"]["started_from"]]
    assert [one["recipe"]["start_from"] == "" for one in starts] == [False, False, True]
    terms = [
        set(json.loads((folder / "tiny-mdetr.run/training.jsonl").read_text().splitlines()[0]))
        for folder in (tmp_path / "backbone", tmp_path / "first", tmp_path)
    ]
    assert {"naming"} <= terms[0] and "token" not in terms[0]
    assert {"token", "contrastive", "places"} <= terms[1] and "naming" not in terms[1]
    assert {"token", "places", "naming"} <= terms[2]


def test_cells_are_those_whose_centre_a_box_covers():
    boxes = torch.tensor([[0.5, 0.25, 0.5, 0.5], [0.1, 0.9, 0.01, 0.01]])
    assert mdetr.covered(boxes, (2, 4)).tolist() == [
        [[False, True, True, False], [False] * 4],
        [[False] * 4, [True, False, False, False]],
    ]


def test_means_leave_out_what_is_not_covered():
    values = torch.tensor([[[1.0, 5.0]], [[3.0, 4.0]]])
    mask = torch.tensor([[[True, False]], [[False, False]]])
    assert mdetr.mean_over(values, mask).tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.slow
def test_places_predict_the_object_in_front(tmp_path):
    images = ShapesImages(2026)
    scenes = [make_scene(2026, "train", 0)]
    context = pipeline_context("mdetr", load_split("shapes-val", load_settings()), load_settings(), device="cpu")
    job = TrainingJob(scenes, images, scenes, images, {}, tmp_path, context, on_split(scenes, images))
    recipe = {"start_from": "", "network": FEW | {"backbone": "small", "text_encoder": TEXT}, "naming": 1.0}
    task = mdetr.TinyTask(job, recipe | {"short": 64, "long": 120})
    batch = task.collate([task.dataset().sample(0, 0)])
    (x1, y1, x2, y2), scene = scenes[0].objects[-1].box, scenes[0]  # things behind come first
    centre = ((x1 + x2) / 2 / scene.width, (y1 + y2) / 2 / scene.height)
    height, width = batch.here.shape[1:]
    cell = (0, int(centre[1] * height), int(centre[0] * width))
    words = {word for word, on in zip(task.words, batch.words[cell], strict=False) if on}
    assert words == set(scene.objects[-1].description.split())
    assert batch.boxes[cell][:2].tolist() == pytest.approx(centre)
    assert not batch.boxes[0][batch.words[0, ..., -1] == 0].any()
