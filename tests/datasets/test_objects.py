"""Annotated objects travel with their scene, and no pipeline is given them."""

import json

import pytest

from bench.datasets.load import load_split
from bench.datasets.readers.labels import load_labels
from bench.evaluation.answering import answers
from bench.grounding import PipelineCard, Prediction
from bench.settings import RunSettings, load_settings
from pipelines.two_stage.proposers.objects import scene_objects


@pytest.fixture(scope="module")
def split():
    return load_split("shapes-val", load_settings()).limited(3)


def test_no_wrapper_loses_an_object(split, tmp_path):
    scene = split.scenes[0]
    assert {e.box for e in scene.expressions} < {each.box for each in scene.objects}  # some are never referred to
    assert all(each.description.endswith(f" {each.category}") for each in scene.objects)
    row = {"image": scene.file, "text": "a shape", "box_xyxy": scene.expressions[0].box}
    (tmp_path / "l.jsonl").write_text(json.dumps(row) + "\n")
    labelled = load_labels("shapes-val", [tmp_path / "l.jsonl"], load_settings())[0]
    for one in (scene, labelled.scenes[0]):
        assert scene_objects(one) == [(each.category, each.box) for each in scene.objects]


def test_a_pipeline_is_given_no_objects(split):
    given = []

    class Recording:
        card = PipelineCard("recording", "", supervision="none")

        def ground(self, batch):
            given.extend(batch)
            return [Prediction(query.id, None) for scene in batch for query in scene.queries]

    list(answers(Recording(), split.scenes, split.images, RunSettings(device="cpu")))
    assert len(given) == 3 and all(
        set(scene.__slots__) == {"id", "image", "queries", "prepared", "placed"} for scene in given
    )
    assert all(scene.prepared is None for scene in given)  # it is what a pipeline's own `prepare` returns
