"""`bench data`, driven from the command line on a data set of a few expressions."""

import io
import json
import zipfile

import pytest
from PIL import Image

from bench.datasets import catalog
from bench.datasets.catalog import Catalogued
from bench.datasets.split import Part
from bench.doctor.machine import split_states
from bench.settings import load_settings

PARTS = (Part("val", 2, None, 2), Part("testA", 1))
TINY = Catalogued("refcoco", "Tiny", PARTS, "no terms", "there", "there", stem="unc")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Write a JSONL of the tiny refcoco-val; the catalogue has it in the real one's place."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(catalog, "refcoco", TINY)
    rows = [
        {"image": f"{n:012}.jpg", "text": f"[bold]thing {n}", "box_xyxy": [0, 0, 5, 5], "width": 8, "height": 6}
        for n in (1, 2)
    ]
    path = tmp_path / "val.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def images(path, size=(8, 6)):
    out = io.BytesIO()
    Image.new("RGB", size).save(out, "JPEG")
    with zipfile.ZipFile(path, "w") as archive:
        for n in (1, 2):
            archive.writestr(f"train2014/COCO_train2014_{n:012}.jpg", out.getvalue())
    return path


PREPARE = ("data", "prepare", "refcoco-val", "--annotations", "val.jsonl")


def splits(bench, *words, code=0):
    left, out, err = bench("data", *words, "--json")
    assert left == code and out.count("\n") == 1, err
    return json.loads(out)["splits"]


def test_own_data_of_none_and_several_is_counted(bench, tmp_path):
    rows = [{"image": "a.jpg", "text": str(n), "boxes_xyxy": boxes} for n, boxes in enumerate(([], [[0, 0, 5, 5]] * 2))]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    (split,) = splits(bench, "verify", f"file:{tmp_path / 'mine.jsonl'}")
    assert (split["ok"], split["none"], split["several"]) == (True, 1, 1)
    content = {
        "images": [{"id": 3, "file_name": "a.jpg", "width": 8, "height": 6, "caption": "no one"}],
        "annotations": [{"image_id": 3, "category_id": -1, "bbox": [0, 0, 0, 0], "empty": True}],
    }
    (tmp_path / "mine.json").write_text(json.dumps(content))
    code, out, _ = bench("data", "verify", f"file:{tmp_path / 'mine.json'}")
    assert code == 0 and "1 of them refer to nothing, 0 to several boxes" in out


def test_prepare_verify_list(bench, tiny, tmp_path):
    code, out, _ = bench(*PREPARE, "--images", images(tmp_path / "p.zip"))
    assert code == 0 and "2 expressions" in out
    code, out, _ = bench("data", "verify", "refcoco", "--threads", 2)
    assert code == 0 and "ok" in out
    code, out, _ = bench("data", "list")
    assert code == 0 and "ready" in out and "no terms" in out
    assert "bench data prepare refcoco --annotations PATH" in out  # testA is still missing
    assert "bench data prepare flickr30k" in out
    tiny.write_text(tiny.read_text().replace("thing 2", "other"))
    out = bench(*PREPARE)[1]
    assert "differs from before" in out and "'[bold]other'" in out


def test_json_is_one_object_on_stdout(bench, tiny, tmp_path):
    (row,) = splits(bench, *PREPARE[1:])
    assert (row["split"], row["expressions"], row["refs"], row["images"]) == ("refcoco-val", 2, None, 2)
    assert (row["partial"], row["format"], row["missing_images"]) == (False, "jsonl", None)
    val = next(each for each in splits(bench, "list") if each["split"] == "refcoco-val")
    assert (val["ready"], val["fingerprint"], val["images_at"]) == (True, row["fingerprint"], [])
    home = json.loads(bench("data", "list", "--json")[1])["home"]
    assert val["terms"] == "no terms" and home == str(tmp_path / "home")
    (row,) = splits(bench, "prepare", "refcoco", "--images", images(tmp_path / "p.zip"))
    assert row["missing_images"] == 0
    (row,) = splits(bench, "verify", "refcoco-val")
    assert row["ok"] and row["images_checked"] == 2


def states(bench):
    standings = splits(bench, "list")
    text = bench("data", "list")[1]
    val = next(each for each in standings if each["split"] == "refcoco-val")
    line = next(line for line in text.splitlines() if line.startswith("refcoco-val"))
    doctor = next(row for row in split_states(load_settings()) if row["dataset"] == "refcoco")
    return val["missing"], " ".join(line.split()[3:5]), doctor["ready"], doctor["partly"]


def test_a_folder_without_any_of_the_images_is_refused_and_nothing_is_stored(bench, tiny, tmp_path):
    (tmp_path / "wrong").mkdir()
    code, _, err = bench(*PREPARE, "--images", tmp_path / "wrong")
    assert code == 2 and "none of the 2 images of refcoco-val" in err and "nothing was stored" in err
    assert "000000000001" in err and not (tmp_path / "home").exists()

    bench(*PREPARE)  # annotations alone are scored
    assert states(bench) == (0, "annotations only", [], {"val": "annotations only"})
    assert bench("data", "prepare", "refcoco", "--images", tmp_path / "wrong")[0] == 2
    assert states(bench)[1] == "annotations only"
    bench("data", "prepare", "refcoco", "--images", images(tmp_path / "p.zip"))
    before = states(bench)
    assert before[2:] == (["val"], {}) and before[1].startswith("ready")
    assert bench("data", "prepare", "refcoco-val", "--images", tmp_path / "wrong")[0] == 2
    assert states(bench) == before  # the earlier state is kept


def test_some_missing_images_are_counted_and_named(bench, tiny, tmp_path):
    with zipfile.ZipFile(images(tmp_path / "p.zip")) as archive:
        archive.extract("train2014/COCO_train2014_000000000001.jpg", tmp_path / "some")
    code, out, _ = bench(*PREPARE, "--images", tmp_path / "some")
    assert code == 0 and "1 of 2 images are not there" in out and "missing: 000000000002.jpg" in out
    assert states(bench) == (1, "1 images", [], {"val": "1 images missing"})


@pytest.mark.slow
def test_verify_exits_with_one(bench, tiny, tmp_path):
    archive = images(tmp_path / "p.zip", (6, 8))
    bench(*PREPARE, "--images", archive)
    code, out, _ = bench("data", "verify", "refcoco-val")
    assert code == 1 and "6 x 8" in out
    (row,) = splits(bench, "verify", "refcoco-val", code=1)
    assert not row["ok"] and len(row["other_size"]) == 2
    assert bench("data", "verify", "refcoco-val", "--annotations-only")[0] == 0
    archive.unlink()
    assert splits(bench, "verify", "refcoco-val", code=1)[0]["missing"] == ["000000000001.jpg", "000000000002.jpg"]


@pytest.mark.slow
def test_mistakes_and_a_subset(bench, tiny):
    tiny.write_text(tiny.read_text().splitlines()[0] + "\n")
    for words, message in (
        (("--protocol", "all"), "--protocol all"),
        (("--annotation-ids", "gone"), "gone"),
        ((), "2 expected, 1 counted"),
    ):
        code, _, err = bench(*PREPARE, *words)
        assert code == 2 and message in err
    assert bench("data", "prepare", "refcoco")[0] == 2
    assert splits(bench, *PREPARE[1:], "--subset")[0]["partial"] and "a part of it" in bench("data", "list")[1]
