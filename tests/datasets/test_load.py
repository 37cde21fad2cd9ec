"""Splits by name: registered data sets, aliases, people's own files, and what is said of names that are not known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

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


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolved:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return Resolved(Settings(), folder=tmp_path)


@dataclass(frozen=True)
class Foreign:
    """A data set of another package."""

    name: str = "foreign-set"
    title: str = "Foreign"
    parts: tuple[Part, ...] = (Part("val", 1),)
    terms: str = "free"
    where: str = "at theirs"
    aliases: tuple[str, ...] = ("theirs",)

    def ready(self, part: str, resolved: Resolved) -> bool:
        return True

    def load(self, part: str, resolved: Resolved) -> Split:
        scene = Scene("a", "a.png", 4, 3, (Expression("0", "it", (0.0, 0.0, 1.0, 1.0)),))
        return Split(f"{self.name}-{part}", self.title, (scene,), Images([resolved.folder]), self.terms)


foreign = Foreign()


@pytest.fixture
def with_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("foreign-set", "foreign", registry.DATASETS)
    monkeypatch.setattr(EntryPoint, "load", lambda self: foreign if self is entry else _loaded(self))
    entries = {**registry._entries(registry.DATASETS), "foreign-set": entry}
    monkeypatch.setattr(registry, "_entries", lambda group: entries)


def _loaded(entry: EntryPoint) -> object:
    from importlib import import_module

    return getattr(import_module(entry.module), entry.attr)


def test_every_issued_split_name_is_known() -> None:
    known = split_names()
    for dataset, parts in (
        ("refcoco", ("val", "testA", "testB", "train")),
        ("refcoco+", ("val", "testA", "testB", "train")),
        ("refcocog", ("val", "test", "train")),
        ("refcocog-google", ("val", "train")),
        ("referit", ("val", "test", "train")),
        ("flickr30k", ("val", "test", "train")),
        ("shapes", ("train", "val", "test")),
    ):
        for part in parts:
            assert f"{dataset}-{part}" in known
            assert find_split(f"{dataset}-{part}")[1].name == part


def test_refcocog_means_umd() -> None:
    assert find_split("refcocog-umd-test") == find_split("refcocog-test")
    assert find_split("refcocog-val")[0] is catalog.refcocog
    assert find_split("refcocog-google-val")[0] is catalog.refcocog_google
    assert find_split("refclef-test")[0] is catalog.referit
    assert splits_of("refcocog-umd") == ["refcocog-train", "refcocog-val", "refcocog-test"]
    assert splits_of("refcoco-testA") == ["refcoco-testA"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("refcoco-vall", "refcoco-val"),
        ("refcoco-testa", "refcoco-testA"),
        ("refcocogval", "refcocog-val"),
        ("shapes-vla", "shapes-val"),
        ("refcocog-google-test", "refcocog-google-"),
    ],
)
def test_unknown_names_get_the_nearest(name: str, near: str, resolved: Resolved) -> None:
    with pytest.raises(UnknownName, match=f"{name}.*did you mean.*{near}"):
        load_split(name, resolved)


@pytest.mark.parametrize("name", ["", "-", "nonsense", "val"])
def test_hopeless_names_are_told_what_there_is(name: str, resolved: Resolved) -> None:
    with pytest.raises(UnknownName, match=r"file:PATH\.jsonl"):
        load_split(name, resolved)


def test_not_prepared_names_the_command(resolved: Resolved) -> None:
    with pytest.raises(DataError, match=r"refcocog-val is not prepared[\s\S]*bench data prepare refcocog "):
        load_split("refcocog-umd-val", resolved)


def test_shapes_need_nothing(resolved: Resolved) -> None:
    split = load_split("shapes-val", resolved)
    assert (split.name, split.dataset) == ("shapes-val", "shapes")
    height, width, _ = split.images.load(split.scenes[0]).shape
    assert (width, height) == (split.scenes[0].width, split.scenes[0].height)


@pytest.mark.usefixtures("with_foreign")
def test_another_packages_data_set(resolved: Resolved) -> None:
    assert load_split("foreign-set-val", resolved).name == "foreign-set-val"
    assert load_split("theirs-val", resolved).dataset == "foreign-set"
    assert "foreign-set-val" in split_names()
    standing = next(s for dataset, (s, *_) in survey(resolved) if dataset is foreign)
    assert (standing.ready, standing.runnable, standing.images_at) == (True, True, None)
    Image.new("RGB", (4, 3)).save(resolved.folder / "a.png")
    (found,) = verify("foreign-set", resolved)
    assert found.ok


def own_data(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "my-street.jsonl"
    rows = [{"image": "cars/1.png", "text": "red", "box_xyxy": [0, 0, 4, 4], "width": 8, "height": 6}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_own_data(resolved: Resolved, tmp_path: Path) -> None:
    path = own_data(tmp_path / "mine")
    split = load_split(f"file:{path}", resolved)
    assert (split.name, split.dataset, split.partial) == ("file:my-street", "file", False)
    assert split.counts.expressions == 1
    with pytest.raises(ImageError, match=r"cars/1\.png.*mine"):
        split.images.load(split.scenes[0])
    (tmp_path / "mine/cars").mkdir()
    Image.new("RGB", (8, 6), (9, 8, 7)).save(tmp_path / "mine/cars/1.png")
    assert np.unique(split.images.load(split.scenes[0])).tolist() == [7, 8, 9]
    assert verify(f"file:{path}", resolved)[0].ok
    with pytest.raises(UsageError, match="has no parts"):
        find_split(f"file:{path}")


def test_own_data_with_images_elsewhere(resolved: Resolved, tmp_path: Path) -> None:
    path = own_data(tmp_path / "mine")
    (tmp_path / "elsewhere/cars").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "elsewhere/cars/1.png")
    there = Resolved(Settings(data=DataSettings(images={"file": "elsewhere"})), folder=tmp_path)
    assert load_split(f"file:{path}", there).images.missing(load_split(f"file:{path}", there).scenes) == []


def test_own_data_never_searches_the_disk(resolved: Resolved, tmp_path: Path) -> None:
    path = own_data(tmp_path / "mine")
    (tmp_path / "mine/deep/cars").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "mine/deep/cars/1.png")
    split = load_split(f"file:{path}", resolved)
    assert split.images.missing(split.scenes) == ["cars/1.png"]


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"image": "../up.png", "text": "a", "box_xyxy": [0, 0, 1, 1]}', '{"image": "a.png"}'],
    ids=["empty", "cut", "escape", "keys"],
)
def test_own_data_that_is_broken(text: str, resolved: Resolved, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.jsonl"):
        load_split(f"file:{path}", resolved)
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        load_split(f"file:{tmp_path}/gone.jsonl", resolved)


def test_survey_of_an_empty_home(resolved: Resolved) -> None:
    standings = {s.split: s for _, found in survey(resolved) for s in found}
    assert set(standings) == set(split_names())
    val = standings["refcoco-val"]
    assert (val.expressions, val.images, val.ready, val.images_at, val.runnable) == (10_834, 1_500, False, (), False)
    assert standings["shapes-val"].runnable


def test_survey_of_a_broken_index(resolved: Resolved) -> None:
    path = resolved.home / "datasets/refcoco/val.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("nothing\n")
    val = next(s for _, found in survey(resolved) for s in found if s.split == "refcoco-val")
    assert not val.ready
    assert "not a prepared index" in val.problem
