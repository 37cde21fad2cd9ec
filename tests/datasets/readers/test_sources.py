"""Preparing from hub mirrors and from Flickr30k Entities, and what is said of repositories that will not do."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from tiny_refcoco import TINY, parquet, refer_files

from bench.datasets import catalog
from bench.datasets.catalog import Catalogued
from bench.datasets.prepare import prepare
from bench.datasets.readers import ReadOptions
from bench.datasets.split import Part
from bench.errors import DataError, UsageError
from bench.settings import Resolved, RunSettings, Settings


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolved:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return Resolved(Settings(run=RunSettings(offline=True)), folder=tmp_path)


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_hub_parquet_brings_its_images(whole: bool, resolved: Resolved, tmp_path: Path) -> None:
    folder = parquet(tmp_path / "hub")
    path = folder if whole else next(folder.iterdir())
    (done,) = prepare(TINY, str(path), [], resolved, ReadOptions(None if whole else "val", revision="ab" * 20))
    assert (done.header.format, done.header.revision, done.missing_images) == ("hub", "ab" * 20, 0)
    archive = tmp_path / "home/datasets/refcoco/val-images.zip"
    assert {i.compress_type for i in zipfile.ZipFile(archive).infolist()} == {zipfile.ZIP_STORED}
    split = TINY.load("val", resolved)
    assert split.images.load(split.scenes[1]).shape == (48, 64, 3)
    (refer,) = prepare(TINY, str(refer_files(tmp_path / "r")), [], resolved, ReadOptions("val"))
    assert refer.header.fingerprint == done.header.fingerprint


def test_hub_repositories(resolved: Resolved) -> None:
    with pytest.raises(DataError, match="8,811 objects"):
        prepare(catalog.refcoco, "lmms-lab/RefCOCO", [], resolved, ReadOptions("val"))
    with pytest.raises(DataError, match="refclef-benchmark does not hold refcoco"):
        prepare(catalog.refcoco, "jxu124/refclef-benchmark", [], resolved, ReadOptions("val"))
    with pytest.raises(UsageError, match="--revision"):
        prepare(catalog.referit, "jxu124/refclef-benchmark", [], resolved, ReadOptions("val"))
    with pytest.raises(DataError, match="data/refcoc: not there"):
        prepare(catalog.refcoco, "data/refcoc", [], resolved, ReadOptions("val"))
    with pytest.raises(DataError, match="without --offline"):
        prepare(catalog.refcoco, "jxu124/refcoco-benchmark", [], resolved, ReadOptions("val"))
    with pytest.raises(DataError, match="refcoco-train: not among the files; there: val, testA, testB"):
        prepare(catalog.refcoco, "jxu124/refcoco-benchmark", [], resolved, ReadOptions("train"))


def test_flickr30k_entities(resolved: Resolved, tmp_path: Path) -> None:
    parts, protocols = (Part("val", 1, None, 1), Part("test")), ("merged", "any-box")
    flickr = Catalogued("flickr30k", "Tiny Flickr30k", parts, "", "", "", stem="flickr", protocols=protocols)
    for name, text in (
        ("val.txt", "36979\n"),
        ("Sentences/36979.txt", "[/EN#1/people Two dogs] run .\n"),
        (
            "Annotations/36979.xml",
            "<annotation><size><width>64</width><height>48</height></size>"
            "<object><name>1</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>12</ymax></bndbox></object>"
            "<object><name>1</name><bndbox><xmin>21</xmin><ymin>2</ymin><xmax>31</xmax><ymax>12</ymax></bndbox></object>"
            "</annotation>",
        ),
    ):
        (tmp_path / "flickr" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "flickr" / name).write_text(text)
    (merged,) = prepare(flickr, str(tmp_path / "flickr"), [], resolved, ReadOptions())
    assert (merged.split, merged.header.protocol) == ("flickr30k-val", "merged")
    assert flickr.load("val", resolved).scenes[0].expressions[0].box == (1, 2, 31, 12)
    (any_box,) = prepare(flickr, str(tmp_path / "flickr"), [], resolved, ReadOptions(protocol="any-box"))
    assert any_box.header.protocol == "any-box"
    assert any_box.changed
    assert flickr.load("val", resolved).scenes[0].expressions[0].also == ((21, 2, 31, 12),)
