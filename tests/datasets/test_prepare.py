"""Preparing: from the formats that users hold to the index, with counts asserted, and verifying what was prepared."""

from __future__ import annotations

import io
import json
import os
import pickle
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from bench.datasets import catalog, verify
from bench.datasets.catalog import Catalogued
from bench.datasets.hub import Mirror
from bench.datasets.load import load_split
from bench.datasets.prepare import Asked, prepare, prepare_dataset
from bench.datasets.prepared import index_path, read_header
from bench.datasets.split import Counts, Part
from bench.errors import DataError, PictureError, UnknownName, UnsafePickle, UsageError
from bench.settings import Resolved, RunSettings, Settings

SHARED = Path(os.environ.get("BENCH_SHARED") or Path(__file__).parents[3] / "shared")
MIRROR = Mirror("jxu124/refcoco-benchmark", "refcoco_unc", ("val", "testA", "testB"), "0" * 40)
PARTS = (Part("train", 1, 1, 1), Part("val", 4, 2, 2), Part("testA", 1, 1, 1))
TINY = Catalogued(
    "refcoco", "Tiny RefCOCO", PARTS, "none", "here", "there", refer=("refcoco", "unc"), stem="unc", hub=MIRROR
)
VAL = Asked("val")
BOXES = {11: [1.5, 2.25, 10.0, 20.0], 12: [30.0, 5.0, 8.5, 9.0], 13: [0.0, 0.0, 4.0, 4.0], 14: [2.0, 2.0, 5.0, 5.0]}
FILES = {
    1: "COCO_train2014_000000000001.jpg",
    2: "COCO_train2014_000000000002.jpg",
    3: "COCO_train2014_000000000003.jpg",
}
# (ref id, annotation, picture, part, sentences)
REFS = [
    (1, 11, 1, "val", ["left dog", "the dog on the left"]),
    (2, 12, 2, "val", ["café 🐕", "right one"]),
    (3, 13, 3, "testA", ["man"]),
    (4, 14, 3, "train", ["hat"]),
]


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolved:
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    return Resolved(Settings(run=RunSettings(offline=True)), folder=tmp_path)


def jpeg(size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def refer_files(
    folder: Path, name: str = "refs(unc).p", refs: Sequence[tuple[int, int, int, str, list[str]]] = REFS
) -> Path:
    """What lichengunc/refer unpacks to: folder/refcoco/refs(unc).p and instances.json."""
    place = folder / "refcoco"
    place.mkdir(parents=True)
    held = []
    for ref_id, ann_id, image_id, split, texts in refs:
        sentences = [{"sent_id": 100 * ref_id + n, "sent": t, "raw": t.upper()} for n, t in enumerate(texts)]
        held.append({"ref_id": ref_id, "ann_id": ann_id, "image_id": image_id, "split": split, "sentences": sentences})
    (place / name).write_bytes(pickle.dumps(held, protocol=2))
    annotations = [
        {"id": ann, "image_id": image, "category_id": 18, "bbox": BOXES[ann], "iscrowd": 0}
        for _, ann, image, *_ in refs
    ]
    images = [{"id": i, "file_name": f, "width": 64, "height": 48} for i, f in FILES.items()]
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 18, "name": "dog"}]}
    (place / "instances.json").write_text(json.dumps(instances))
    return folder


def lists(folder: Path, refs: Sequence[tuple[int, int, int, str, list[str]]] = REFS) -> Path:
    """What TransVG/CLIP-VG unpack to: folder/unc/unc_<part>.pth."""
    place = folder / "unc"
    place.mkdir(parents=True)
    for part in ("val", "testA", "train"):
        rows = [
            (FILES[image], f"{ann}.pth", BOXES[ann], text, [("r1", ["none"])])
            for _, ann, image, split, texts in refs
            for text in texts
            if split == part
        ]
        with zipfile.ZipFile(place / f"unc_{part}.pth", "w") as archive:
            archive.writestr(f"unc_{part}/data.pkl", pickle.dumps(rows, protocol=2))
    return folder


