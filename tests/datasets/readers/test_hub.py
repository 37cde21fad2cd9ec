"""Hub mirrors: parquet files written on the spot in the layouts of the mirrors' own cards; no network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.datasets.catalog import MIRRORS
from bench.datasets.readers import hub_rows
from bench.datasets.readers.hub import download, refuse_mixed
from bench.datasets.readers.hub_rows import read_hub
from bench.errors import DataError, MissingPackage, UnknownName, UsageError

polars = pytest.importorskip("polars")


def item(n, image, sentences, split="val"):
    numbered = [{"raw": s.upper(), "sent": s, "sent_id": 10 * n + k} for k, s in enumerate(sentences)]
    ann_info = {"bbox": [10.5, 20.25, 100.0, 50.5], "id": 100 + n, "segmentation": [[1.0, 2.0, 3.0, 4.0]]}
    file = f"COCO_train2014_{image:012d}_{100 + n}.jpg"
    ref_info = {"ann_id": 100 + n, "file_name": file, "image_id": image, "ref_id": n, "sentences": numbered}
    return {"ann_info": ann_info, "ref_info": ref_info | {"split": split}}


def row(image: int, *items: dict):
    return {
        "ref_list": list(items),
        "image_info": {"file_name": f"COCO_train2014_{image:012d}.jpg", "height": 480, "id": image, "width": 640},
        "image": {"bytes": b"JPEG %d" % image, "path": None},
    }


def parquet(folder, *rows, name="refcoco_unc_val-00000-of-00001-ab.parquet"):
    polars.DataFrame(list(rows)).write_parquet(folder / name)
    return folder / name


def read(file, *args, **more):
    return list(read_hub(file if isinstance(file, list) else [file], *args, **more))


TWO = [row(7, item(1, 7, ["man on right", "tall man"]), item(4, 7, ["child"])), row(9, item(3, 9, ["left cup"]))]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("at_once", [1, 64])
def test_scenes_come_with_their_images(tmp_path, monkeypatch, as_json, at_once):
    monkeypatch.setattr(hub_rows, "ROWS_AT_ONCE", at_once)
    rows = TWO
    if as_json:
        texts = [[{key: json.dumps(value) for key, value in i.items()} for i in r["ref_list"]] for r in TWO]
        rows = [
            {**r, "image_info": json.dumps(r["image_info"]), "ref_list": t} for r, t in zip(TWO, texts, strict=True)
        ]
    (first, bytes_1), (second, bytes_2) = read(parquet(tmp_path, *rows), "refcoco_unc_val")
    assert (first.id, first.file, first.width, first.height) == ("7", "COCO_train2014_000000000007.jpg", 640, 480)
    assert [(e.id, e.text, e.ref_id) for e in first.expressions] == [
        ("10", "man on right", "1"), ("11", "tall man", "1"), ("40", "child", "4"),
    ]  # fmt: skip
    assert first.expressions[0].box == (10.5, 20.25, 110.5, 70.75)
    assert (bytes_1, bytes_2, second.id) == (b"JPEG 7", b"JPEG 9", "9")


def test_the_text_as_typed_and_a_filter(tmp_path):
    file = parquet(tmp_path, *TWO)
    assert read(file, "val", text="raw")[0][0].expressions[0].text == "MAN ON RIGHT"
    for keep in ({"4"}, {"104"}):  # ref id, annotation id
        ((scene, _),) = read(file, "val", keep=keep)
        assert [e.text for e in scene.expressions] == ["child"]
    with pytest.raises(DataError, match="holds no expressions"):
        read(file, "val", keep={"x"})


def test_refclef_with_string_ids_and_masks(tmp_path):
    counts = [1 * 6 + 2, 3, 3, 3, 3, 3, 4 * 6 + 1]
    ref = item(1, 30, ["sky"], split="testAB")
    del ref["ref_info"]["file_name"]
    ref["ref_info"]["ann_id"] = "30_1"
    ref["ann_info"] = {"id": "30_1", "bbox": None, "segmentation": [{"counts": counts, "size": [6, 8]}]}
    record = {**row(30, ref), "image_info": {"file_name": "30.jpg", "height": 6, "id": 30, "width": 8}}
    for part in ("refclef_unc_testA", "refclef_unc_testB", "test"):
        ((scene, _),) = read(parquet(tmp_path, record), part)
        assert (scene.id, scene.file, scene.expressions[0].box) == ("30", "30.jpg", (1, 2, 4, 5))
    with pytest.raises(DataError, match="ref 1: it belongs to part 'testAB', not 'refclef_unc_testC'"):
        read(parquet(tmp_path, record), "refclef_unc_testC")


OBJECTS = [
    {"question_id": "11", "image": {"bytes": b"seven"}, "answer": ["man", "tall man"], "bbox": [1.0, 2.0, 3.0, 4.0],
     "file_name": "COCO_train2014_000000000007_11.jpg"},
    {"question_id": "12", "image": {"bytes": b"nine"}, "answer": ["cup"], "bbox": [1.0, 2.0, 3.0, 4.0],
     "file_name": "COCO_train2014_000000000009_12.jpg"},
    {"question_id": "13", "image": {"bytes": b"seven"}, "answer": ["child"], "bbox": [5.0, 6.0, 3.0, 4.0],
     "file_name": "COCO_train2014_000000000007_13.jpg"},
]  # fmt: skip


def test_one_row_an_object_is_gathered_per_image(tmp_path):
    (first, seven), (second, _) = read(parquet(tmp_path, *OBJECTS), "val")
    assert (first.file, seven, second.id) == ("COCO_train2014_000000000007.jpg", b"seven", "9")
    assert [(e.id, e.text, e.box, e.ref_id) for e in first.expressions] == [
        ("11#0", "man", (1, 2, 4, 6), "11"), ("11#1", "tall man", (1, 2, 4, 6), "11"),
        ("13#0", "child", (5, 6, 8, 10), "13"),
    ]  # fmt: skip
    ((only, _),) = read(parquet(tmp_path, *OBJECTS), "val", keep={"13"})
    assert [e.text for e in only.expressions] == ["child"]


def broken(change):
    record = json.loads(json.dumps({**TWO[0], "image": None}))
    record["image"] = {"bytes": b"x", "path": None}
    change(record)
    return record


@pytest.mark.parametrize("change, message", [
    (lambda r: r["ref_list"][0]["ann_info"].update(bbox=[1.0, 2.0, 0.0, 4.0]), "ref 1, annotation 101: .*width 0"),
    (lambda r: r["ref_list"][1]["ref_info"].update(split="train"), "row 0, ref 4: it belongs to part 'train'"),
    (lambda r: r["ref_list"][1]["ref_info"]["sentences"][0].update(sent_id=10), "two expressions have the id '10'"),
    (lambda r: r.update(image={"bytes": None, "path": "x.jpg"}), "row 0: its image has no bytes"),
    (lambda r: r.update(ref_list="{"), "row 0: not JSON in UTF-8"),
    (lambda r: r.update(ref_list="5"), "row 0: expected a list"),
    (lambda r: r.update(image_info="[]"), "row 0: expected a struct"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        read(parquet(tmp_path, broken(change)), "val")


def test_files_that_are_no_mirror(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"row 1: image .* is there twice"):
        read(parquet(tmp_path, TWO[0], TWO[0]), "val")
    with pytest.raises(DataError, match="its columns are a; expected image and ref_list"):
        read(parquet(tmp_path, {"a": 1}), "val")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read(tmp_path / "x.parquet", "val")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "absent.parquet", "val")
    with pytest.raises(DataError, match="no parquet files"):
        read([], "val")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingPackage, match=r"pip install.*\[hub\]"):
        read(tmp_path / "x.parquet", "val")


@pytest.mark.parametrize("owner", ["lmms-lab", "lmms-lab-encoder"])
@pytest.mark.parametrize(
    "name, part, reason",
    [("RefCOCO", "val", "3,811 of UNC val and the 5,000"), ("RefCOCO", "test", "Google"), ("RefCOCOg", "val", "2,573")],
)
def test_a_part_that_mixes_protocols_is_refused(tmp_path, owner, name, part, reason):
    with pytest.raises(DataError, match=f"{owner}/{name}, part {part}: .*{reason}"):
        download(f"{owner}/{name}", "0" * 40, part, tmp_path, offline=True)
    for repo, other, keep in ((owner, part, {"11"}), (owner, "testA", None), ("x", part, None)):
        refuse_mixed(f"{repo}/{name}", other, keep)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one folder; the calls it gets are kept."""
    import huggingface_hub

    calls: list[dict] = []
    data = tmp_path / "snapshot/data"
    data.mkdir(parents=True)

    def snapshot_download(repo, **more):
        calls.append({"repo": repo, **more})
        if more["local_files_only"] and not list(data.iterdir()):
            raise FileNotFoundError("not in the cache\nmore")
        return str(data.parent)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return data, calls


