"""MDETR's training on a few scenes: it learns, its file runs, and its parts say what they should."""

import json
import logging

import pytest
import torch

from bench.datasets.shapes import ShapesPictures, make_scene
from bench.errors import DataError, SettingsError, UnknownName
from bench.evaluation.validation import on_split
from bench.grounding import LoadedScene, Query
from bench.settings import load_settings
from bench.trainable import TrainingJob
from pipelines.mdetr.config import MdetrConfig
from pipelines.mdetr.model import Mdetr
from pipelines.mdetr.pipeline import mdetr
from pipelines.training.mdetr import train
from pipelines.training.mdetr_backbone import FirstLesson
from pipelines.training.mdetr_data import Scenes, normalised_boxes
from pipelines.training.mdetr_grounding import shares_of
from pipelines.weights import read_safetensors

PICTURES = ShapesPictures(2026)
SCENES = [make_scene(2026, "train", i) for i in range(12)]
SMALL = {"widths": [8, 16, 16, 16], "hidden": 16, "heads": 2, "feedforward": 32, "encoder_layers": 1, "queries": 2}


@pytest.fixture
def job(context, tmp_path):
    def make(part=None, **changes):
        recipe = load_settings().recipe("mdetr", "shapes")
        text = recipe["network"]["text_encoder"] | {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
        recipe |= {"network": recipe["network"] | SMALL | {"text_encoder": text}, "short": 64, "long": 120}
        recipe |= {"lesson_epochs": 1, "epochs": 2, "warm_up": 2, "log_every": 3} | changes
        score = on_split(SCENES[:3], PICTURES)
        return TrainingJob(SCENES, PICTURES, SCENES[:3], PICTURES, recipe, part, tmp_path, context("mdetr"), score)

    return make


def test_what_is_trained_is_a_file_that_the_pipeline_runs(job, context, caplog):
    caplog.set_level(logging.INFO, "bench.train")
    made = train(job())["mdetr"]
    assert made.path.name == "tiny-mdetr.safetensors" and 0 <= made.score["all"] <= 1
    assert "mdetr backbone: step" in caplog.text and "min left" in caplog.text
    pipeline = mdetr(context("mdetr", options={"weights": str(made.path)}))
    assert (pipeline.short, pipeline.long) == (64, 120)
    scene = SCENES[0]
    queries = tuple(Query(e.id, e.text) for e in scene.expressions)
    answers = pipeline.ground([LoadedScene(scene.id, PICTURES.load(scene), queries)])
    assert len(answers) == len(queries) and all(a.box is not None for a in answers)


def test_the_same_seed_gives_the_same_weights(job):
    first, second = (read_safetensors(train(job(places=0.0))["mdetr"].path) for _ in range(2))
    assert all(torch.equal(first[0][key], second[0][key]) for key in first[0])
    vocabularies = [json.loads(metadata["tokenizer"])["model"]["vocab"] for _, metadata in (first, second)]
    assert vocabularies[0] == vocabularies[1] and vocabularies[0]["<pad>"] == 1


def test_it_goes_on_from_weights_that_are_there(job, tmp_path):
    path = train(job())["mdetr"].path.rename(tmp_path / "first.safetensors")
    again = train(job(start_from=str(path), lesson_epochs=0, lesson=0.5, epochs=1, learning_rate=0.0))["mdetr"]
    before, after = (read_safetensors(p)[0] for p in (path, again.path))
    moved = [k for k in before if not torch.equal(before[k], after[k])]
    assert all("running" in k or "num_batches" in k for k in moved)  # nothing learnt at a rate of zero


def test_mistakes_are_named(job):
    with pytest.raises(UnknownName, match="part of mdetr"):
        train(job(part="detector"))
    with pytest.raises(SettingsError, match=r"train\.mdetr.*epoch"):
        train(job(epoks=3))
    with pytest.raises(DataError, match="no expression"):
        Scenes([], PICTURES, (64, 120), True)


def test_every_scene_comes_once_an_epoch_among_its_own_size():
    data = Scenes(SCENES, PICTURES, (64, 120), keep=True)
    seen = []
    for scenes, pixels in data.batches(2, 3, torch.Generator().manual_seed(0)):
        assert pixels.shape[0] == len(scenes) and len({(s.width, s.height) for s in scenes}) == 1
        seen += [s.id for s in scenes]
    assert sorted(seen) == sorted(2 * [s.id for s in SCENES])
    assert len(list(data.batches(1, 3, torch.Generator()))) == data.steps(3)


def test_the_first_lesson_tells_places_the_words_of_what_is_in_front():
    model = Mdetr(MdetrConfig(**(load_settings().recipe("mdetr", "shapes")["network"] | SMALL)))
    lesson = FirstLesson(model, SCENES, PICTURES)
    words, boxes = lesson.targets(SCENES[:1], (6, 8))
    scene = SCENES[0]
    last = PICTURES.objects(scene)[-1][1]  # things behind come first
    place = normalised_boxes([last], (scene.width, scene.height))[0]
    row, column = int(place[1] * 6), int(place[0] * 8)
    said = {w for w, on in zip(lesson.words, words[0, row, column], strict=False) if on}
    assert said == set(PICTURES.descriptions(scene)[-1].split())
    assert torch.allclose(boxes[0, row, column], place)
    assert not boxes[0][words[0, ..., -1] == 0].any()


def test_shares_of_tokens_sum_to_one():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert shares_of(mask, 4).tolist() == [[0.5, 0.5, 0, 0], [pytest.approx(1 / 3)] * 3 + [0]]
    assert shares_of(mask, 2).sum(-1).tolist() == [1, 1]
