"""`bench frames`: which frame boxes are in, by the ground truth; nothing is stored, and torch is not needed."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

SIZES = ((640, 480), (480, 640), (500, 375), (333, 500))


@pytest.fixture
def world(tmp_path):
    """A hundred and twenty expressions on forty images, in thousandths of the images."""
    draw, lines, boxes = np.random.default_rng(0), [], {}
    for n in range(120):
        size = np.array(SIZES[n % 40 % 4])
        (x1, y1), (x2, y2) = corners = np.sort(draw.integers(0, 900, (2, 2)), axis=0) + np.array([[0], [100]])
        at = (corners * size / 1000).ravel().tolist()
        row = {"image": f"p{n % 40}.jpg", "text": "man", "box_xyxy": at, "id": f"e{n}"}
        lines.append(row | dict(zip(("width", "height"), size.tolist(), strict=True)))
        boxes[f"e{n}"] = [int(v) for v in (x1, y1, x2, y2)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "theirs.json").write_text(json.dumps(boxes | {"e0": None}))
    return tmp_path


def frames_of(out):
    result = json.loads(out.splitlines()[-1])
    return result, {each["frame"]: each for each in result["frames"]}


@pytest.mark.slow
def test_another_frame_wins(bench, world):
    code, out, _ = bench("frames", "theirs.json", "-s", "file:mine.jsonl", "--json")
    result, frames = frames_of(out)
    assert (code, result["n"], result["images"], result["declared"]) == (0, 120, 40, "pixels")
    assert result["frames"][0]["frame"] == "0-1000" and frames["0-1000"]["hits"] == 119
    assert frames["0-1000"]["no_box"] == 1  # null
    assert "probably in '0-1000' (99.17 %), not in 'pixels'" in result["warning"]
    assert frames["pixels"]["acc@0.5"] < frames["pixels"]["ci95"][1] < frames["0-1000"]["ci95"][0]
    code, out, _ = bench("frames", "theirs.json", "-s", "file:mine.jsonl")
    assert code == 0 and "A diagnosis, not a score; nothing is stored" in out and "pixels (declared)" in out
    assert "warning: the boxes are probably in '0-1000'" in out and max(map(len, out.splitlines()[:20])) <= 80
    assert not (world / "results").exists()


@pytest.mark.slow
def test_sizes_come_from_the_images_at_hand(bench, world):
    lines = [json.loads(line) for line in (world / "mine.jsonl").read_text().splitlines()]
    sized = {line["image"]: (line.pop("width"), line.pop("height")) for line in lines}
    (world / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = bench("frames", "theirs.json", "-s", "file:mine.jsonl")[1]
    assert "needs image sizes: give rows a width and a height" in out and "0-1000, y first" in out.splitlines()[-1]
    result, frames = frames_of(bench("frames", "theirs.json", "-s", "file:mine.jsonl", "--json")[1])
    assert frames["0-1000"]["hits"] is frames["0-1000"]["ci95"] is None and frames["pixels"]["hits"] is not None
    for name, size in sized.items():
        Image.new("L", size).save(world / name)
    result, frames = frames_of(bench("frames", "theirs.json", "-s", "file:mine.jsonl", "--json")[1])
    assert frames["0-1000"]["hits"] == 119 and result["warning"]


@pytest.mark.slow
def test_the_declared_frame_agrees_with_the_score(bench, world):
    sides = {}
    for n, line in enumerate(map(json.loads, (world / "mine.jsonl").read_text().splitlines())):
        x1, y1, x2, y2 = line["box_xyxy"]
        sides[line["id"]] = [x1, y1, (x2 - x1) * (1 + n % 9) / 9, y2 - y1] if n % 10 else None
    (world / "sides.json").write_text(json.dumps(sides))
    (world / "few.json").write_text(json.dumps(dict([*sides.items()][:30])))
    argv = ("-s", "file:mine.jsonl", "--xywh", "--json")
    result, frames = frames_of(bench("frames", "sides.json", *argv)[1])
    (row,) = json.loads(bench("score", "--predictions", "sides.json", *argv)[1].splitlines()[-1])["rows"]
    for key in ("hits", "acc@0.5", "ci95", "no_box"):
        assert frames[result["declared"]][key] == row[key]
    assert 40 < row["hits"] < 80 and result["warning"] is None and result["frames"][0]["frame"] == "pixels, x y w h"
    assert frames_of(bench("frames", "few.json", *argv)[1])[0]["n"] == 30  # the other expressions have no row
    assert "warning" in bench("frames", "sides.json", "-s", "file:mine.jsonl")[1]


def test_mistakes(bench, world):
    for argv, message in (
        (("none.json", "-s", "file:mine.jsonl"), "none.json"),
        (("theirs.json", "-s", "file:none.jsonl"), "none.jsonl"),
        (("theirs.json",), "--split"),
    ):
        code, out, err = bench("frames", *argv)
        assert (code, out) == (2, "") and message in err and "Traceback" not in err


@pytest.mark.slow
def test_torch_is_not_imported(world):
    argv = ["frames", "theirs.json", "-s", "file:mine.jsonl", "--json"]
    call = f"app({argv}, standalone_mode=False); sys.exit('torch' in sys.modules)"
    code = f"import sys; from bench.cli.main import app; {call}"
    assert subprocess.run([sys.executable, "-c", code], cwd=world, check=False, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("model", "hits"), [("qwen25vl", 1783), ("internvl", 1766), ("dino", 979)])
def test_real_boxes_are_in_pixels(bench, tmp_path, real, model, hits):
    folder = real / "predictions" / "rec_eval"
    split = f"file:{folder / 'refcoco-testA.jsonl'}"
    result, frames = frames_of(bench("frames", str(folder / f"{model}.jsonl"), "-s", split, "--json")[1])
    assert (result["n"], frames["pixels"]["hits"], result["warning"]) == (1975, hits, None)
    result, _ = frames_of(bench("frames", str(folder / f"{model}.jsonl"), "-s", split, "--json", "--xywh")[1])
    assert result["warning"].endswith("leave --xywh out") and result["frames"][0]["frame"] == "pixels"


@pytest.mark.slow
def test_real_thousandths_are_known_as_such(bench, tmp_path, real):
    """481 boxes of photographs that their authors also give in thousandths."""
    rows = json.loads((real / "refcocos" / "refcocos_test.json").read_text())
    lines, boxes = [], {}
    for n, row in enumerate(rows):
        if row["solution"]:
            line = {"image": row["file_name"], "text": row["normal_caption"], "box_xyxy": row["solution"], "id": f"{n}"}
            lines.append(line | {"width": row["width"], "height": row["height"]})
            boxes[f"{n}"] = row["normalized_solution"]
    (tmp_path / "rc.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "rc.json").write_text(json.dumps(boxes))
    result, frames = frames_of(bench("frames", "rc.json", "-s", "file:rc.jsonl", "--json")[1])
    assert result["frames"][0]["frame"] == "0-1000" and frames["0-1000"]["acc@0.5"] == 1
    assert frames["pixels"]["hits"] == 2 and "'0-1000' (100.00 %)" in result["warning"]
    code, _, err = bench("score", "--predictions", "rc.json", "-s", "file:rc.jsonl")
    assert code == 2 and "371 of 481 boxes (77.1 %)" in err and "'0-1000'" in err