def test_download_is_pinned_and_takes_one_part(tmp_path, hub):
    data, calls = hub
    for name in ("refcoco_unc_val-00000-of-00001-ab.parquet", "refcoco_unc_testA-00000-of-00001-cd.parquet"):
        (data / name).write_bytes(b"")
    mirror = MIRRORS["refcoco"]
    files = download(mirror.repo, None, "refcoco_unc_val", tmp_path, offline=False)
    assert [f.name for f in files] == ["refcoco_unc_val-00000-of-00001-ab.parquet"]
    assert calls[0]["revision"] == mirror.revision and calls[0]["repo_type"] == "dataset"
    assert calls[0]["allow_patterns"] == ["data/refcoco_unc_val-*.parquet"]
    assert Path(calls[0]["cache_dir"]).is_relative_to(tmp_path)
    download(mirror.repo, "a" * 40, "refcoco_unc_val", tmp_path, offline=True)
    assert (calls[1]["revision"], calls[1]["local_files_only"]) == ("a" * 40, True)


@pytest.mark.parametrize(("repo", "revision", "part", "offline", "error", "message"), [
    ("refcoco", "main", "refcoco_unc_val", False, UsageError, r"may change under a result.*--revision.*/commits"),
    ("refcoco", "fd0fa8d", "refcoco_unc_val", False, UsageError, "a short commit id"),
    ("refclef", None, "refclef_berkeley_val", False, UsageError, "no commit is known"),
    ("refcoco", None, "refcoco_unc_vall", False, UnknownName, "did you mean 'refcoco_unc_val'"),
    ("refcoco", None, "refcoco_unc_testB", True, DataError, "not in the cache, and offline is set"),
    ("refcoco", None, "refcoco_unc_testB", False, DataError, "0 of its parquet files"),
    ("refclef", "b" * 40, "refclef_berkeley_test", False, DataError, "1 of 2 parquet files"),
])  # fmt: skip
def test_downloads_that_fail(tmp_path, hub, repo, revision, part, offline, error, message):
    if not offline:
        (hub[0] / "refclef_berkeley_test-00000-of-00002-b8.parquet").write_bytes(b"")
    with pytest.raises(error, match=message):
        download(f"jxu124/{repo}-benchmark", revision, part, tmp_path, offline)
    assert not hub[1] or error is DataError
