"""What makes pseudo-labels sees no annotation: expressions raise on any look at them, and nothing is raised."""

from dataclasses import replace

import pytest
from fake_world import MemoryImages, make_split
from PIL import Image

from bench import registry
from bench.datasets.load import load_split
from bench.errors import DataError, ImageError, UsageError
from bench.evaluation.opening import pipeline_context
from bench.grounding import Scene
from bench.labelling import LabelJob
from bench.labelling.unannotated import images_below, images_only, without_annotations, without_expressions
from bench.settings import load_settings


class Secret:
    """An expression that no one may look at."""

    def __getattribute__(self, name):
        raise AssertionError(f"an annotation was read: {name}")


def guarded(split):
    """The split with every expression a secret, in the very places of the true ones."""
    return replace(split, scenes=tuple(replace(s, expressions=(Secret(),) * 3) for s in split.scenes))


@pytest.fixture(scope="module")
def shapes():
    return load_split("shapes-train", load_settings(flags={"data.shapes.train": 8}))


def test_scenes_keep_their_names_and_sizes_alone(shapes):
    scenes = without_expressions(guarded(shapes).scenes)
    assert scenes == [Scene(s.id, s.file, s.width, s.height, ()) for s in shapes.scenes]


def test_images_can_be_loaded_and_nothing_else(shapes):
    class Nosy(MemoryImages):
        def load(self, scene):
            assert scene.expressions == () == scene.objects
            return super().load(scene)

    images = images_only(shapes.images)
    assert (images.load(shapes.scenes[1]) == shapes.images.load(shapes.scenes[1])).all()
    assert images.missing(shapes.scenes) == []
    assert [name for name in dir(images) if not name.startswith("_")] == ["load", "missing"] == list(vars(images))
    split = make_split(4, Nosy(bad={"2.png"}))
    images = images_only(split.images)
    assert images.load(split.scenes[0]).shape == (24, 32, 3)
    with pytest.raises(ImageError, match=r"2\.png: broken"):
        images.load(split.scenes[2])


def test_the_context_has_no_way_to_annotations():
    context = pipeline_context("template", "shapes", load_settings(flags={"run.device": "cpu", "data.shapes.train": 3}))
    assert context.train_scenes() and context.candidates is not None
    bare = without_annotations(context)
    assert bare.candidates is None and bare.device == context.device
    with pytest.raises(UsageError, match="images alone"):
        bare.train_scenes()


@pytest.mark.slow
@pytest.mark.parametrize("source", ("template", "relation", "caption"))
def test_sources_make_labels_without_a_look_at_annotations(shapes, source):
    """Detector, CLIP and all: the same labels whether the split has annotations, secrets, or none."""
    resolved = load_settings(flags={"run.device": "cpu", "run.offline": True})
    options = resolved.table("label", source, "shapes")
    context = without_annotations(replace(pipeline_context(source, "shapes", resolved), options=options))

    def labels(split):
        scenes, images = without_expressions(split.scenes), images_only(split.images)
        job = LabelJob(scenes, images, options, f"[label.{source}]", context)
        return [
            (label.scene.file, label.text, label.box) for label in registry.load(registry.LABEL_SOURCES, source)(job)
        ]

    made = labels(guarded(shapes))
    assert len(made) > len(shapes.scenes) and made == labels(shapes)


# --- people without annotations ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name in ("photos/b.png", "photos/a.JPG", "photos/deep/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_every_image_of_a_folder(folder, tmp_path):
    scenes, images = images_below(folder, folder / "labels.jsonl")
    assert [s.file for s in scenes] == ["a.JPG", "b.png", "deep/c.webp"]
    above, images = images_below(folder, tmp_path / "labels.jsonl")
    assert [s.file for s in above] == ["photos/a.JPG", "photos/b.png", "photos/deep/c.webp"]
    assert images.load(above[2]).shape == (6, 8, 3) and not images.missing(above)


@pytest.mark.parametrize(("place", "out", "error", "message"), [
    ("photos", "elsewhere/labels.jsonl", UsageError, "or above"),
    ("none", "labels.jsonl", DataError, "no such folder"),
    ("photos/b.png", "labels.jsonl", DataError, "not a folder"),
    ("empty", "labels.jsonl", DataError, "no image in it"),
])  # fmt: skip
def test_folders_that_cannot_be_used(folder, tmp_path, place, out, error, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        images_below(tmp_path / place, tmp_path / out)