def train2017(path: Path) -> Path:
    """A zip with the pictures under their train2017 names."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in FILES:
            archive.writestr(f"train2017/{number:012}.jpg", jpeg())
    return path


def test_refer_files_every_part(resolved: Resolved, tmp_path: Path) -> None:
    done = prepare_dataset(TINY, str(refer_files(tmp_path)), [train2017(tmp_path / "p.zip")], resolved, Asked())
    assert [p.split for p in done] == ["refcoco-train", "refcoco-val", "refcoco-testA"]
    val = done[1]
    assert (val.header.counts, val.header.format, val.header.partial) == (Counts(4, 2, 2), "refer", False)
    assert [Path(s.path).name for s in val.header.sources] == ["refs(unc).p", "instances.json"]
    assert all(len(s.sha256) == 64 and s.bytes for s in val.header.sources)
    assert [p.missing_pictures for p in done] == [0, 0, 0]
    split = TINY.load("val", resolved)
    assert split.counts == Counts(4, 2, 2)
    first = split.scenes[0]
    assert (first.file, first.width, first.height) == (FILES[1], 64, 48)
    assert first.expressions[0].box == (1.5, 2.25, 11.5, 22.25)
    assert first.expressions[0].category == "dog"
    assert split.pictures.load(first).shape == (48, 64, 3)


@pytest.mark.parametrize("place", ["", "refcoco", "refcoco/refs(unc).p"])
def test_refer_files_wherever_the_user_points(place: str, resolved: Resolved, tmp_path: Path) -> None:
    refer_files(tmp_path)
    assert len(prepare_dataset(TINY, str(tmp_path / place), [], resolved, Asked())) == 3


@pytest.mark.parametrize("place", ["", "unc"])
def test_index_lists_every_part(place: str, resolved: Resolved, tmp_path: Path) -> None:
    done = prepare_dataset(TINY, str(lists(tmp_path) / place), [], resolved, Asked())
    assert [p.split for p in done] == ["refcoco-train", "refcoco-val", "refcoco-testA"]
    assert done[1].header.format == "index"
    assert done[1].missing_pictures is None


def test_both_formats_give_one_fingerprint_and_nothing_changes(resolved: Resolved, tmp_path: Path) -> None:
    (first,) = prepare_dataset(TINY, str(refer_files(tmp_path / "a")), [], resolved, VAL)
    (second,) = prepare_dataset(TINY, str(lists(tmp_path / "b") / "unc/unc_val.pth"), [], resolved, VAL)
    assert first.header.fingerprint == second.header.fingerprint
    assert second.changed == ()


def test_what_changed_is_said(resolved: Resolved, tmp_path: Path) -> None:
    prepare_dataset(TINY, str(refer_files(tmp_path / "a")), [], resolved, VAL)
    other = [(1, 11, 1, "val", ["left dog", "the cat"]), *REFS[1:]]
    (again,) = prepare_dataset(TINY, str(lists(tmp_path / "b", other)), [], resolved, VAL)
    said = " ".join(again.changed)
    assert "the dog on the left" in said
    assert "the cat" in said


def test_a_single_file_says_its_part_or_is_told(resolved: Resolved, tmp_path: Path) -> None:
    lists(tmp_path)
    (done,) = prepare_dataset(TINY, str(tmp_path / "unc/unc_testA.pth"), [], resolved, Asked())
    assert done.split == "refcoco-testA"
    odd = (tmp_path / "unc/unc_val.pth").rename(tmp_path / "mine.pth")
    with pytest.raises(DataError, match=r"mine\.pth.*refcoco-train or refcoco-val"):
        prepare_dataset(TINY, str(odd), [], resolved, Asked())
    assert prepare_dataset(TINY, str(odd), [], resolved, VAL)[0].split == "refcoco-val"


def test_jsonl_of_our_own(resolved: Resolved, tmp_path: Path) -> None:
    path = tmp_path / "refcoco-testA.jsonl"
    path.write_text(json.dumps({"image": FILES[1], "text": "x", "box_xywh": [1, 2, 3, 4], "ref_id": "7"}) + "\n")
    (done,) = prepare_dataset(TINY, str(path), [], resolved, Asked())
    assert (done.split, done.header.format) == ("refcoco-testA", "jsonl")


def test_wrong_counts_write_nothing_and_say_what_the_files_look_like(resolved: Resolved, tmp_path: Path) -> None:
    lists(tmp_path, [*REFS, (5, 11, 1, "val", ["one more"])])
    with pytest.raises(DataError) as caught:
        prepare_dataset(TINY, str(tmp_path), [], resolved, Asked())
    for said in ("refcoco-val", "expressions: 4 expected, 5 found", "unc_val.pth", "--subset"):
        assert said in str(caught.value)
    assert not (tmp_path / "home").exists()


def test_a_mix_up_of_parts_is_recognised(resolved: Resolved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.datasets.prepare.LOOKALIKES", (("refcoco-testA", PARTS[2]), ("other", Part("x", 7))))
    file = str(lists(tmp_path) / "unc/unc_testA.pth")
    with pytest.raises(DataError, match="these are the counts of refcoco-testA\n"):
        prepare_dataset(TINY, file, [], resolved, VAL)


def test_a_deliberate_subset_is_stored_as_partial(resolved: Resolved, tmp_path: Path) -> None:
    lists(tmp_path, REFS[1:])
    (done,) = prepare_dataset(TINY, str(tmp_path), [], resolved, Asked("val", subset=True))
    assert done.header.partial
    assert TINY.load("val", resolved).partial
    (whole,) = prepare_dataset(TINY, str(lists(tmp_path / "w")), [], resolved, Asked("val", subset=True))
    assert not whole.header.partial
    assert not TINY.load("val", resolved).partial


def test_a_malicious_index_list_is_not_executed(resolved: Resolved, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/executed",)

    lists(tmp_path)
    (tmp_path / "unc/unc_val.pth").write_bytes(pickle.dumps([("a.jpg", Bomb())]))
    with pytest.raises(UnsafePickle):
        prepare_dataset(TINY, str(tmp_path), [], resolved, Asked())
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "home").exists()


def test_paths_that_hold_nothing(resolved: Resolved, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: not there; refcoco is read from .*refs\(unc\)\.p"):
        prepare_dataset(TINY, str(tmp_path / "gone"), [], resolved, Asked())
    (tmp_path / "referit_val.pth").touch()
    with pytest.raises(DataError, match=r"nothing of refcoco in it.*it holds lists of referit"):
        prepare_dataset(TINY, str(tmp_path), [], resolved, Asked())
    (tmp_path / "refcoco.zip").touch()
    with pytest.raises(DataError, match="unpack it first"):
        prepare_dataset(TINY, str(tmp_path / "refcoco.zip"), [], resolved, Asked())
    with pytest.raises(UsageError, match="give --annotations, --images or both"):
        prepare_dataset(TINY, None, [], resolved, Asked())


def test_the_other_split_by_is_refused(resolved: Resolved, tmp_path: Path) -> None:
    refer_files(tmp_path, name="refs(google).p")
    with pytest.raises(DataError, match=r"refs\(unc\)\.p is not there.*refs\(google\)\.p"):
        prepare_dataset(TINY, str(tmp_path), [], resolved, Asked())


def test_pictures_can_come_later(resolved: Resolved, tmp_path: Path) -> None:
    prepare_dataset(TINY, str(lists(tmp_path)), [], resolved, Asked())
    split = TINY.load("val", resolved)
    with pytest.raises(PictureError, match="bench data prepare refcoco --images PATH"):
        split.pictures.load(split.scenes[0])
    done = prepare_dataset(TINY, None, [train2017(tmp_path / "train2017.zip")], resolved, Asked())
    assert [(p.split, p.missing_pictures) for p in done] == [(f"refcoco-{n.name}", 0) for n in PARTS]
    assert TINY.load("val", resolved).pictures.load(split.scenes[0]).shape == (48, 64, 3)


def test_images_that_are_not_there_or_no_zip(resolved: Resolved, tmp_path: Path) -> None:
    lists(tmp_path)
    with pytest.raises(DataError, match="--images is a folder or a zip"):
        prepare_dataset(TINY, str(tmp_path), [tmp_path / "gone"], resolved, Asked())
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(PictureError, match=r"broken\.zip: not a zip"):
        prepare_dataset(TINY, str(tmp_path), [tmp_path / "broken.zip"], resolved, Asked())
    assert not (tmp_path / "home").exists()


def parquet(folder: Path) -> Path:
    """Two rows as jxu124/refcoco-benchmark has them: a picture, its record and its refs."""
    polars = pytest.importorskip("polars")
    rows = []
    for ref_id, ann_id, image_id, split, texts in REFS[:2]:
        ref = {"ref_id": ref_id, "ann_id": ann_id, "image_id": image_id, "split": split}
        ref["sentences"] = [{"sent_id": 100 * ref_id + n, "sent": t, "raw": t} for n, t in enumerate(texts)]
        info = {"file_name": FILES[image_id], "width": 64, "height": 48, "id": image_id}
        annotation = {"id": ann_id, "bbox": BOXES[ann_id]}
        image = {"bytes": jpeg(), "path": FILES[image_id]}
        rows.append({"image": image, "image_info": info, "ref_list": [{"ann_info": annotation, "ref_info": ref}]})
    folder.mkdir()
    polars.DataFrame(rows).write_parquet(folder / "refcoco_unc_val-00000-of-00001-0123456789abcdef.parquet")
    return folder


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_hub_parquet_brings_its_pictures(whole: bool, resolved: Resolved, tmp_path: Path) -> None:
    folder = parquet(tmp_path / "hub")
    path = folder if whole else next(folder.iterdir())
    (done,) = prepare_dataset(TINY, str(path), [], resolved, Asked(None if whole else "val", revision="ab" * 20))
    assert (done.header.format, done.header.revision, done.missing_pictures) == ("hub", "ab" * 20, 0)
    archive = tmp_path / "home/datasets/refcoco/val-pictures.zip"
    assert {i.compress_type for i in zipfile.ZipFile(archive).infolist()} == {zipfile.ZIP_STORED}
    split = TINY.load("val", resolved)
    assert split.pictures.load(split.scenes[1]).shape == (48, 64, 3)
    (refer,) = prepare_dataset(TINY, str(refer_files(tmp_path / "r")), [], resolved, VAL)
    assert refer.header.fingerprint == done.header.fingerprint


def test_hub_repositories(resolved: Resolved) -> None:
    with pytest.raises(DataError, match="8,811 objects"):
        prepare_dataset(catalog.refcoco, "lmms-lab/RefCOCO", [], resolved, Asked("val"))
    with pytest.raises(DataError, match="refclef-benchmark does not hold refcoco"):
        prepare_dataset(catalog.refcoco, "jxu124/refclef-benchmark", [], resolved, Asked("val"))
    with pytest.raises(UsageError, match="--revision"):
        prepare_dataset(catalog.referit, "jxu124/refclef-benchmark", [], resolved, Asked("val"))
    with pytest.raises(DataError, match="data/refcoc: not there"):
        prepare_dataset(catalog.refcoco, "data/refcoc", [], resolved, Asked("val"))
    with pytest.raises(DataError, match="without --offline"):
        prepare_dataset(catalog.refcoco, "jxu124/refcoco-benchmark", [], resolved, Asked("val"))
    with pytest.raises(DataError, match="refcoco-train: not among the files; there: val, testA, testB"):
        prepare_dataset(catalog.refcoco, "jxu124/refcoco-benchmark", [], resolved, Asked("train"))


def test_flickr30k_entities(resolved: Resolved, tmp_path: Path) -> None:
    flickr = Catalogued(
        "flickr30k", "Tiny Flickr30k", (Part("val", 1, None, 1), Part("test")), "", "", "", stem="flickr"
    )
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
    (merged,) = prepare_dataset(flickr, str(tmp_path / "flickr"), [], resolved, Asked())
    assert (merged.split, merged.header.protocol) == ("flickr30k-val", "merged")
    assert flickr.load("val", resolved).scenes[0].expressions[0].box == (1, 2, 31, 12)
    (any_box,) = prepare_dataset(flickr, str(tmp_path / "flickr"), [], resolved, Asked(protocol="any-box"))
    assert any_box.header.protocol == "any-box"
    assert any_box.changed
    assert flickr.load("val", resolved).scenes[0].expressions[0].also == ((21, 2, 31, 12),)


def test_names(resolved: Resolved, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="refcoco-val"):
        prepare("refcoco-vall", str(tmp_path), [], resolved, Asked())
    with pytest.raises(UsageError, match="shapes is not prepared"):
        prepare("shapes", str(tmp_path), [], resolved, Asked())


@pytest.fixture
def tiny_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """TINY stands in the catalogue in refcoco's place, so that verify and load find it by name."""
    monkeypatch.setattr(catalog, "refcoco", TINY)


