"""Splits by name: registered data sets, aliases, people's own files, and names that are not known."""

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from PIL import Image

from bench import registry
from bench.datasets import catalog
from bench.datasets.images import Images
from bench.datasets.load import find_split, load_split, split_names, splits_of
from bench.datasets.split import Part, Split
from bench.datasets.verify import survey, verify
from bench.errors import DataError, ImageError, UnknownName, UsageError
from bench.grounding import Expression, Scene
from bench.settings import DataSettings, Resolved, Settings


@dataclass(frozen=True)
class Foreign:
    """A data set of another package."""

    name: str = "foreign-set"
    title: str = "Foreign"
    parts: tuple[Part, ...] = (Part("val", 1),)
    terms: str = "free"
    where: str = "at theirs"
    aliases: tuple[str, ...] = ("theirs",)

    def ready(self, part, resolved):
        return True

    def load(self, part, resolved):
        scene = Scene("a", "a.png", 4, 3, (Expression("0", "it", (0.0, 0.0, 1.0, 1.0)),))
        return Split(f"{self.name}-{part}", self.title, (scene,), Images([resolved.folder]), self.terms)


foreign = Foreign()


@pytest.fixture
def with_foreign(monkeypatch):
    entry, load = EntryPoint("foreign-set", "foreign", registry.DATASETS), EntryPoint.load
    monkeypatch.setattr(EntryPoint, "load", lambda self: foreign if self is entry else load(self))
    entries = {**registry._entries(registry.DATASETS), "foreign-set": entry}
    monkeypatch.setattr(registry, "_entries", lambda group: entries)


@pytest.mark.parametrize(("dataset", "parts"), [
    ("refcoco", "train val testA testB"), ("refcoco+", "train val testA testB"), ("refcocog", "train val test"),
    ("refcocog-google", "train val"), ("referit", "train val test"), ("flickr30k", "train val test"),
    ("shapes", "train val test"),
])  # fmt: skip
def test_every_issued_split_name_is_known(dataset, parts):
    assert splits_of(dataset) == [f"{dataset}-{part}" for part in parts.split()]
    assert set(splits_of(dataset)) <= set(split_names())
    assert [find_split(name)[1].name for name in splits_of(dataset)] == parts.split()


def test_aliases():
    assert find_split("refcocog-umd-test") == find_split("refcocog-test")
    assert find_split("refcocog-val")[0] is catalog.refcocog
    assert find_split("refcocog-google-val")[0] is catalog.refcocog_google
    assert find_split("refclef-test")[0] is catalog.referit
    assert splits_of("refcocog-umd") == ["refcocog-train", "refcocog-val", "refcocog-test"]
    assert splits_of("refcoco-testA") == ["refcoco-testA"]


@pytest.mark.parametrize(("name", "message"), [
    ("refcoco-vall", "did you mean.*refcoco-val"), ("refcoco-testa", "did you mean.*refcoco-testA"),
    ("refcocogval", "did you mean.*refcocog-val"), ("refcocog-google-test", "did you mean.*refcocog-google-"),
    ("", r"file:PATH\.jsonl"), ("-", r"file:PATH\.jsonl"), ("nonsense", r"file:PATH\.jsonl"),
])  # fmt: skip
def test_unknown_names(name, message, resolved):
    with pytest.raises(UnknownName, match=f"{name}.*{message}"):
        load_split(name, resolved)


def test_not_prepared_names_the_command(resolved):
    with pytest.raises(DataError, match=r"refcocog-val is not prepared[\s\S]*bench data prepare refcocog "):
        load_split("refcocog-umd-val", resolved)


def test_shapes_need_nothing(resolved):
    split = load_split("shapes-val", resolved)
    assert (split.name, split.dataset) == ("shapes-val", "shapes")
    height, width, _ = split.images.load(split.scenes[0]).shape
    assert (width, height) == (split.scenes[0].width, split.scenes[0].height)


@pytest.mark.usefixtures("with_foreign")
def test_another_packages_data_set(resolved):
    assert load_split("foreign-set-val", resolved).name == "foreign-set-val"
    assert load_split("theirs-val", resolved).dataset == "foreign-set"
    assert "foreign-set-val" in split_names()
    standing = next(s for dataset, (s, *_) in survey(resolved) if dataset is foreign)
    assert (standing.ready, standing.runnable, standing.images_at) == (True, True, None)
    Image.new("RGB", (4, 3)).save(resolved.folder / "a.png")
    assert verify("foreign-set", resolved)[0].ok


def put_image(file, colour=(0, 0, 0)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(file)


@pytest.fixture
def own(tmp_path):
    """A JSONL of one row about cars/1.png, in a folder of its own."""
    row = {"image": "cars/1.png", "text": "red", "box_xyxy": [0, 0, 4, 4], "width": 8, "height": 6}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/my-street.jsonl").write_text(json.dumps(row) + "\n")
    return f"file:{tmp_path}/mine/my-street.jsonl"


def test_own_data(resolved, tmp_path, own):
    split = load_split(own, resolved)
    assert (split.name, split.dataset, split.partial) == ("file:my-street", "file", False)
    assert split.counts.expressions == 1
    put_image(tmp_path / "mine/deep/cars/1.png")  # the disk is never searched
    assert split.images.missing(split.scenes) == ["cars/1.png"]
    with pytest.raises(ImageError, match=r"cars/1\.png.*mine"):
        split.images.load(split.scenes[0])
    put_image(tmp_path / "mine/cars/1.png", (9, 8, 7))
    assert np.unique(load_split(own, resolved).images.load(split.scenes[0])).tolist() == [7, 8, 9]
    assert verify(own, resolved)[0].ok
    with pytest.raises(UsageError, match="has no parts"):
        find_split(own)


def test_own_data_with_images_elsewhere(tmp_path, own):
    put_image(tmp_path / "elsewhere/cars/1.png")
    split = load_split(own, Resolved(Settings(data=DataSettings(images={"file": "elsewhere"})), folder=tmp_path))
    assert split.images.missing(split.scenes) == []


def test_own_data_that_is_broken(resolved, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{")
    for name in ("bad.jsonl", "gone.jsonl"):
        with pytest.raises(DataError, match=name):
            load_split(f"file:{tmp_path}/{name}", resolved)


def test_survey(resolved):
    standings = {s.split: s for _, group in survey(resolved) for s in group}
    assert set(standings) == set(split_names()) and standings["shapes-val"].runnable
    val = standings["refcoco-val"]
    assert (val.expressions, val.images, val.ready, val.images_at, val.runnable) == (10_834, 1_500, False, (), False)
    path = resolved.home / "datasets/refcoco/val.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("nothing\n")
    val = next(s for _, group in survey(resolved) for s in group if s.split == "refcoco-val")
    assert not val.ready and "not a prepared index" in val.problem
