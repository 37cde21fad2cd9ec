"""`bench score --train-images`: a stored run on the images of a list and on the others."""

import json
from pathlib import Path

import pytest

ROWS = [{"id": f"{n}", "image": f"{n}.jpg", "text": "it", "width": 9, "height": 9, "box_xyxy": [0, 0, 8, 8]}
        for n in range(6)]  # fmt: skip
WORDS = ("score", "--predictions", "boxes.json", "-s", "file:own.jsonl")


@pytest.fixture
def own(bench):
    """Six images with one expression each, of which the first three have a right box."""
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("boxes.json").write_text(json.dumps({f"{n}": [0, 0, 8, 8] if n < 3 else [0, 0, 1, 1] for n in range(6)}))
    Path("ids.txt").write_text("0\n1\n000000000002\n77\n")
    Path("none.json").write_text("[77]")
    return bench


def test_a_stored_run_on_the_images_of_a_list_and_on_the_others(own):
    code, out, err = own(*WORDS, "--train-images", "coco=ids.txt", "--train-images", "none.json", "--json")
    assert code == 0, err
    (row,) = json.loads(out.splitlines()[-1])["rows"]
    coco = row["train_images"]["coco"]
    assert (coco["inside"]["n"], coco["inside"]["hits"], coco["outside"]["n"], coco["outside"]["hits"]) == (3, 3, 3, 0)
    assert coco["difference"] == 1 and coco["ci95"][0] < 1 and row["train_images"]["none"]["difference"] is None
    code, out, _ = own("score", row["run_dir"], "--train-images", "coco=ids.txt", "--train-images", "none.json")
    assert code == 0 and "coco: 4 images are in the list" in out and "difference +100.00 points" in out
    assert "on them: no image of the split is in the list; are these ids of its images?" in out
    code, out, err = own("score", row["run_dir"], "--train-images", "ids.json")
    assert (code, out) == (2, "") and "ids.json: there is no such file" in err


@pytest.mark.real
@pytest.mark.slow
def test_images_of_one_real_split_in_another(bench, real, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    Path("bench.toml").write_text("[evaluation]\ndraws = 1000\n")
    for split, file in (("refcoco-val", "unc_val"), ("refcocog-val", "gref_umd_val"), ("refcoco+-val", "unc+_val")):
        assert bench("data", "prepare", split, "--annotations", real / "index" / f"{file}.pth")[0] == 0
    boxes = real / "predictions" / "lbyl_bert_unc_val.json"
    lists = ("--train-images", "refcocog-val", "--train-images", "plus=refcoco+-val")
    code, out, err = bench("score", "--predictions", boxes, "-s", "refcoco-val", *lists, "--json")
    assert code == 0, err
    made = json.loads(out.splitlines()[-1])["rows"][0]["train_images"]
    counts = {name: [each[part][key] for part in ("inside", "outside") for key in ("images", "n", "hits")]
              for name, each in made.items()}  # fmt: skip
    assert counts == {"refcocog-val": [62, 419, 336, 1_438, 10_415, 8_298], "plus": [1_500, 10_834, 8_634, 0, 0, 0]}
    assert round(100 * made["refcocog-val"]["difference"], 2) == 0.52 and round(made["refcocog-val"]["p"], 2) == 0.91