@pytest.mark.usefixtures("tiny_registered")
def test_verify_finds_every_kind_of_damage(resolved: Resolved, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for file in FILES.values():
        (folder / file).write_bytes(jpeg())
    prepare("refcoco", str(refer_files(tmp_path)), [folder], resolved, Asked())
    seen: list[int] = []
    found = verify.verify("refcoco", resolved, threads=2, progress=seen.append)
    assert [(v.split, v.ok, v.pictures_checked) for v in found] == [
        ("refcoco-train", True, 1),
        ("refcoco-val", True, 2),
        ("refcoco-testA", True, 1),
    ]
    assert sum(seen) == 4
    (folder / FILES[1]).unlink()
    (folder / FILES[2]).write_bytes(jpeg((48, 64)))
    (folder / FILES[3]).write_bytes(jpeg()[:-200])
    (val,) = verify.verify("refcoco-val", resolved)
    assert not val.ok
    assert val.missing == (FILES[1],)
    assert len(val.other_size) == 1
    assert "48 x 64" in val.other_size[0]
    (people,) = verify.verify("refcoco-testA", resolved)
    assert (len(people.broken), people.missing) == (1, ())
    assert FILES[3] in people.broken[0]
    assert all(v.ok for v in verify.verify("refcoco", resolved, pictures=False))


@pytest.mark.usefixtures("tiny_registered")
def test_verify_recounts_and_recomputes(resolved: Resolved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare("refcoco", str(lists(tmp_path)), [], resolved, Asked())
    path = index_path(resolved.home, "refcoco", "val")
    stored = read_header(path).fingerprint
    path.write_bytes(path.read_bytes().replace(stored.encode(), b"0" * 64))
    monkeypatch.setattr(catalog, "refcoco", replace(TINY, parts=(Part("val", 9),)))
    (val,) = verify.verify("refcoco-val", resolved, pictures=False)
    assert val.annotations == (
        "expressions: 9 expected, 4 found",
        f"fingerprint: 000000000000 stored, {stored[:12]} found; prepare the data set again",
    )


def test_verify_what_is_not_prepared(resolved: Resolved) -> None:
    with pytest.raises(DataError, match="bench data prepare refcoco"):
        verify.verify("refcoco", resolved)


REAL = [
    ("refcoco-val", "unc_val.pth", Counts(10_834, 3_811, 1_500)),
    ("refcocog-val", "gref_umd_val.pth", Counts(4_896, 2_573, 1_300)),
    ("referit-val", "referit_val.pth", Counts(5_842, 4_866, 1_000)),
    ("flickr30k-val", "flickr_val.pth", Counts(14_433, None, 1_000)),
]


@pytest.mark.skipif(not (SHARED / "data/index").is_dir(), reason="the real index lists are not here")
@pytest.mark.parametrize(("name", "file", "counts"), REAL)
def test_real_index_lists_have_the_published_counts(name: str, file: str, counts: Counts, resolved: Resolved) -> None:
    (done,) = prepare(name, str(SHARED / "data/index" / file), [SHARED / "data/pictures"], resolved, Asked())
    assert done.header.counts == counts
    assert not done.header.partial
    start = time.perf_counter()
    split = load_split(name, resolved)
    seconds = time.perf_counter() - start
    assert split.counts == counts
    assert seconds < 0.5, f"{counts.expressions} expressions took {seconds:.2f} s to load"
    gone = set(split.pictures.missing(split.scenes))
    there = [scene for scene in split.scenes if scene.file not in gone]
    assert all(split.pictures.load(scene).ndim == 3 for scene in there)


@pytest.mark.skipif(not (SHARED / "data/index").is_dir(), reason="the real index lists are not here")
def test_a_real_mix_up_is_recognised(resolved: Resolved) -> None:
    with pytest.raises(DataError, match="these are the counts of refcocog-val"):
        prepare("refcoco-val", str(SHARED / "data/index/gref_umd_val.pth"), [], resolved, Asked())
