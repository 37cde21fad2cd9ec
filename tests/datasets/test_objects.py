"""Annotated objects travel with their scene: no wrapper loses them, and who works from images alone has none."""

import json

import pytest

from bench.datasets.load import load_split
from bench.datasets.readers.labels import load_labels
from bench.evaluation.answering import answers
from bench.grounding import PipelineCard, Prediction
from bench.labelling.unannotated import ImagesOnly, images_below, without_expressions
from bench.settings import RunSettings, load_settings
from pipelines.two_stage.proposers.objects import scene_objects


@pytest.fixture(scope="module")
def split():
    return load_split("shapes-val", load_settings()).limited(3)


def test_the_embedded_scenes_have_all_their_objects(split):
    scene = split.scenes[0]
    boxes = {each.box for each in scene.objects}
    assert {e.box for e in scene.expressions} < boxes  # some are never referred to
    assert all(each.description.endswith(f" {each.category}") for each in scene.objects)


def test_no_wrapper_loses_an_object(split, tmp_path):
    scene = split.scenes[0]
    expected = [(each.category, each.box) for each in scene.objects]
    row = {"image": scene.file, "text": "a thing", "box_xyxy": scene.expressions[0].box}
    (tmp_path / "l.jsonl").write_text(json.dumps(row) + "\n")
    labelled = load_labels("shapes-val", [tmp_path / "l.jsonl"], load_settings()).split
    for one in (scene, labelled.scenes[0]):
        assert scene_objects(one) == expected


def test_whoever_works_from_images_alone_has_none(split, tmp_path):
    seen = []

    class Watching:
        def load(self, scene):
            seen.append(scene)
            return split.images.load(scene)

        def missing(self, scenes):
            return []

    scenes, images = without_expressions(split.scenes), ImagesOnly(Watching())
    images.load(split.scenes[0])  # with its annotations: they go no further
    assert not any(scene.objects or scene.expressions for scene in (*scenes, *without_expressions(split.scenes), *seen))
    assert len(seen) == 1 and not hasattr(images, "objects")
    (tmp_path / "a.png").write_bytes(b"")
    assert not images_below(tmp_path, tmp_path / "o.jsonl")[0][0].objects


def test_a_pipeline_is_given_no_objects(split):
    given = []

    class Watching:
        card = PipelineCard("watching", "", supervision="none")

        def ground(self, batch):
            given.extend(batch)
            return [Prediction(query.id, None) for scene in batch for query in scene.queries]

    list(answers(Watching(), split.scenes, split.images, RunSettings(device="cpu")))
    assert len(given) == 3 and all(set(scene.__slots__) == {"id", "image", "queries"} for scene in given)
